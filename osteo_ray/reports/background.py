"""What results and records hold of a study's patient besides the study: an earlier one, DXA, treatment.

    found = backgrounds("runs/screen", rows, PatientConfig())     # row key -> Background
    found[row["row_key"]].prior

The earlier study is the latest before this one whose HU can be compared with it, or else the latest before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads

from osteo_ray.io.parquet_set import is_finished
from osteo_ray.io.store import dataset, read_table
from osteo_ray.outcomes import State
from osteo_ray.screening.config import PatientConfig
from osteo_ray.screening.patients import SUPPRESSING, Change, hu_noise, like_scans
from osteo_ray.screening.schema import RESULTS

PATIENTS_FILE = "patients.parquet"
READ = [
    "patient_key",
    "study_uid",
    "study_date",
    "series_uid",
    "row_key",
    "risk_prob",
    "kvp",
    "contrast",
    "hu_by_level",
]


@dataclass(frozen=True)
class Background:
    """Of one study. The default is a study of which nothing else was looked at."""

    looked: bool = False  # whether there was a place to look for earlier studies
    prior: Mapping[str, Any] | None = None  # `READ` of the earlier study
    known: Mapping[str, Any] | None = None  # the patient's row of patients.parquet; None: no records were looked at
    people: PatientConfig = field(default_factory=PatientConfig)


NOTHING_LOOKED_AT = Background()


@dataclass(frozen=True)
class HuChange:
    """Trabecular HU as scanned against an earlier study, over the levels measured both times."""

    verdict: Change
    levels: tuple[str, ...] = ()  # measured both times; none where the scans can't be compared
    then: float = float("nan")
    now: float = float("nan")
    noise: float = float("nan")  # a change up to this is none
    alike: bool = True  # tube voltage and contrast phase of the two scans


def backgrounds(
    results: str | Path | pa.Table,
    rows: Sequence[Mapping[str, Any]],
    people: PatientConfig,
    patients: str | Path | None = None,
) -> dict[str, Background]:
    """By row key.

    Args:
        results: of the run, as the path or URI of a Parquet file, or a table.
        patients: patients.parquet of the run; None, or a file that is not there: records were not looked at.
    """
    keys = sorted({r["patient_key"] for r in rows if r.get("patient_key")})
    mine = pads.field("patient_key").isin(pa.array(keys, pa.string()))  # an empty list alone has no type
    source = results if isinstance(results, pa.Table) else dataset(results, RESULTS)
    scored = pads.field("state").isin([str(State.SCORED), str(State.SCORED_WARN)]) & pads.field("risk_prob").is_valid()
    if isinstance(source, pa.Table):
        others = source.filter(mine & scored).select(READ).to_pylist()
    else:
        others = source.to_table(columns=READ, filter=mine & scored).to_pylist()
    of: dict[str, list[dict[str, Any]]] = {}
    for o in others:
        of.setdefault(o["patient_key"], []).append(o)
    known: dict[str, dict[str, Any]] = {}
    looked_up = patients is not None and is_finished(patients)
    if patients is not None and looked_up:
        known = {p["patient_key"]: p for p in read_table(patients, filters=mine).to_pylist()}
    return {
        r["row_key"]: Background(
            True,
            prior_of(r, of.get(r.get("patient_key") or "", ()), people),
            known.get(r.get("patient_key") or "", {}) if looked_up else None,
            people,
        )
        for r in rows
    }


def prior_of(
    row: Mapping[str, Any], others: Sequence[Mapping[str, Any]], people: PatientConfig
) -> Mapping[str, Any] | None:
    """The earlier study that a row is compared with; None where there is none, or the row has no date."""
    day = row.get("study_date")
    dated = [o for o in others if o["study_date"] and o["study_uid"] != row["study_uid"]]
    earlier = [o for o in dated if day and o["study_date"] < day]
    # The latest first; of one study the series of highest risk, as for `patients.parquet`.
    earlier.sort(key=lambda o: (o["study_date"], o["risk_prob"], o["series_uid"]), reverse=True)
    return next((o for o in earlier if comparable(row, o, people)), earlier[0] if earlier else None)


def comparable(row: Mapping[str, Any], prior: Mapping[str, Any], people: PatientConfig) -> bool:
    now, then = (pd.DataFrame([{"kvp": r.get("kvp"), "contrast": r.get("contrast")}]) for r in (row, prior))
    return bool(like_scans(now, then, people)[0])


def hu_change(row: Mapping[str, Any], background: Background) -> HuChange:
    """What became of the HU since the earlier study."""
    prior, people = background.prior, background.people
    if prior is None:
        return HuChange(Change.NO_PRIOR)
    if not comparable(row, prior, people):
        return HuChange(Change.NOT_COMPARABLE, alike=False)
    now, then = ({v["level"]: v["hu"] for v in r.get("hu_by_level") or ()} for r in (row, prior))
    both = tuple(level for level in now if level in then)
    if not both:
        return HuChange(Change.NOT_COMPARABLE)
    a, b = (sum(x[level] for level in both) / len(both) for x in (then, now))
    noise = float(hu_noise(b, a, people))
    step = b - a
    verdict = Change.FALLEN if step < -noise else Change.RISEN if step > noise else Change.NONE
    return HuChange(verdict, both, a, b, noise)


def suppressing(background: Background) -> bool:
    """Whether a recent DXA or treatment is on record."""
    return (background.known or {}).get("known") in SUPPRESSING
