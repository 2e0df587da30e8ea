"""Results and records -> one row a patient: the latest study, what changed, and what is known already.

    write_patients("out/results.parquet", records, "out/patients.parquet", PatientConfig())

A patient stands for the latest scored study. A change is told beside what two scans of the same person differ by
anyway, and one within that is called none. Who has a recent DXA, or a drug against osteoporosis, in the records need
not be called in: the code says so, and the worklist leaves such patients out unless asked not to. Nothing is guessed:
what the records hold without a date is said to be there and suppresses nobody.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from osteo_ray.io.database import database
from osteo_ray.io.files import replaced
from osteo_ray.io.store import Store, read_table
from osteo_ray.patients.record_set import RecordSet, records_of
from osteo_ray.patients.table import RecordTable
from osteo_ray.screening.config import PatientConfig
from osteo_ray.screening.schema import RESULTS, SCORED_SQL

SMALLEST_REAL = 1.96 * np.sqrt(2.0)
"""Times the repeat error of one measurement: the change that 95 % of repeats without any stay under."""


class Known(StrEnum):
    """What the records say of a patient's bones; the first two suppress."""

    KNOWN_DXA = "KNOWN_DXA"
    ON_TREATMENT = "ON_TREATMENT"
    DXA_OLD = "DXA_OLD"
    DXA_UNDATED = "DXA_UNDATED"
    TREATMENT_OLD = "TREATMENT_OLD"
    TREATMENT_UNDATED = "TREATMENT_UNDATED"
    STUDY_UNDATED = "STUDY_UNDATED"  # a dated DXA or drug, and a CT that nothing can be placed by


SUPPRESSING = (Known.KNOWN_DXA, Known.ON_TREATMENT)


class Change(StrEnum):
    """What became of a figure since the study it is compared with."""

    NO_PRIOR = "NO_PRIOR"
    NOT_COMPARABLE = "NOT_COMPARABLE"  # other tube voltage or contrast, or either is not known
    NONE = "NONE"  # within what repeated scans differ by
    FALLEN = "FALLEN"
    RISEN = "RISEN"


READ = (
    *("patient_key", "study_date", "study_uid", "series_uid", "row_key"),
    *("risk_prob", "risk_class", "trabecular_hu", "kvp", "contrast"),
)
PATIENTS = pa.schema(
    [
        ("patient_key", pa.string()),
        # the latest scored study, by its series of highest risk
        ("study_uid", pa.string()),
        ("series_uid", pa.string()),
        ("row_key", pa.string()),
        ("study_date", pa.date32()),
        ("risk_prob", pa.float64()),
        ("risk_class", pa.string()),
        ("trabecular_hu", pa.float64()),
        ("kvp", pa.float64()),
        ("contrast", pa.string()),
        ("n_studies", pa.int32()),  # scored
        ("first_date", pa.date32()),
        # against the first dated study
        ("risk_before", pa.float64()),
        ("risk_change", pa.float64()),
        ("risk_verdict", pa.string()),
        # against the first dated study of like tube voltage and contrast
        ("hu_before_date", pa.date32()),
        ("hu_before", pa.float64()),
        ("hu_change", pa.float64()),
        ("hu_noise", pa.float64()),  # a change up to this is none
        ("hu_verdict", pa.string()),
        # from the records
        ("known", pa.string()),  # of Known, null: nothing
        ("known_text", pa.string()),
        ("dxa_date", pa.date32()),
        ("dxa_t_score", pa.float64()),
        ("treatment_date", pa.date32()),
        ("suppressed", pa.bool_()),
    ]
)
ROWS_AT_ONCE = 25_000


def write_patients(
    results: str | Path,
    records: RecordTable | RecordSet | None,
    out: str | Path,
    cfg: PatientConfig,
    rows_at_once: int = ROWS_AT_ONCE,
) -> None:
    """Write `out` (Parquet, `PATIENTS`), one row a patient with a scored study.

    Memory is bounded by `rows_at_once` results at a time.
    """
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    book = records_of(records)
    with replaced(out) as tmp, pq.ParquetWriter(tmp, PATIENTS, compression="zstd") as writer:
        for part in _whole_patients(results, rows_at_once):
            held = book.take(part["patient_key"].to_pylist()).known()
            writer.write_table(patients_of(part, held, cfg))


def patients_of(scored: pa.Table, held: pd.DataFrame, cfg: PatientConfig) -> pa.Table:
    """One row a patient (`PATIENTS`) of scored results (`READ`); `held`: what is known of them (`Timelines.known`)."""
    f = scored.to_pandas()
    f["date"] = pd.to_datetime(f["study_date"], format="%Y%m%d", errors="coerce")
    # One row a study: its series of highest risk. Undated studies come before all others: never the latest of several.
    f = f.sort_values(
        ["patient_key", "date", "study_uid", "risk_prob", "series_uid"],
        ascending=[True, True, True, False, True],
        na_position="first",
        kind="stable",
    ).drop_duplicates(["patient_key", "study_uid"], keep="first", ignore_index=True)
    key = f["patient_key"].to_numpy(str)
    last = np.flatnonzero(np.r_[key[1:] != key[:-1], True]) if len(f) else np.zeros(0, int)
    owner = np.repeat(np.arange(len(last)), np.diff(np.r_[-1, last]))  # each study's patient
    end = f.iloc[last].reset_index(drop=True)
    dated = f["date"].notna().to_numpy()
    earlier = dated & (f["date"].to_numpy() < end["date"].to_numpy()[owner])

    out = end[["patient_key", "study_uid", "series_uid", "row_key", "risk_prob", "risk_class", "trabecular_hu",
               "kvp", "contrast"]].copy()  # fmt: skip
    out["study_date"] = end["date"]
    out["n_studies"] = np.bincount(owner, minlength=len(last))
    out["first_date"] = _at(f["date"], _first(dated, owner, len(last)))
    _risk_change(out, f, _first(earlier, owner, len(last)), cfg)
    _hu_change(out, f, earlier, owner, end, cfg)
    _known(out, held, cfg)
    for name in ("study_date", "first_date", "hu_before_date", "dxa_date", "treatment_date"):
        out[name] = pd.to_datetime(out[name]).dt.date
    return pa.Table.from_pandas(out[PATIENTS.names], schema=PATIENTS, preserve_index=False)


def _first(mask: np.ndarray, owner: np.ndarray, n: int) -> np.ndarray:
    """The first row of each patient where `mask` holds, -1 where none does."""
    first = np.full(n, -1)
    rows = np.flatnonzero(mask)[::-1]
    first[owner[rows]] = rows  # written from the back: the first row stays
    return first


def _at(values: pd.Series, rows: np.ndarray) -> pd.Series:
    """Values at rows, missing where the row is -1."""
    return values.iloc[np.maximum(rows, 0)].reset_index(drop=True).where(rows >= 0) if len(values) else values


def _risk_change(out: pd.DataFrame, f: pd.DataFrame, before: np.ndarray, cfg: PatientConfig) -> None:
    now, then = (s.astype(float).clip(1e-6, 1 - 1e-6) for s in (out["risk_prob"], _at(f["risk_prob"], before)))
    out["risk_before"] = then
    out["risk_change"] = now - then
    step = np.log(now / (1 - now)) - np.log(then / (1 - then))
    out["risk_verdict"] = _verdict(step, SMALLEST_REAL * cfg.risk_repeat_sd, before >= 0, before >= 0)


def _hu_change(
    out: pd.DataFrame, f: pd.DataFrame, earlier: np.ndarray, owner: np.ndarray, end: pd.DataFrame, cfg: PatientConfig
) -> None:
    fit = earlier & like_scans(end.iloc[owner].reset_index(drop=True), f, cfg)
    measured = np.isfinite(f["trabecular_hu"].to_numpy(float))
    measured &= np.isfinite(end["trabecular_hu"].to_numpy(float)[owner])
    fit &= measured
    n = len(out)
    before = _first(fit, owner, n)
    out["hu_before_date"] = _at(f["date"], before)
    out["hu_before"] = _at(f["trabecular_hu"].astype(float), before)
    out["hu_change"] = out["trabecular_hu"].astype(float) - out["hu_before"]
    out["hu_noise"] = hu_noise(out["trabecular_hu"].astype(float), out["hu_before"], cfg)
    out["hu_verdict"] = _verdict(out["hu_change"], out["hu_noise"], _first(earlier, owner, n) >= 0, before >= 0)


def like_scans(now: pd.DataFrame, then: pd.DataFrame, cfg: PatientConfig) -> np.ndarray:
    """Whether HU of two scans can be compared, row by row: like tube voltage, and the same known contrast phase."""

    def known(column: pd.Series) -> np.ndarray:
        return column.astype(object).where(column.notna() & (column != "unknown"), None).to_numpy()

    phase, before = known(now["contrast"]), known(then["contrast"])
    volts = now["kvp"].to_numpy(float) - then["kvp"].to_numpy(float)
    return (phase == before) & pd.notna(phase) & (np.abs(volts) <= cfg.kvp_tolerance)


def hu_noise(now: Any, before: Any, cfg: PatientConfig) -> Any:
    """HU by which two scans of unchanged bone differ in 95 % of cases at most; numbers or columns of them."""
    return SMALLEST_REAL * cfg.hu_repeat_cv * abs(now + before) / 2


def _verdict(step: pd.Series, noise: pd.Series | float, prior: np.ndarray, comparable: np.ndarray) -> np.ndarray:
    names = [Change.NO_PRIOR, Change.NOT_COMPARABLE, Change.FALLEN, Change.RISEN]
    cases = [~prior, ~comparable, step < -noise, step > noise]
    return np.select([np.asarray(c, bool) for c in cases], [str(v) for v in names], str(Change.NONE))


# ---- what is known already


def _known(out: pd.DataFrame, held: pd.DataFrame, cfg: PatientConfig) -> None:
    held_rows = held.reindex(out["patient_key"].to_numpy()).reset_index(drop=True)
    dxa = pd.to_datetime(held_rows["dxa_date"])
    treated = held_rows["treated"].astype(float) == 1
    drug = pd.to_datetime(held_rows["treatment_date"]).where(treated)
    since = [(out["study_date"] - d).dt.days / 365.25 for d in (dxa, drug)]
    undated = [held_rows[c].astype("boolean").fillna(False).astype(bool) for c in ("dxa_undated", "treatment_undated")]
    placed = out["study_date"].notna()
    facts: list[tuple[Known, pd.Series, pd.Series]] = [
        (
            Known.KNOWN_DXA,
            since[0] <= cfg.dxa_years,
            "DXA of " + _day(dxa) + ", T-score " + _one(held_rows["dxa_t_score"]),
        ),
        (Known.ON_TREATMENT, since[1] <= cfg.treatment_years, "treated for osteoporosis, recorded " + _day(drug)),
        (Known.STUDY_UNDATED, ~placed & (dxa.notna() | drug.notna()), _same(out, "the CT has no date to place it by")),
        (
            Known.DXA_OLD,
            since[0] > cfg.dxa_years,
            "last DXA " + _day(dxa) + ", T-score " + _one(held_rows["dxa_t_score"]),
        ),
        (Known.DXA_UNDATED, undated[0] & dxa.isna(), _same(out, "a T-score without the DXA's date")),
        (Known.TREATMENT_OLD, since[1] > cfg.treatment_years, "last treated, as recorded, " + _day(drug)),
        (Known.TREATMENT_UNDATED, undated[1] & drug.isna(), _same(out, "treatment without a date")),
    ]
    code = np.full(len(out), None, object)
    text = np.full(len(out), "", object)
    for name, holds, words in facts:
        matches = holds.to_numpy(bool)
        code[matches & pd.isna(code)] = str(name)
        text[matches] = text[matches] + np.where(text[matches] == "", "", "; ") + words.to_numpy(object)[matches]
    out["known"], out["known_text"] = code, pd.Series(text).where(text != "", None)
    out["dxa_date"], out["dxa_t_score"], out["treatment_date"] = dxa, held_rows["dxa_t_score"].astype(float), drug
    out["suppressed"] = np.isin(code.astype(str), [str(k) for k in SUPPRESSING]) & cfg.suppress


def _day(dates: pd.Series) -> pd.Series:
    return dates.dt.strftime("%Y-%m-%d").astype(object).fillna("?")


def _one(numbers: pd.Series) -> pd.Series:
    return numbers.astype(float).map("{:.1f}".format).astype(object)


def _same(like: pd.DataFrame, text: str) -> pd.Series:
    return pd.Series(text, index=like.index, dtype=object)


# ---- streaming


def _whole_patients(results: str | Path, rows_at_once: int) -> Iterator[pa.Table]:
    """The scored rows of known patients (`READ`), about `rows_at_once` a table, a patient's all in one; at least one
    table, which may be empty."""
    with database(results=(results, RESULTS)) as db:
        known = f"{SCORED_SQL} AND patient_key IS NOT NULL"
        reader = db.sql(f"SELECT {', '.join(READ)} FROM results WHERE {known} ORDER BY patient_key").to_arrow_reader(
            rows_at_once
        )
        held = reader.schema.empty_table()
        for batch in reader:
            held = pa.concat_tables([held, pa.Table.from_batches([batch])])
            # The last patient's rows may go on in the next batch.
            whole = pc.index(held["patient_key"], held["patient_key"][-1]).as_py()
            if whole:
                yield held[:whole]
                held = held[whole:]
        yield held


def suppressed_in(run: str | Path) -> dict[str, str]:
    """Code by key of the patients whom the worklist in a run's folder, by path or URI, leaves out; none while there is
    no worklist."""
    store = Store(run)
    if not store.is_file("patients.parquet"):
        return {}
    only = pc.field("suppressed")
    hidden = read_table(store.path("patients.parquet"), columns=["patient_key", "known"], filters=only)
    return dict(zip(hidden["patient_key"].to_pylist(), hidden["known"].to_pylist(), strict=True))


def suppressed_counts(patients: pa.Table) -> dict[str, int]:
    """How many patients each code suppresses."""
    hidden = patients.filter(patients["suppressed"])
    return {v["values"].as_py(): v["counts"].as_py() for v in pc.value_counts(hidden["known"].combine_chunks())}
