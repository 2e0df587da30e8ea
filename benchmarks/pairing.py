"""What meets what on hand-written timelines: each CT's labs, DXA and label, as stated and as found.

    python benchmarks/pairing.py            # writes docs/results/pairing.json and pairing.md

Each case is one patient, written as a person would: rows of a records table (day, then name=value; `?` is no date), the
days of the CTs (`-`: no CT), and what each CT must meet. tests/patients/test_timeline.py holds the same cases.
"""

from __future__ import annotations

import json
import subprocess
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.schema import NAMES
from osteo_ray.patients.table import RecordTable
from osteo_ray.patients.timeline import Examples, Timelines, training_examples

SHORT = {
    "crea": "creatinine_umol_l",
    "alp": "alp_u_l",
    "age": "age_y",
    "height": "height_cm",
    "weight": "weight_kg",
    "bmi": "bmi",
    "male": "sex_male",
    "t": "t_score",
    "drug": "osteoporosis_treatment",
}


@dataclass(frozen=True)
class Case:
    """One patient; `expected` by CT day ("-": the example without a CT): values by short name, T-score, why."""

    name: str
    rows: tuple[str, ...]
    expected: dict[str, str]
    rule: dict[str, object] = field(default_factory=dict)


CASES = (
    Case("one record, one CT", ("2024-02-01 crea=70 t=-2.6",), {"2024-03-01": "crea=70 t=-2.6 DXA"}),
    Case(
        "CTs of 2020 and 2024, labs and DXA of either year: each CT has its own",
        (
            "2019-12-20 crea=60",
            "2020-02-01 t=-1.2 dxa=2020-02-01",
            "2024-04-01 crea=90",
            "2024-06-01 t=-2.7 dxa=2024-06-01",
        ),
        {"2020-01-10": "crea=60 t=-1.2 DXA", "2024-05-01": "crea=90 t=-2.7 DXA"},
    ),
    Case(
        "CT of 2024, labs of 2019: too old to be its labs",
        ("2019-05-01 crea=60", "2024-04-01 t=-2.0 dxa=2024-04-01"),
        {"2024-05-01": "crea= t=-2.0 DXA"},
    ),
    Case(
        "no CT, DXA of 2019 and labs of 2021: neither is lost",
        ("2019-01-01 age=70 t=-2.7 crea=60", "2021-05-05 age=72 alp=77"),
        {"-": "age=70 crea=60 alp=77 t=-2.7 DXA"},
    ),
    Case(
        "no CT, labs of two years, an undated T-score",
        ("2020-01-01 crea=80", "2021-01-01 alp=90", "? t=-3.0"),
        {"-": "crea=80 alp=90 t=-3.0 DXA_UNDATED"},
    ),
    Case(
        "a DXA twenty years before the CT is no label",
        ("2004-03-01 t=-2.8 dxa=2004-03-01", "2024-03-01 crea=70"),
        {"2024-03-01": "crea=70 t= DXA_FAR"},
    ),
    Case(
        "of two DXA in the window the nearer counts, not the newer",
        ("2023-12-01 t=-2.6 dxa=2023-12-01", "2024-11-01 t=-1.4 dxa=2024-11-01"),
        {"2024-01-15": "t=-2.6 DXA"},
    ),
    Case(
        "two DXA equally near: the earlier",
        ("2024-01-01 t=-2.6 dxa=2024-01-01", "2024-01-21 t=-1.4 dxa=2024-01-21"),
        {"2024-01-11": "t=-2.6 DXA"},
    ),
    Case(
        "hip and spine of one day: the lowest T-score counts",
        ("2024-01-01 t=-1.9 dxa=2024-01-01", "2024-01-01 t=-2.6 dxa=2024-01-01"),
        {"2024-02-01": "t=-2.6 DXA"},
    ),
    Case("a lab dated after the CT is not known at the CT", ("2024-03-02 crea=95",), {"2024-03-01": "crea= t= NO_DXA"}),
    Case(
        "a lab of the next day, where after_days allows it",
        ("2024-03-02 crea=95",),
        {"2024-03-01": "crea=95 t= NO_DXA"},
        {"after_days": 3},
    ),
    Case(
        "rows spread over dates: of each value the latest before the CT",
        ("2024-01-05 crea=60 alp=80", "2024-02-20 alp=90", "2024-04-01 crea=99"),
        {"2024-03-01": "crea=60 alp=90 t= NO_DXA"},
    ),
    Case(
        "two values of one day are averaged",
        ("2024-02-01 crea=60", "2024-02-01 crea=80"),
        {"2024-03-01": "crea=70 t= NO_DXA"},
    ),
    Case(
        "records that give both sexes: neither is used",
        ("2024-02-01 male=1 crea=60", "2019-02-01 male=0"),
        {"2024-03-01": "male= crea=60 t= NO_DXA"},
    ),
    Case(
        "sex of ten years ago counts, weight of ten years ago does not",
        ("2014-02-01 male=1 weight=70",),
        {"2024-03-01": "male=1 weight= t= NO_DXA"},
    ),
    Case(
        "a BMI older than the weight beside it follows from the weight",
        ("2023-06-01 height=160 weight=64 bmi=25", "2024-02-01 weight=51.2"),
        {"2024-03-01": "weight=51.2 bmi=20 t= NO_DXA"},
    ),
    Case(
        "undated labs fill what no dated one gives",
        ("? crea=60 alp=80", "2024-02-01 crea=70"),
        {"2024-03-01": "crea=70 alp=80 t= NO_DXA"},
    ),
    Case("undated labs that disagree are not used", ("? crea=60", "? crea=90"), {"2024-03-01": "crea= t= NO_DXA"}),
    Case(
        "undated labs, where the rule ignores them",
        ("? crea=60 t=-2.6",),
        {"2024-03-01": "crea= t= DXA_NOT_PLACED"},
        {"undated": "ignore"},
    ),
    Case(
        "an undated T-score beside a dated DXA far off: no label",
        ("? t=-2.8", "2010-01-01 t=-1.0 dxa=2010-01-01"),
        {"2024-03-01": "t= DXA_FAR"},
    ),
    Case("a T-score is dated by its record", ("2012-01-01 t=-2.8",), {"2024-03-01": "t= DXA_FAR"}),
    Case(
        "the same, where a T-score needs a date of its own",
        ("2012-01-01 t=-2.8",),
        {"2024-03-01": "t=-2.8 DXA_UNDATED"},
        {"dxa_from_record": False},
    ),
    Case(
        "a CT without a date meets undated facts alone",
        ("2024-02-01 crea=70 t=-2.6", "? alp=80"),
        {"?": "crea= alp=80 t= DXA_NOT_PLACED"},
    ),
    Case(
        "a CT without a date, in an archive whose dates were removed",
        ("2024-02-01 crea=70 t=-2.6", "2019-01-01 crea=50 t=-1.0"),
        {"?": "crea=70 t=-2.6 DXA"},
        {"undated_ct": "latest"},
    ),
    Case(
        "treated before the CT: no label",
        ("2022-01-01 drug=1", "2024-02-01 crea=70 t=-2.6"),
        {"2024-03-01": "crea=70 t= TREATED"},
    ),
    Case(
        "treatment begun between CT and DXA: no label",
        ("2024-04-01 drug=1", "2024-08-01 t=-2.0 dxa=2024-08-01"),
        {"2024-03-01": "t= TREATED"},
    ),
    Case(
        "treatment begun after both, or ended before the CT",
        ("2015-01-01 drug=1", "2017-01-01 drug=0", "2024-02-01 t=-2.6", "2024-06-01 drug=1"),
        {"2024-03-01": "t=-2.6 DXA"},
    ),
    Case(
        "treated, where the rule keeps it",
        ("2022-01-01 drug=1", "2024-02-01 t=-2.6"),
        {"2024-03-01": "t=-2.6 DXA"},
        {"treated": "keep"},
    ),
    Case(
        "two CTs of one day: both are examples",
        ("2024-02-01 crea=70 t=-2.6",),
        {"2024-03-01": "crea=70 t=-2.6 DXA", "2024-03-01b": "crea=70 t=-2.6 DXA"},
    ),
    Case("a CT of a patient without a record", (), {"2024-03-01": "t= NO_RECORD"}),
)


def record_of(case: Case) -> pd.DataFrame:
    """The case's rows as a records frame."""
    rows = []
    for text in case.rows:
        day, *facts = text.split()
        row: dict[str, object] = {"patient_key": "p", "record_date": None if day == "?" else day}
        for name, value in (f.split("=") for f in facts):
            row[SHORT.get(name, "dxa_date")] = value if name == "dxa" else float(value)
        rows.append(row)
    frame = pd.DataFrame(rows, columns=sorted({"patient_key", "record_date"}.union(*rows)) if rows else ["patient_key"])
    for c in {"record_date", "dxa_date"} & set(frame):
        frame[c] = pd.to_datetime(frame[c])
    return frame


def examples_of(case: Case) -> Examples:
    """The case through the timeline."""
    days = [d for d in case.expected if d != "-"]
    scans = pd.DataFrame({"patient_key": "p", "series_uid": days, "study_date": [d[:10] for d in days]}, index=days)
    table = RecordTable.of(record_of(case))
    return training_examples(Timelines.of(table), scans.astype(object), TimelineConfig(**case.rule))  # type: ignore[arg-type]


def found(case: Case) -> dict[str, str]:
    """What was found, in the words of `expected`."""
    e = examples_of(case)
    out = {}
    for i, series in enumerate(e.series.tolist()):
        wanted = case.expected.get(series or "-", "")
        parts = []
        for name in (p.split("=")[0] for p in wanted.split()[:-1]):
            v = e.t_score[i] if name == "t" else e.values[i, NAMES.index(SHORT[name])]
            parts.append(f"{name}=" + ("" if np.isnan(v) else f"{v:.4g}" if name != "t" else f"{v:.1f}"))
        out[series or "-"] = " ".join([*parts, str(e.why[i])])
    return out


def page(rows: list[dict]) -> list[str]:
    """The results page: a list, for its texts are too long for a table."""
    right = sum(r["right"] for r in rows)
    lines = [
        "# What meets what: hand-written timelines",
        "",
        f"`python benchmarks/pairing.py`: {right} of {len(rows)} as stated ([rules](../decisions/timeline.md)).",
        "A row of the records is a day (`?`: none) and what it says (`t` T-score, `dxa` the DXA's own date, `drug` a",
        "drug against osteoporosis); `-` is a patient without a CT; an empty value is missing.",
        "",
    ]
    for r in rows:
        name = r["case"] + (f" ({r['rule']})" if r.get("rule") else "")
        text = f"{name}. Records: {r.get('records') or 'none'}. CT: {r['ct']}. Must meet `{r.get('expected')}`; "
        text += f"met `{r['found']}`: {'right' if r['right'] else '**wrong**'}."
        lines += textwrap.wrap(text, 118, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False)
    return lines


def main() -> None:
    rows: list[dict[str, Any]] = []
    for c in CASES:
        got = found(c)
        for day, wanted in c.expected.items():
            rule = ", ".join(f"{k}={v}" for k, v in c.rule.items())
            rows.append({"case": c.name, "records": "; ".join(c.rows), "rule": rule, "ct": day[:10],
                         "expected": wanted, "found": got.get(day), "right": got.get(day) == wanted})  # fmt: skip
        rows += [{"case": c.name, "ct": d, "found": v, "right": False} for d, v in got.items() if d not in c.expected]
    right = sum(r["right"] for r in rows)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    bars = [{"name": "pairings as stated", "value": right, "low": None, "high": None, "target": len(rows),
             "met": right == len(rows)}]  # fmt: skip
    out = Path("docs/results")
    text = {"command": "python benchmarks/pairing.py", "commit": commit, "seed": None, "rows": rows, "bars": bars}
    (out / "pairing.json").write_text(json.dumps(text, indent=1) + "\n")
    lines = page(rows)
    (out / "pairing.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
