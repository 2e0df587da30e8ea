"""What a search may try, and how long (typed config; Optuna's distributions)."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from osteo_ray.config import Section

Params = dict[str, Any]
"""Settings by dotted config key."""


class Range(Section):
    """Numbers between low and high, both included."""

    kind: Literal["uniform", "loguniform", "int"]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high or (self.kind == "loguniform" and self.low <= 0):
            raise ValueError("low has to be less than high, and above 0 for loguniform")
        if self.kind == "int" and (self.low % 1 or self.high % 1):
            raise ValueError("an int range has whole numbers at its ends")
        return self

    def ends(self) -> tuple[Any, ...]:
        """Values that stand for the range when it is checked."""
        return (int(self.low), int(self.high)) if self.kind == "int" else (self.low, self.high)

    def holds(self, value: Any) -> bool:
        """Whether a value lies in the range."""
        return isinstance(value, int | float) and self.low <= value <= self.high

    def distribution(self) -> Any:
        """As Optuna's."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.kind == "int":
            return IntDistribution(int(self.low), int(self.high))
        return FloatDistribution(self.low, self.high, log=self.kind == "loguniform")


class Choice(Section):
    """One of a few values."""

    kind: Literal["choice"]
    values: tuple[bool | int | float | str | None, ...] = Field(min_length=2)

    def ends(self) -> tuple[Any, ...]:
        """Values that stand for the choice when it is checked."""
        return self.values

    def holds(self, value: Any) -> bool:
        """Whether a value is among them."""
        return value in self.values

    def distribution(self) -> Any:
        """As Optuna's."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(self.values)


Space = dict[str, Annotated[Range | Choice, Field(discriminator="kind")]]
"""Dotted config key -> what it may be."""


class SearchConfig(Section):
    """How many trials, and when a bad one is stopped (ASHA)."""

    trials: int = Field(24, ge=1, description="the first has the config's own values")
    concurrent: int | None = Field(None, ge=1, description="trials at once; null: one a core")
    grace: int = Field(15, ge=1, le=100, description="percent of a trial's work before it may be stopped")
    reduction: float = Field(3.0, gt=1, description="of the trials that reach a rung, one in so many goes on")
    startup: int = Field(8, ge=1, description="random trials before Optuna's model (TPE) proposes")
    seed: int = Field(0, description="of the search's draws")
    trial_cpus: float = Field(1.0, gt=0, description="CPUs of a trial")
    trial_gpus: float = Field(0.0, ge=0, description="GPUs of a trial; 0: none")
    retries: int = Field(
        1, ge=0, description="times that a trial is begun again after its process was lost, or it ended with an error"
    )
