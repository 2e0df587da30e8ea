"""What a run's patients look like, in few numbers: how they were scanned, what was measured, scored and missing.

    Distributions.of(frame)               # one row a patient; see QUANTITIES
    Distributions.from_dict(json)         # from a bundle, or an earlier run's drift.json

Kept are quantiles and counts, never anybody's values: a category of fewer than `LEAST` patients is one of "other", and
quantiles are spaced so that at least `LEAST` patients lie between two.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd

SCORED = "scored"
"""Stands in `abstained` where a patient is scored."""
LEAST = 5
"""Fewest patients behind a count or between two quantiles."""
GRID = 101
"""Most quantiles kept of a number."""
OTHER = "other"


@dataclass(frozen=True)
class Quantity:
    """One thing that may drift."""

    name: str  # column of the frame
    words: str
    unit: str  # "" for categories
    least: float  # smallest move worth telling: in the unit; for categories the population stability index


QUANTITIES = (
    Quantity("hu_120", "trabecular HU at 120 kVp, unenhanced", "HU", 6.0),
    Quantity("hu_120_contrast", "trabecular HU at 120 kVp, with contrast agent", "HU", 8.0),
    Quantity("age_y", "age", "years", 2.0),
    Quantity("slice_thickness_mm", "slice thickness", "mm", 0.3),
    Quantity("labs_known", "share of labs that are known", "", 0.05),
    Quantity("kvp", "tube voltage", "", 0.1),
    Quantity("convolution_kernel", "kernel", "", 0.1),
    Quantity("manufacturer", "manufacturer", "", 0.1),
    Quantity("contrast", "contrast agent", "", 0.1),
    Quantity("sex", "sex", "", 0.1),
    Quantity("pattern", "what is known of patients (missingness)", "", 0.1),
    Quantity("abstained", "abstentions by cause", "", 0.1),
)
NUMBERS = tuple(q.name for q in QUANTITIES[:5])
SCORE = Quantity("score", "score", "log-odds", 0.25)
"""By pattern: `score demographics+ct`."""


@dataclass(frozen=True)
class Numbers:
    """A number's distribution: n patients, evenly spaced quantiles from the least to the greatest."""

    n: int
    quantiles: tuple[float, ...]

    @classmethod
    def of(cls, values: np.ndarray) -> Numbers:
        """Of finite values; the ends are means of the LEAST outermost, nobody's own."""
        v = np.sort(values)
        k = int(np.clip(len(v) // LEAST, 2, GRID))
        q = np.quantile(v, np.linspace(0, 1, k))
        q[0], q[-1] = v[:LEAST].mean(), v[-LEAST:].mean()
        return cls(len(v), tuple(float(x) for x in np.maximum.accumulate(q)))

    def at(self, u: np.ndarray) -> np.ndarray:
        """Values at ranks u in [0, 1]."""
        return np.interp(u, np.linspace(0, 1, len(self.quantiles)), self.quantiles)

    def cdf(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Share below x, and at or below x: they differ where the quantiles stand still."""
        q, u = np.array(self.quantiles), np.linspace(0, 1, len(self.quantiles))
        low, high = np.searchsorted(q, x, "left"), np.searchsorted(q, x, "right")
        smooth = np.interp(x, q, u)
        flat = high - low > 1
        below = np.where(flat, u[np.minimum(low, len(u) - 1)], smooth)
        upto = np.where(flat, u[np.maximum(high - 1, 0)], smooth)
        return below, upto


@dataclass(frozen=True)
class Distributions:
    """Of a set of patients."""

    patients: int
    numbers: dict[str, Numbers]
    categories: dict[str, dict[str, int]]

    @classmethod
    def of(cls, frame: pd.DataFrame) -> Distributions:
        """Of a frame with some of `QUANTITIES`' columns and `score`; what is not known is left out of each.

        A column of which nothing, or too little, is known is not held.
        """
        numbers: dict[str, Numbers] = {}
        categories: dict[str, dict[str, int]] = {}
        for name in NUMBERS:
            if name in frame:
                _number(numbers, name, frame[name])
        if "score" in frame and "pattern" in frame:
            for pattern, rows in frame.groupby("pattern"):
                _number(numbers, f"score {pattern}", rows["score"])
        for q in QUANTITIES[len(NUMBERS) :]:
            if q.name in frame and (counts := _counts(frame[q.name])):
                categories[q.name] = counts
        return cls(len(frame), numbers, categories)

    def to_dict(self) -> dict:
        """Plain data for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, d: dict) -> Distributions:
        """Inverse of `to_dict`."""
        return cls(
            d["patients"],
            {k: Numbers(v["n"], tuple(v["quantiles"])) for k, v in d["numbers"].items()},
            {k: dict(v) for k, v in d["categories"].items()},
        )


def quantities(
    hu_120: np.ndarray,
    given: np.ndarray,
    kvp: np.ndarray,
    abstained: np.ndarray,
    scored: np.ndarray,
    **columns: object,
) -> pd.DataFrame:
    """The frame that `Distributions.of` reads; but for `abstained`, of scored patients alone.

    Args:
        given: 1 with contrast agent, 0 without, NaN not known.
    """
    frame = pd.DataFrame(
        {
            **columns,
            "hu_120": np.where(given == 0, hu_120, np.nan),
            "hu_120_contrast": np.where(given == 1, hu_120, np.nan),
            "kvp": [f"{v:.0f} kVp" if np.isfinite(v) else None for v in kvp],
            "contrast": pd.Series(given).map({0.0: "none", 1.0: "given"}).to_numpy(object),
        }
    )
    frame[~scored] = None
    frame["abstained"] = abstained
    return frame


def _number(into: dict[str, Numbers], name: str, column: pd.Series) -> None:
    values = column.to_numpy(float)
    values = values[np.isfinite(values)]
    if len(values) >= 4 * LEAST:
        into[name] = Numbers.of(values)


def _counts(column: pd.Series) -> dict[str, int]:
    counts = column.dropna().astype(str).value_counts()
    if counts.sum() < 4 * LEAST:
        return {}
    kept = counts[counts >= LEAST].sort_index()
    rest = int(counts[counts < LEAST].sum())
    return {str(k): int(v) for k, v in kept.items()} | ({OTHER: rest} if rest else {})
