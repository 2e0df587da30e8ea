"""Field cases of records: what becomes of each small table that stands for a kind of export.

    python benchmarks/records_field.py ../shared/data/field/records

Writes docs/results/records_field_cases.json and .md: the right answer as the manifest states it, and what happens now.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osteo_ray.patients import RecordsError, load
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.match import match
from osteo_ray.patients.table import RecordTable

OUT = Path(__file__).parents[1] / "docs" / "results"
LONG = """\
format: long
patient_id: patient
date: time
test: test
value: result
unit: unit
tests: {creatinine_umol_l: [Creatinine], alp_u_l: [ALP]}
"""


@dataclass(frozen=True)
class Case:
    """One file, how it is loaded, and whether what happened is right: a check of (table or error)."""

    file: str
    check: Callable[[Any], bool]
    mapping: str | None = None
    also: tuple[str, ...] = ()
    text: str | None = None  # a mapping that the case brings itself


def _refused(*words: str) -> Callable[[Any], bool]:
    return lambda got: isinstance(got, RecordsError) and all(w in str(got) for w in words)


def _frame(check: Callable) -> Callable[[Any], bool]:
    return lambda got: not isinstance(got, Exception) and bool(check(got.frame))


def _days(f) -> list[str]:
    return [str(d.date()) if d == d else "" for d in f["record_date"]]


def _enzymes(f) -> list[float]:
    return f.loc[0, ["alt_u_l", "ast_u_l", "alp_u_l"]].tolist()


def _column_by_column(got: object) -> bool:
    return isinstance(got, RecordsError) and all(
        f"column '{c}'" in str(got) and f"median of {c}" in str(got)
        for c in ("glucose_mmol_l", "tg_mmol_l", "phosphate_mmol_l")
    )


def _met(got) -> bool:
    if isinstance(got, Exception):
        return False
    m = match(got, [patient_key(p, None) for p in ("12345", "P1")])
    text = " ".join(m.lines())
    return m.records_met == 1 and m.record_patients == 4 and "9999999" in text and "leading_zeros" in text


CASES = (
    Case("trailing_comma.csv", _frame(lambda f: _enzymes(f) == [20, 25, 80]), "trailing_comma.yaml"),
    Case("duplicate_header.csv", _refused("'CREA' stands more than once"), "duplicate_header.yaml"),
    Case(
        "misspelt_columns.csv",
        lambda got: (
            {"Sex (did you mean sex?)", "creatinine (did you mean creatinine_umol_l?)"}
            <= set(got.report.unused_columns)
            and {"sex_male", "age_y", "creatinine_umol_l"} <= set(got.report.not_given)
        ),
    ),
    Case("gb18030.csv", _frame(lambda f: f["sex_male"].tolist() == [1, 0]), "gb18030.yaml"),
    Case("gb18030.csv", _refused("not utf-8", "encoding: gb18030"), "duplicate_header.yaml"),
    Case("date_with_offset.csv", _frame(lambda f: _days(f) == ["2024-03-10", "2024-03-11"])),
    Case("missing_date.parquet", _frame(lambda f: _days(f) == ["2024-01-05", ""])),
    Case("missing_unit.parquet", _refused("row 2", "no unit"), "missing_unit.yaml"),
    Case(
        "comparator.ndjson",
        lambda got: sum(f.bounds for f in got.report.features) == 2
        and got.frame[["urine_albumin_mg_l", "glucose_mmol_l"]].isna().all(axis=None),
    ),
    Case("identifier_order.ndjson", _frame(lambda f: f["patient_key"].tolist() == [patient_key("12345", None)])),
    Case("preliminary_after_final.ndjson", _frame(lambda f: f["creatinine_umol_l"].tolist() == [61])),
    Case("searchset_bundle.json", _frame(lambda f: f["creatinine_umol_l"].tolist() == [61])),
    Case(
        "bulk_export_patient.ndjson",
        _frame(
            lambda f: len(f) == 1
            and f.loc[0, ["sex_male", "creatinine_umol_l"]].tolist() == [0, 61]
            and abs(f.loc[0, "age_y"] - 68.8) < 0.1
        ),
        also=("bulk_export_observation.ndjson",),
    ),
    Case("bulk_export_observation.ndjson", _refused("give the Patient file")),
    Case(
        "long_format.csv",
        _frame(
            lambda f: np.allclose(f["creatinine_umol_l"], [79.56, 88.40], atol=0.05)
            and _days(f) == ["2024-02-01", "2024-02-03"]
            and f["alp_u_l"].tolist()[0] == 92
        ),
        text=LONG,
    ),
    Case("ids_as_exported.csv", _met),
    Case("mgdl_under_si_names.csv", _column_by_column),
    Case("export.xlsx", _frame(lambda f: f["patient_key"].tolist() == [patient_key("0012345", None)]), "export.yaml"),
    Case(
        "spread_over_rows.csv",
        _frame(lambda f: f["t_score"].tolist()[0] == -2.7 and f["alp_u_l"].tolist()[1] == 77 and len(f) == 5),
    ),
)  # fmt: skip


def run_case(case: Case, folder: Path) -> tuple[RecordTable | RecordsError, bool]:
    """(table or error, whether that is right)."""
    with tempfile.TemporaryDirectory() as tmp:
        mapping = folder / case.mapping if case.mapping else None
        if case.text:
            mapping = Path(tmp) / "mapping.yaml"
            mapping.write_text(case.text)
        try:
            got: RecordTable | RecordsError = load([folder / n for n in (case.file, *case.also)], mapping)
        except RecordsError as e:
            got = e
        try:
            return got, bool(case.check(got))
        except AttributeError:
            return got, False


def happened(got: RecordTable | RecordsError) -> str:
    """What became of a case, in a sentence."""
    if isinstance(got, RecordsError):
        more = len(got.problems) - 1
        return "refused: " + got.problems[0] + (f" (and {more} more)" if more else "")
    f = got.frame.dropna(axis=1, how="all").drop(columns=["patient_key", "birth_month"], errors="ignore")
    rows = "; ".join(
        ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {str(v)[:10]}" for k, v in r.items() if v == v and v)
        for r in f.head(3).to_dict("records")
    )
    assert got.report is not None
    bounds = [f"{x.name} {x.bounds}" for x in got.report.features if x.bounds]
    notes = f"; bounds: {', '.join(bounds)}" if bounds else ""
    if any("did you mean" in c for c in got.report.unused_columns):
        notes += f"; unused: {', '.join(got.report.unused_columns)}"
    return f"{len(got)} records: {rows or 'no value'}{notes}"


def page(rows: list[dict], met: int) -> list[str]:
    """The results page: a list, for its texts are too long for a table."""
    lines = ["# Field cases of records", ""]
    lines += [f"{met} of {len(rows)} as they should be (`python benchmarks/records_field.py`).", ""]
    for r in rows:
        text = f"**{r['file']}** (read with {r['with']}), {'met' if r['met'] else '**not met**'}. "
        text += f"Right: {r['right']}. Now: {r['now']}."
        lines += textwrap.wrap(" ".join(text.split()), 118, initial_indent="- ", subsequent_indent="  ")
    return lines


def main(folder: str) -> None:
    with open(Path(folder) / "manifest.csv", newline="") as f:
        right = {r["file"]: r["right"] for r in csv.DictReader(f)}
    rows: list[dict[str, Any]] = []
    for case in CASES:
        got, ok = run_case(case, Path(folder))
        text = happened(got)
        if case.file == "ids_as_exported.csv" and not isinstance(got, Exception):
            text = " | ".join(match(got, [patient_key(p, None) for p in ("12345", "P1")]).lines())
        how = " + ".join([*case.also, case.mapping or ("a long mapping" if case.text else "default")])
        rows.append({"file": case.file, "with": how, "right": right[case.file], "now": text, "met": ok})
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    met = sum(r["met"] for r in rows)
    bars = [
        {
            "name": "field cases right",
            "value": met,
            "low": None,
            "high": None,
            "target": len(rows),
            "met": met == len(rows),
        }
    ]
    done = {"command": "python benchmarks/records_field.py", "commit": commit, "seed": None, "rows": rows, "bars": bars}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "records_field_cases.json").write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n")
    lines = page(rows, met)
    (OUT / "records_field_cases.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "../shared/data/field/records")
