"""`result.json`: one row of the results as nested JSON, versioned, with a JSON Schema beside this file.

    json.dumps(to_result(row))          # no NaN inside: what is not known is null
    jsonschema.validate(to_result(row), schema())

The schema's major version changes when a field goes or changes its meaning; new fields raise the minor version.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from osteo_ray.outcomes import State
from osteo_ray.reports.language import DISCLAIMER
from osteo_ray.screening.schema import ACQUISITION, LEVEL_HU, RESULT_VERSION, SELECTED

_SELECTED = tuple(f.name for f in SELECTED)
_LEVEL_HU = tuple(f.name for f in LEVEL_HU)
_SHAP = ("feature", "value", "unit", "shap")
_GATE = ("gate", "verdict", "value", "threshold")


def to_result(row: Mapping[str, Any]) -> dict[str, Any]:
    """Row of the results -> result document. Columns the row lacks and NaN become null.

    Raises:
        ValueError: the row has no state, or one that is none of `State`.
    """
    state = row.get("state")
    if state not in tuple(State):
        raise ValueError(f"row: state is {state!r}; it must be one of {', '.join(State)}")

    def get(name: str) -> Any:
        return _known(row.get(name))

    scored = state in (State.SCORED, State.SCORED_WARN)
    return {
        "version": RESULT_VERSION,
        "notice": DISCLAIMER,
        "row_key": get("row_key"),
        "run_id": get("run_id"),
        "patient_key": get("patient_key"),
        "study_uid": get("study_uid"),
        "study_date": get("study_date"),
        "series_uid": get("series_uid"),
        "outcome": {k: get(k) for k in ("state", "code", "stage", "message", "attempt")},
        "abstain_reason": get("code") if state == State.ABSTAINED else None,
        "risk": {
            "prob": get("risk_prob"),
            "low": get("risk_low"),
            "high": get("risk_high"),
            "class": get("risk_class"),
            "log_odds": get("log_odds"),
            "classes": {c: get(f"p_{c}") for c in ("normal", "osteopenia", "osteoporosis")},
            "operating_point": get("operating_point"),
            "threshold": get("threshold"),
            "calibrator": get("calibrator"),
        }
        if scored
        else None,
        "modalities": list(get("modalities") or ()),
        "selected": [{k: _known(s.get(k)) for k in _SELECTED} for s in get("selected") or ()],
        "slices": {"total": get("slices_total"), "decoded": get("slices_decoded"), "bytes_read": get("bytes_read")},
        "trabecular_hu": get("trabecular_hu"),
        "trabecular_hu_120_kvp": get("trabecular_hu_120_kvp"),
        "hu_by_level": [{k: _known(v.get(k)) for k in _LEVEL_HU} for v in get("hu_by_level") or ()],
        **{k: get(k) for k in ("trabecular_hu_calibrated", "vbmd_mg_cm3", "vbmd_sd_mg_cm3")},
        "shap": {"base": get("shap_base"), "groups": _shap_groups(get("shap") or ())},
        "gates": [{k: _known(g.get(k)) for k in _GATE} for g in get("gates") or ()],
        "patient": {k: get(k) for k in ("age_y", "sex", "age_from", "sex_from")},
        "acquisition": {k: get(k) for k in ACQUISITION},
        "model": {k: get(f"model_{k}") for k in ("name", "version", "sha256")},
        "timings_s": {k: get(f"{k}_s") for k in ("open", "select", "score")},
    }


def write_result(path: str | Path, row: Mapping[str, Any]) -> Path:
    """Write `to_result(row)` as JSON."""
    path = Path(path)
    path.write_text(json.dumps(to_result(row), indent=1, allow_nan=False) + "\n", encoding="utf-8")
    return path


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) that every result document follows."""
    return json.loads(files("osteo_ray.reports").joinpath("result.schema.json").read_text(encoding="utf-8"))


def _shap_groups(shap: Any) -> list[dict[str, Any]]:
    groups = dict.fromkeys(s["group"] for s in shap)
    return [
        {
            "group": g,
            "sum": sum(s["shap"] for s in shap if s["group"] == g),
            "features": [{k: _known(s.get(k)) for k in _SHAP} for s in shap if s["group"] == g],
        }
        for g in groups
    ]


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
