"""The result of scoring one study, typed; a row of the results table says the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from osteo_ray.catalogue.checks import QualityCheck
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.outcomes import State
from osteo_ray.patients.labels import CLASSES

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SelectedSlice:
    """One slice that the policy kept."""

    sop_uid: str | None
    index: int
    """Position in the series, counted from the feet."""
    z_mm: float
    """Height in patient coordinates, mm."""
    weight: float
    """Attention weight in the score, of 1 for all slices that were read: with `view.read: looked` others were, too."""
    p_lumbar: float
    """The encoder's belief that the slice shows L1-L5, 0..1."""
    level: str | None = None
    """Vertebral level (L3), by the column of slices looked at; None: not known."""
    level_confidence: float | None = None
    """Probability of the most probable level, 0..1."""
    hu: float | None = None
    """Trabecular HU in this slice, as scanned."""
    roi_row: float | None = None
    """The mean is weighted; a circle shows where its weights are at least half of the largest. Row of its centre, in
    pixels of the axial view (the patient's back is down)."""
    roi_col: float | None = None
    """Column of that centre, in pixels; columns grow to the patient's left."""
    roi_radius_mm: float | None = None
    """Radius of that circle, mm."""


@dataclass(frozen=True)
class LevelDensity:
    """Trabecular HU of one vertebral level."""

    level: str
    hu: float
    """Mean over the level's picks, as scanned."""
    hu_120_kvp: float | None
    """The same at 120 kVp; None where the tube voltage is not known."""
    slices: int
    """Picks that were measured."""
    spread: float | None
    """Largest less smallest HU of them; None for a single one."""


@dataclass(frozen=True)
class StudyResult:
    """What became of one study. Score fields are None where `state` is neither SCORED nor SCORED_WARN."""

    state: State
    """SCORED, SCORED_WARN, ABSTAINED, EXCLUDED, QUARANTINED or ERROR."""
    code: str
    """Short stable reason, e.g. OK, NO_LUMBAR_SEEN."""
    message: str
    """The reason for a person."""
    study_uid: str | None
    series_uid: str | None
    age_y: float | None
    """Age that the score rests on, years."""
    sex: str | None
    """Sex that the score rests on: M or F."""
    age_from: str | None
    """Where the age comes from: record or header."""
    sex_from: str | None
    """Where the sex comes from: record or header."""
    risk: float | None
    """Calibrated probability of osteoporosis (DXA T-score of -2.5 or below), 0..1."""
    risk_low: float | None
    """Lower end of the calibrator's interval."""
    risk_high: float | None
    """Upper end of the calibrator's interval."""
    risk_class: str | None
    """high or low, at the bundle's operating point."""
    probabilities: dict[str, float] | None
    """Calibrated probability by class: normal, osteopenia, osteoporosis."""
    conformal_set: tuple[str, ...]
    """Classes that can't be ruled out at the bundle's stated level."""
    modalities: tuple[str, ...]
    """Which of demographics, labs and ct the score rests on."""
    trabecular_hu: float | None
    """Trabecular HU of the picks, as scanned (not brought to 120 kVp)."""
    trabecular_hu_120_kvp: float | None
    """The same at 120 kVp; None where the tube voltage is not known."""
    hu_by_level: tuple[LevelDensity, ...]
    """Trabecular HU of each vertebral level that picks lie in, from head to foot."""
    trabecular_hu_calibrated: float | None
    """Trabecular HU at 120 kVp by the scan's own air, fat and muscle; None without `scoring.internal_calibration`."""
    vbmd_mg_cm3: float | None
    """Density by that, mg/cm3 of hydroxyapatite; None with contrast agent too."""
    vbmd_sd_mg_cm3: float | None
    """Standard deviation of its error."""
    selected: tuple[SelectedSlice, ...]
    """The slices that the score rests on."""
    checks: tuple[QualityCheck, ...]
    """Every quality check with its verdict."""
    slices_total: int | None
    slices_decoded: int | None
    model: dict[str, str]
    """The bundle's name, version and sha256."""
    row: dict[str, Any] = field(repr=False)
    """The row of `osteo_ray.screening.schema.RESULTS`."""
    series: dict[str, Any] = field(repr=False)
    """The catalogue row of the series."""

    @classmethod
    def of(cls, row: Mapping[str, Any], series: Mapping[str, Any]) -> StudyResult:
        """From a row of the results and the catalogue row it was made from."""
        state = State(row["state"])
        scored = state in (State.SCORED, State.SCORED_WARN)
        return cls(
            state=state,
            code=row["code"],
            message=row["message"] or "",
            study_uid=row["study_uid"],
            series_uid=row["series_uid"],
            age_y=row["age_y"],
            sex=row["sex"],
            age_from=row["age_from"],
            sex_from=row["sex_from"],
            risk=row["risk_prob"],
            risk_low=row["risk_low"],
            risk_high=row["risk_high"],
            risk_class=row["risk_class"],
            probabilities={c: row[f"p_{c}"] for c in CLASSES} if scored else None,
            conformal_set=tuple(row["conformal_set"] or ()),
            modalities=tuple(row["modalities"] or ()),
            trabecular_hu=row["trabecular_hu"],
            trabecular_hu_120_kvp=row.get("trabecular_hu_120_kvp"),
            hu_by_level=tuple(LevelDensity(**v) for v in row.get("hu_by_level") or ()),
            trabecular_hu_calibrated=row.get("trabecular_hu_calibrated"),
            vbmd_mg_cm3=row.get("vbmd_mg_cm3"),
            vbmd_sd_mg_cm3=row.get("vbmd_sd_mg_cm3"),
            selected=tuple(
                SelectedSlice(**{k: s.get(k) for k in SelectedSlice.__dataclass_fields__})
                for s in row["selected"] or ()
            ),
            checks=tuple(QualityCheck(**c) for c in row["gates"] or ()),
            slices_total=row["slices_total"],
            slices_decoded=row["slices_decoded"],
            model={k: row[f"model_{k}"] for k in ("name", "version", "sha256")},
            row=dict(row),
            series=dict(series),
        )

    def to_dict(self) -> dict[str, Any]:
        """The result as plain data: one row of `osteo_ray.screening.schema.RESULTS`."""
        return dict(self.row)

    def slices(self) -> np.ndarray:
        """HU of the selected slices in the order of `selected`, [k, rows, cols]; decoded from the study's files.

        Raises:
            Rejected: a slice can't be decoded any more.
        """
        if not self.selected:
            return np.zeros((0, 0, 0), np.int16)
        with SliceStack.from_row(self.series) as stack:
            return np.stack([stack.hu(s.index) for s in self.selected])

    @property
    def shap(self) -> pd.DataFrame:
        """SHAP values in log-odds of osteoporosis: columns feature, group, value, unit, shap; empty if not scored."""
        import pandas as pd

        return pd.DataFrame(self.row["shap"] or [], columns=["feature", "group", "value", "unit", "shap"])
