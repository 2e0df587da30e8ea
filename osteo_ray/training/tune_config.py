"""Typed config of `osteo-ray tune`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from osteo_ray.config import Section
from osteo_ray.training.search_space import SearchConfig, Space

Target = Literal["teachers", "student", "selection"]
SEARCHES: dict[str, tuple[str, ...]] = {
    "teachers": ("tabular", "image"),
    "student": ("student",),
    "selection": ("selection",),
}
"""The searches of each target: the teachers share no setting, so each is searched by itself."""


class TuneConfig(Section):
    """What is searched, how a trial is judged, and how long it goes on."""

    metric: Literal["log_likelihood", "auc"] = Field(
        "log_likelihood",
        description="of teachers and student on held-back patients. log_likelihood: of the class, a student's as the "
        "mean over CT, records and both; auc: osteoporosis against normal, a student's with both",
    )
    selection_metric: Literal["return", "auc"] = Field(
        "return", description="of a policy on validation scans; the return is by the config's own reward and scorers"
    )
    splits: int | None = Field(
        None,
        ge=0,
        description="times that training and validation patients are split anew in a trial, which is judged by the "
        "mean; 0: the run's own split. null: 3, or 0 where the encoder learned from the patients' labels",
    )
    confirm: int = Field(4, ge=0, description="fresh splits on which best and defaults are compared; 0: none")
    report_every: int = Field(5, ge=1, description="epochs between a fit's reports")
    search: SearchConfig = SearchConfig()
    selection_search: SearchConfig = SearchConfig(trials=8, grace=30, startup=4)
    tabular: Space = Field({}, description="settings of the tabular teacher")
    image: Space = Field({}, description="settings of the image teacher")
    student: Space = Field({}, description="settings of the student and its distillation")
    selection: Space = Field({}, description="settings of the selection policy and its reward")
