"""Joining records to examinations by date: the nearest value within a window, never from the future unless asked.

    joined = join(table, studies, days=90)       # one row a study, in the studies' order

Values are joined one by one: each lab of a row may come from another day within the window.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from osteo_ray.patients.config import WindowConfig
from osteo_ray.patients.schema import LABS, NAMES
from osteo_ray.patients.table import RecordTable


def join(
    table: RecordTable,
    studies: pd.DataFrame,
    days: int = 90,
    days_demographics: int = 365,
    after: bool = False,
    undated: bool = True,
) -> RecordTable:
    """For each study the nearest value of each feature.

    Args:
        studies: columns patient_key and study_date (datetime64 or date; NaT joins only undated records).
        days: how far a lab may lie from the study; `days_demographics` the same for height, weight, age and smoking.
            Sex and the DXA T-score are taken from the nearest record whatever its date.
        after: also take values dated after the study.
        undated: take values of records without a date where no dated one fits.

    Returns:
        One row a study; NaN where nothing lies in the window. record_date is that of the nearest record that gave a
        lab.
    """
    have = table.frame
    dates = have["record_date"].to_numpy("datetime64[D]")
    groups = have.groupby("patient_key", sort=False).indices
    wanted = pd.to_datetime(studies["study_date"]).to_numpy("datetime64[D]")
    n = len(studies)
    names = list(_COLUMNS)
    values = have[names].to_numpy(np.float64)
    out = np.full((n, len(names)), np.nan)
    when = np.full(n, np.datetime64("NaT"), "datetime64[D]")
    window = WindowConfig(days=days, days_demographics=days_demographics, after=after, undated=undated)
    for i, (key, day) in enumerate(zip(studies["patient_key"], wanted, strict=True)):
        rows = groups.get(key, np.empty(0, int))
        out[i], when[i] = nearest(dates[rows], values[rows], day, window)
    frame = pd.DataFrame(out, columns=names)
    frame.insert(0, "patient_key", studies["patient_key"].to_numpy())
    frame["record_date"] = when.astype("datetime64[s]")
    return RecordTable.of(frame)


_COLUMNS = (*NAMES, "t_score")
_IS_LAB = np.array([c in LABS for c in _COLUMNS])
_NO_WINDOW = np.array([c in ("sex_male", "t_score") for c in _COLUMNS])


def nearest(
    dates: np.ndarray, values: np.ndarray, day: np.datetime64, window: WindowConfig
) -> tuple[np.ndarray, np.datetime64]:
    """One patient's values at one day.

    Args:
        dates: datetime64[D] [r] of the patient's records, NaT where undated.
        values: [r, F] in the order of the schema's features, or [r, F + 1] with the T-score last; NaN missing.
        day: of the study; NaT takes undated records alone.

    Returns:
        [F] or [F + 1], NaN where nothing lies in the window; the date of the nearest record that gave a lab, or NaT.
    """
    n = values.shape[1]
    out, when = np.full(n, np.nan), np.datetime64("NaT")
    is_lab, limit = _IS_LAB[:n], np.where(_IS_LAB, window.days, float(window.days_demographics))[:n]
    limit[_NO_WINDOW[:n]] = np.inf
    gap = (dates - day).astype("timedelta64[D]").astype(float)
    gap[np.isnat(dates) | np.isnat(day)] = np.nan
    future = gap > 0
    # Order of preference: nearest dated record that may be used, then undated ones.
    distance = np.where(np.isnan(gap), np.inf, np.abs(gap))
    for k in np.argsort(distance, kind="stable"):
        dated = np.isfinite(distance[k])
        if (not dated and not window.undated) or (future[k] and not window.after):
            # What does not change, or is the label, may come from any date.
            if not future[k]:
                continue
            allowed = np.isinf(limit)
        else:
            allowed = (distance[k] <= limit) | ~dated
        take = np.isnan(out) & allowed & ~np.isnan(values[k])
        out[take] = values[k, take]
        if dated and (take & is_lab).any() and np.isnat(when):
            when = dates[k]
    return out, when
