"""Published trabecular HU by age and sex, from `reference_hu.yaml`: figures and their sources, none of our own.

band(67.0, "F")        # Band(mean=145.6, sd=38.8, ...), on the line between two published means
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import yaml


@dataclass(frozen=True)
class Band:
    """Mean and SD of L1 at 120 kVp, HU, of one sex at an age."""

    mean: float
    sd: float
    sex: str  # F | M
    first_y: int  # ages of the published row, or of the row from which the line starts
    last_y: int | None  # None: and older
    line_to_y: int | None  # first age of the published row at which the line ends; None: a published row
    source: str

    @property
    def low(self) -> float:
        return self.mean - self.sd

    @property
    def high(self) -> float:
        return self.mean + self.sd


@dataclass(frozen=True)
class CutOffs:
    """HU of L1 at and below which osteoporosis was found."""

    sensitive: float
    specific: float
    source: str


@cache
def _data() -> dict[str, Any]:
    return yaml.safe_load(files("osteo_ray.evaluation").joinpath("reference_hu.yaml").read_text(encoding="utf-8"))


def short_source(part: str) -> str:
    """How a part's source is called on a page: `table`, `oldest`, `cut_offs`, `levels`, `population`."""
    data = _data()
    return data["sources"][data[part]["source"]]["short"]


def band(age_y: float | None, sex: str | None) -> Band | None:
    """The published band of an age and sex; None where either is not known, or for minors."""
    data = _data()
    rows = data["table"].get({"F": "women", "M": "men"}.get(sex or "", ""))
    if age_y is None or rows is None or age_y < rows[0]["from"]:
        return None
    age, oldest = int(age_y), data["oldest"]
    if age >= oldest["from"]:
        return Band(oldest["mean"], oldest["sd"], str(sex), oldest["from"], None, None, short_source("oldest"))
    for row in rows:
        if age <= row["to"]:
            return Band(row["mean"], row["sd"], str(sex), row["from"], row["to"], None, short_source("table"))
    last = rows[-1]
    start = (last["from"] + last["to"]) / 2
    share = (age - start) / (oldest["from"] - start)
    mean, sd = (last[k] + share * (oldest[k] - last[k]) for k in ("mean", "sd"))
    return Band(mean, sd, str(sex), last["from"], last["to"], oldest["from"], short_source("oldest"))


def cut_offs() -> CutOffs:
    """The published cut-offs for L1."""
    c = _data()["cut_offs"]
    return CutOffs(c["sensitive"], c["specific"], short_source("cut_offs"))


def level_difference() -> float:
    """HU by which other lumbar levels differ from L1 at most."""
    return _data()["levels"]["largest_difference"]


def population_difference() -> tuple[float, float]:
    """HU by which another population lay lower, from and to."""
    low, high = _data()["population"]["lower_by"]
    return low, high
