"""How one hospital's table maps onto the schema: a short YAML.

    patient_id: MRN                 # column with the patient's id
    date: drawn_on                  # column with the record's date (optional)
    t_score: dxa_t                  # optional
    dxa_date: dxa_on                # optional: when the T-score was measured; without it, it is of no known date
    treatment: {column: bone_drug, codes: {y: 1, n: 0}}    # optional: a drug against osteoporosis, as of `date`
    features:
      sex_male: {column: gender, codes: {m: 1, f: 0}}
      creatinine_umol_l: {column: CREA, unit: mg/dL}
      alp_u_l: {column: ALP, unit_column: ALP_unit}
    missing: ["", "NA", "n/a"]

Shipped mappings are named: `load_mapping("default")`, `load_mapping("nhanes")`.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from osteo_ray.config import ConfigError, Section, load
from osteo_ray.patients.schema import NAMES


class Column(Section):
    """Where one feature is found: a column, and its unit or the codes of its values."""

    column: str
    unit: str | None = None  # UCUM; None: the schema's own unit
    unit_column: str | None = None  # a column that holds each row's unit
    codes: dict[str, float | None] | None = None  # value text -> number; null means missing

    @model_validator(mode="after")
    def _one_unit(self) -> Column:
        if sum(x is not None for x in (self.unit, self.unit_column, self.codes)) > 1:
            raise ValueError("give one of unit, unit_column and codes")
        return self


class Mapping(Section):
    """One table's mapping. `derive` names columns to compute (`nhanes`: T-scores from bone densities)."""

    patient_id: str
    date: str | None = None
    t_score: str | None = None
    dxa_date: str | None = None
    treatment: Column | None = None
    features: dict[str, Column] = Field(min_length=1)
    keep: tuple[str, ...] = ()  # columns carried along as they are (a site, a survey cycle)
    missing: tuple[str, ...] = ("", "NA", "N/A", "nan", "null", "None")
    optional: bool = False  # columns that the table lacks (but the patient's id) are all-missing instead of an error
    derive: Literal["nhanes"] | None = None

    @field_validator("treatment")
    @classmethod
    def _codes(cls, v: Column | None) -> Column | None:
        if v is not None and (v.codes is None or set(v.codes.values()) - {0, 1, None}):
            raise ValueError("treatment: give codes, each 1 (treated), 0 (not) or null (not known)")
        return v

    @field_validator("features")
    @classmethod
    def _known(cls, v: dict[str, Column]) -> dict[str, Column]:
        bad = sorted(set(v) - set(NAMES))
        if bad:
            raise ValueError(f"unknown feature {bad[0]!r}; there are: {', '.join(NAMES)}")
        return v


def shipped() -> list[str]:
    """Names of the mappings that come with the package."""
    folder = resources.files("osteo_ray.patients") / "mappings"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_mapping(mapping: str | Path | Mapping | None) -> Mapping:
    """A mapping by shipped name, by path to its YAML, or as it is; None is the shipped `default`.

    Raises:
        ConfigError: no such mapping, or a bad key in it.
    """
    if isinstance(mapping, Mapping):
        return mapping
    name = "default" if mapping is None else str(mapping)
    if name in shipped():
        with resources.as_file(resources.files("osteo_ray.patients") / "mappings" / f"{name}.yaml") as path:
            return load(Mapping, path)
    if not Path(name).is_file():
        raise ConfigError(f"mapping {name!r}: neither a file nor a shipped mapping ({', '.join(shipped())})")
    return load(Mapping, name)
