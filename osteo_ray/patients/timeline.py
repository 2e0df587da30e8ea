"""A patient is a timeline: scans, records, DXA and treatment with their dates, and the one rule of what meets what.

    t = Timelines.of(records)                             # of any number of patients
    t.values_at(keys, days, cfg).values                   # what was known of each patient at a CT, [n, F]
    t.labels_at(keys, days, cfg).t_score                  # the DXA nearest to a CT, and why there is none
    training_examples(t, scans, cfg)                      # every dated CT, and the patients who have none
    t.known()                                             # by patient: latest DXA and treatment (the worklist's view)

Rules are in `TimelineConfig` and docs/decisions/timeline.md. Nothing depends on the order of rows: values of one day
are averaged, T-scores of one day count by the lowest, undated values that disagree are not used. Plain numpy,
vectorised over patients; no Ray.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

import numpy as np
import pandas as pd

from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.events import ANY_DAYS, NAT, ZERO_DAY, Events, class_of, code_of, day_of, days_of, events_of
from osteo_ray.patients.header import AGE, SEX
from osteo_ray.patients.schema import DEMOGRAPHICS, LABS, NAMES, feature
from osteo_ray.patients.table import RecordTable

_MID_MONTH = 14  # days behind the first of a month: what a birth month is taken for
_HEIGHT, _WEIGHT, _BMI = (NAMES.index(n) for n in ("height_cm", "weight_kg", "bmi"))


class Pairing(StrEnum):
    """Why a CT has the label that it has, or none."""

    DXA = "DXA"
    DXA_UNDATED = "DXA_UNDATED"  # labelled by a T-score without a date
    NO_RECORD = "NO_RECORD"
    NO_DXA = "NO_DXA"
    DXA_FAR = "DXA_FAR"  # all DXA lie outside the window
    DXA_NOT_PLACED = "DXA_NOT_PLACED"  # the CT has no date, or undated T-scores are ignored or disagree
    TREATED = "TREATED"


@dataclass(frozen=True)
class Values:
    """What was known at n CTs. `days` are those of the values used, NaT where undated or missing."""

    values: np.ndarray  # float64 [n, F] in the order of the schema, NaN missing
    days: np.ndarray  # datetime64[D] [n, F]
    sex_conflict: np.ndarray  # bool [n]: the records give both sexes, so neither is used

    @property
    def lab_day(self) -> np.ndarray:
        """The latest day of a lab that was used, datetime64[D] [n]."""
        labs = self.days[:, [NAMES.index(n) for n in LABS]]
        known = ~np.isnat(labs)
        last = np.where(known, labs.astype(np.int64), -ZERO_DAY).max(axis=1)
        return np.where(known.any(axis=1), last.astype("datetime64[D]"), NAT)


@dataclass(frozen=True)
class Labels:
    """The DXA of n CTs."""

    label: np.ndarray  # int64 [n], index into CLASSES, -1 none
    t_score: np.ndarray  # float64 [n], NaN none
    day: np.ndarray  # datetime64[D] [n], NaT none or undated
    why: np.ndarray  # object [n] of Pairing

    def gap_days(self, ct: np.ndarray) -> np.ndarray:
        """Days from the CT to its DXA (negative: before it), NaN where either has no date."""
        gap = (self.day - np.asarray(ct, "datetime64[D]")).astype("timedelta64[D]")
        return np.where(np.isnat(gap), np.nan, gap.astype(np.float64))

    def counts(self) -> dict[str, int]:
        """How many CTs ended in each way."""
        return {str(k): n for k, n in sorted(Counter(self.why.tolist()).items())}


@dataclass(frozen=True)
class Timelines:
    """The facts of many patients, by kind and date."""

    keys: np.ndarray  # str [P], ascending
    features: tuple[Events, ...]  # in the order of the schema
    sex: np.ndarray  # float64 [P]: what all records say, NaN where none or both
    sex_conflict: np.ndarray  # bool [P]
    birth: np.ndarray  # datetime64[D] [P]: the middle of the birth month, NaT where none or several are stated
    dxa: Events  # T-scores by DXA date
    dxa_or_record: Events  # T-scores by DXA date, else by their record's date
    treatment: Events  # 1 treated, 0 not
    last_day: np.ndarray  # datetime64[D] [P], of any fact, NaT where none is dated
    last_record: np.ndarray  # datetime64[D] [P], of the values alone

    @classmethod
    def of(cls, table: RecordTable | pd.DataFrame | None) -> Timelines:
        """The timelines of a table's patients; rows without a patient are nobody's."""
        frame = pd.DataFrame() if table is None else table.frame if isinstance(table, RecordTable) else table
        if "patient_key" in frame:
            frame = frame[frame["patient_key"].notna()]
        frame = frame if "patient_key" in frame else pd.DataFrame({"patient_key": []})
        f = frame if {"record_date", "t_score", *NAMES} <= set(frame) else RecordTable.of(frame).frame
        keys, patient = np.unique(f["patient_key"].to_numpy(str), return_inverse=True)
        patient = patient.astype(np.int64)
        day = f["record_date"].to_numpy("datetime64[D]")
        values = f[list(NAMES)].to_numpy(np.float64)
        events = tuple(
            events_of(patient, day, values[:, j], "agree" if feature(n).kind == "binary" else "mean")
            for j, n in enumerate(NAMES)
        )
        low = _by_patient(np.fmin, patient, values[:, SEX], len(keys))
        high = _by_patient(np.fmax, patient, values[:, SEX], len(keys))
        conflict = low != high
        conflict &= ~np.isnan(low)
        t = f["t_score"].to_numpy(np.float64)
        measured = f["dxa_date"].to_numpy("datetime64[D]") if "dxa_date" in f else np.full(len(f), NAT)
        either = np.where(np.isnat(measured), day, measured)
        given = f["osteoporosis_treatment"] if "osteoporosis_treatment" in f else pd.Series(np.nan, index=f.index)
        last_record = _last(patient, day, len(keys))
        stated = np.where(np.isnan(t), NAT, either)
        return cls(
            keys,
            events,
            np.where(conflict, np.nan, low),
            conflict,
            _births(patient, f, len(keys)),
            events_of(patient, measured, t, "low"),
            events_of(patient, either, t, "low"),
            events_of(patient, day, given.to_numpy(np.float64), "high"),
            _last(np.r_[patient, patient], np.r_[day, stated], len(keys)),
            last_record,
        )

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, keys: Any) -> np.ndarray:
        """Number of each patient, -1 where there is none; None and NaN are nobody."""
        wanted = np.array(["" if k is None or k != k else str(k) for k in keys], dtype=str)
        if not len(self.keys) or not len(wanted):
            return np.full(len(wanted), -1, np.int64)
        k = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
        return np.where((self.keys[k] == wanted) & (wanted != ""), k, -1).astype(np.int64)

    # ---- what was known at a CT

    def values_at(self, keys: Any, days: Any, cfg: TimelineConfig) -> Values:
        """Demographics and labs as known at each CT.

        Args:
            keys: patient keys [n]; days: of the CTs, anything that numpy reads as datetime64[D], NaT where unknown.
        """
        patient = self.find(keys)
        query = self._query(patient, _days(days), cfg)
        windows = {n: cfg.demographics_days for n in DEMOGRAPHICS} | dict.fromkeys(LABS, cfg.lab_days)
        return self._values(patient, query, [(windows[n], cfg.after_days) for n in NAMES], cfg)

    def _values(
        self, patient: np.ndarray, query: np.ndarray, windows: list[tuple[int, int]], cfg: TimelineConfig
    ) -> Values:
        n = len(patient)
        values, days = np.full((n, len(NAMES)), np.nan), np.full((n, len(NAMES)), NAT)
        for j, (events, window) in enumerate(zip(self.features, windows, strict=True)):
            if j == SEX:
                values[:, j] = np.where(patient >= 0, self.sex[patient], np.nan) if len(self.sex) else np.nan
                continue
            values[:, j], days[:, j] = events.nearest(query, *window)
            if j == AGE:
                self._ages_by_birth(values, days, patient, query)
            if cfg.undated == "use":
                empty = np.isnan(values[:, j])
                values[empty, j] = events.undated_at(patient[empty])[0]
        _age_on(values, days, query)
        _mend_bmi(values, days, query)
        conflict = self.sex_conflict[patient] & (patient >= 0) if len(self.sex) else np.zeros(n, bool)
        return Values(values, days, conflict)

    def _ages_by_birth(self, values: np.ndarray, days: np.ndarray, patient: np.ndarray, query: np.ndarray) -> None:
        """Fill in ages that no record near the query states (in place): a birth month is true on every day."""
        if np.isnat(self.birth).all():
            return
        on = day_of(np.maximum(query, 0))
        age = (on - self.birth[patient]).astype("timedelta64[D]").astype(np.float64) / 365.25
        age[np.isnat(self.birth[patient])] = np.nan
        use = np.isnan(values[:, AGE]) & (query >= 0) & (age >= 0) & (age <= feature("age_y").high)
        values[use, AGE], days[use, AGE] = age[use], on[use]

    # ---- the label

    def labels_at(self, keys: Any, days: Any, cfg: TimelineConfig) -> Labels:
        """The DXA nearest to each CT within the window, or why there is none."""
        patient, ct = self.find(keys), _days(days)
        out = self._labels(patient, self._query(patient, ct, cfg), cfg.dxa_days, cfg)
        if cfg.treated == "exclude":
            until = np.where(np.isnat(out.day) | (out.day < ct), ct, out.day)
            off = (out.label >= 0) & self._treated(patient, until, cfg)
            out.label[off], out.t_score[off], out.day[off], out.why[off] = -1, np.nan, NAT, Pairing.TREATED
        return out

    def _labels(self, patient: np.ndarray, query: np.ndarray, window: int, cfg: TimelineConfig) -> Labels:
        events = self.dxa_or_record if cfg.dxa_from_record else self.dxa
        t, day = events.nearest(query, window, window)
        loose, there = events.undated_at(patient)
        dated = events.has_dated(patient)
        use = np.isnan(t) & ~dated & (cfg.undated == "use")
        t = np.where(use, loose, t)
        why = np.select(
            [np.isfinite(t) & ~use, np.isfinite(t), patient < 0, ~dated & ~there, there & ~dated, query < 0],
            [Pairing.DXA, Pairing.DXA_UNDATED, Pairing.NO_RECORD, Pairing.NO_DXA, *2 * [Pairing.DXA_NOT_PLACED]],
            Pairing.DXA_FAR,
        ).astype(object)
        return Labels(class_of(t), t, day, why)

    def treated_at(self, keys: Any, days: Any, cfg: TimelineConfig) -> np.ndarray:
        """Whether each patient was under treatment at a day: the last statement up to it says so. bool [n]."""
        return self._treated(self.find(keys), _days(days), cfg)

    def _treated(self, patient: np.ndarray, until: np.ndarray, cfg: TimelineConfig) -> np.ndarray:
        treated, _ = self.treatment.nearest(self._query(patient, until, cfg), ANY_DAYS, -1)
        if cfg.undated == "use":
            empty = np.isnan(treated)
            treated[empty] = self.treatment.undated_at(patient[empty])[0]
        return treated == 1

    def _query(self, patient: np.ndarray, days: np.ndarray, cfg: TimelineConfig) -> np.ndarray:
        if cfg.undated_ct == "latest" and len(self.keys):
            days = np.where(np.isnat(days) & (patient >= 0), self.last_day[patient], days)
        return np.where((patient < 0) | np.isnat(days), -1, code_of(np.maximum(patient, 0), days))

    # ---- patients without a CT, and what is known of a patient at all

    def without_ct(self, keys: Any, cfg: TimelineConfig) -> tuple[Values, Labels, np.ndarray]:
        """One example a patient who has no CT: (values, label, day). It stands at the latest DXA, else at the last
        record, and takes what lies nearest to that day within `without_ct_days`."""
        patient = self.find(keys)
        events = self.dxa_or_record if cfg.dxa_from_record else self.dxa
        end = code_of(np.maximum(patient, 0), np.full(len(patient), np.datetime64("2199-12-31", "D")))
        _, dxa = events.nearest(np.where(patient < 0, -1, end), ANY_DAYS, -1)
        last = self.last_record[patient] if len(self.keys) else np.full(len(patient), NAT)
        day = np.where(np.isnat(dxa), last, dxa)
        query = np.where((patient < 0) | np.isnat(day), -1, code_of(np.maximum(patient, 0), day))
        window = [(cfg.without_ct_days, cfg.without_ct_days)] * len(NAMES)
        labels = self._labels(patient, query, 0, cfg)
        if cfg.treated == "exclude":
            off = (labels.label >= 0) & self._treated(patient, day, cfg)
            labels.label[off], labels.t_score[off], labels.why[off] = -1, np.nan, Pairing.TREATED
        return self._values(patient, query, window, cfg), labels, day

    def known(self) -> pd.DataFrame:
        """By patient key: the latest DXA with a date of its own, the latest dated statement on treatment, and whether
        undated ones are there: `dxa_date`, `dxa_t_score`, `dxa_undated`, `treatment_date`, `treated`,
        `treatment_undated`."""
        patient = np.arange(len(self.keys), dtype=np.int64)
        end = code_of(patient, np.full(len(patient), np.datetime64("2199-12-31", "D")))
        t, dxa = self.dxa.nearest(end, ANY_DAYS, -1)
        treated, day = self.treatment.nearest(end, ANY_DAYS, -1)
        loose, there = self.treatment.undated_at(patient)
        return pd.DataFrame(
            {
                "dxa_date": dxa.astype("datetime64[s]"),
                "dxa_t_score": t,
                "dxa_undated": self.dxa.undated_at(patient)[1],
                "treatment_date": day.astype("datetime64[s]"),
                "treated": treated,
                "treatment_undated": there & (loose == 1),
            },
            index=pd.Index(self.keys.astype(object), name="patient_key"),
        )


@dataclass(frozen=True)
class Examples:
    """Training examples, ordered by patient, CT date and series: every CT, and patients who have none."""

    patient: np.ndarray  # str [n]
    series: np.ndarray  # str [n], "" without a CT
    scan: np.ndarray  # int64 [n], row of the scans that were given, -1 without a CT
    day: np.ndarray  # datetime64[D] [n], of the CT, or of what stands for it; NaT unknown
    values: np.ndarray  # float64 [n, F], NaN missing
    label: np.ndarray  # int64 [n], -1 none
    t_score: np.ndarray  # float64 [n], NaN none
    dxa_day: np.ndarray  # datetime64[D] [n]
    why: np.ndarray  # object [n] of Pairing
    judged: np.ndarray  # bool [n]: the one example by which its patient counts in a figure
    sex_conflict: np.ndarray  # bool [n]

    def __len__(self) -> int:
        return len(self.patient)

    def moved(self, rows: np.ndarray) -> Examples:
        """The same examples, with `scan` pointing into the table that the scans were `rows` of."""
        scan = np.where(self.scan >= 0, rows[self.scan], -1) if len(rows) else self.scan
        return replace(self, scan=scan)

    @staticmethod
    def concat(parts: Sequence[Examples]) -> Examples:
        """Examples of different patients as one, in the order of the patients."""
        joined = Examples(*(np.concatenate([getattr(p, f) for p in parts]) for f in Examples.__dataclass_fields__))
        order = np.argsort(joined.patient, kind="stable")
        return Examples(*(getattr(joined, f)[order] for f in Examples.__dataclass_fields__))

    def lines(self) -> list[str]:
        """What met what, for a terminal."""
        ct = self.scan >= 0
        met = ct & np.isfinite(self.values).any(1)
        why = ", ".join(f"{k} {n}" for k, n in sorted(Counter(self.why[ct].tolist()).items())) or "none"
        out = [
            f"pairing      {int(ct.sum())} CTs of {len(set(self.patient[ct].tolist()))} patients: {int(met.sum())} "
            f"met a record; labels: {why}",
            f"             {int((~ct).sum())} patients without a CT, {int((self.label[~ct] >= 0).sum())} with a label",
        ]
        if ct.any() and not met.any() and len(self) > ct.sum():
            out.append(
                "warning      no CT met a record: are both keyed with the same pseudonym_key, site and form of ID, and "
                "do their dates lie within the timeline's windows?"
            )
        if self.sex_conflict.any():
            n = len(set(self.patient[self.sex_conflict].tolist()))
            out.append(f"warning      the records of {n} patients give both sexes: neither is used")
        return out


def training_examples(timelines: Timelines, scans: pd.DataFrame, cfg: TimelineConfig) -> Examples:
    """Every scan with the record, DXA and treatment that belong to it, and one example of each patient without a scan.

    Args:
        scans: columns patient_key, series_uid, study_date (what `days_of` reads).
    """
    key = scans["patient_key"].to_numpy(str)
    day = days_of(scans["study_date"])
    at_ct, labels = timelines.values_at(key, day, cfg), timelines.labels_at(key, day, cfg)
    others = np.setdiff1d(timelines.keys, key)
    values, labels_2, day_2 = timelines.without_ct(others, cfg)
    patient = np.r_[key, others].astype(str)
    series = np.r_[scans["series_uid"].to_numpy(str), np.full(len(others), "")].astype(str)
    days = np.r_[day, day_2]
    order = np.lexsort((series, np.where(np.isnat(days), -ZERO_DAY, days.astype(np.int64)), patient))
    label = np.r_[labels.label, labels_2.label][order]
    gap = np.abs(np.r_[labels.gap_days(day), np.zeros(len(others))])[order]
    return Examples(
        patient[order],
        series[order],
        np.r_[np.arange(len(key)), np.full(len(others), -1)][order],
        days[order],
        np.r_[at_ct.values, values.values][order],
        label,
        np.r_[labels.t_score, labels_2.t_score][order],
        np.r_[labels.day, labels_2.day][order],
        np.r_[labels.why, labels_2.why][order],
        _judged(patient[order], label, gap),
        np.r_[at_ct.sex_conflict, values.sex_conflict][order],
    )


def latest_per_patient(rows: pd.DataFrame, first: np.ndarray | None = None) -> pd.DataFrame:
    """The row of each patient that stands for them: of the latest study, undated ones last, then the first by row_key,
    series and study UID, which no score can influence. The index is that of `rows`.

    Args:
        first: bool [n], rows to be preferred whatever their date.
    """
    keys = [k for k in ("row_key", "series_uid", "study_uid") if k in rows]
    dated = days_of(rows["study_date"]) if "study_date" in rows else np.full(len(rows), NAT)
    late = np.where(np.isnat(dated), ZERO_DAY, -dated.astype(np.int64))
    by = pd.DataFrame({"_late": late, "_no": np.zeros(len(rows)) if first is None else ~first}, index=rows.index)
    order = rows[keys].assign(**by).sort_values(["_no", "_late", *keys], kind="stable").index
    return rows.loc[order].drop_duplicates("patient_key")


def _days(days: Any) -> np.ndarray:
    return days if isinstance(days, np.ndarray) and days.dtype == "datetime64[D]" else days_of(days)


def _births(patient: np.ndarray, frame: pd.DataFrame, n: int) -> np.ndarray:
    """The middle of each patient's birth month, datetime64[D] [n]; NaT where none is stated, or more than one."""
    if "birth_month" not in frame or not n:
        return np.full(n, NAT)
    month = frame["birth_month"].to_numpy("datetime64[M]")
    number = np.where(np.isnat(month), np.nan, month.astype(np.int64).astype(np.float64))
    low, high = (_by_patient(how, patient, number, n) for how in (np.fmin, np.fmax))
    one = low == high
    first = np.where(one, low, 0).astype(np.int64).astype("datetime64[M]").astype("datetime64[D]")
    return np.where(one, first + np.timedelta64(_MID_MONTH, "D"), NAT)


def _by_patient(how: np.ufunc, patient: np.ndarray, value: np.ndarray, n: int) -> np.ndarray:
    out = np.full(n, np.nan)
    how.at(out, patient, value)
    return out


def _last(patient: np.ndarray, day: np.ndarray, n: int) -> np.ndarray:
    out = np.full(n, -ZERO_DAY, np.int64)
    known = ~np.isnat(day)
    np.maximum.at(out, patient[known], day[known].astype(np.int64))
    return np.where(out == -ZERO_DAY, NAT, out.astype("datetime64[D]"))


def _age_on(values: np.ndarray, days: np.ndarray, query: np.ndarray) -> None:
    """An age that was true on another day, as it is on the day of the query."""
    gap = (day_of(np.maximum(query, 0)) - days[:, AGE]).astype("timedelta64[D]")
    moved = (query >= 0) & ~np.isnat(gap)
    values[moved, AGE] += gap[moved].astype(np.float64) / 365.25


def _mend_bmi(values: np.ndarray, days: np.ndarray, query: np.ndarray) -> None:
    """A BMI that is missing, or older than the height and weight beside it, follows from these."""
    ct = day_of(np.maximum(query, 0))

    def gap(j: int) -> np.ndarray:
        d = np.abs((days[:, j] - ct).astype("timedelta64[D]").astype(np.float64))
        return np.where(np.isnat(days[:, j]), np.inf, d)

    bmi = gap(_BMI)
    old = np.isnan(values[:, _BMI]) | (bmi > gap(_HEIGHT)) | (bmi > gap(_WEIGHT))
    derived = values[:, _WEIGHT] / (values[:, _HEIGHT] / 100) ** 2
    use = old & ~np.isnan(derived)
    values[use, _BMI] = derived[use]
    days[use, _BMI] = days[use, _WEIGHT]


def _judged(patient: np.ndarray, label: np.ndarray, gap: np.ndarray) -> np.ndarray:
    """One example a patient: labelled before unlabelled, then the CT nearest to its DXA, then the latest."""
    n = len(patient)
    late = -np.arange(n)  # rows are in the order of the CTs' days
    order = np.lexsort((late, np.where(np.isnan(gap), np.inf, gap), label < 0, patient))
    first = np.r_[True, patient[order][1:] != patient[order][:-1]] if n else np.zeros(0, bool)
    out = np.zeros(n, bool)
    out[order[first]] = True
    return out
