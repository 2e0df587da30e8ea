"""`osteo-ray score`: one study to the terminal or as JSON, without an archive run and without Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.commands import Command
from osteo_ray.config import ConfigError, Section, need
from osteo_ray.screening.config import ScoringConfig

if TYPE_CHECKING:
    from osteo_ray.screening.result import StudyResult


class ScoreJob(Section):
    """`osteo-ray score`."""

    study: str | None = Field(None, description="one study: folder, zip, tar, NIfTI file or URI")
    record: str | None = Field(
        None,
        description="demographics and labs in the schema's names and units: a JSON object, or the path of a file that "
        'holds one, e.g. {"age_y": 67, "sex": "F", "creatinine_umol_l": 61}; null: what the header states, and CT',
    )
    bundle: str | None = Field(
        None, description="folder of a trained bundle; null: the reference bundle, which is not validated on patients"
    )
    format: Literal["text", "json"] = Field(
        "text", description="text: for a person; json: a result document (osteo_ray/reports/result.schema.json)"
    )
    index: IndexConfig = IndexConfig()
    scoring: ScoringConfig = ScoringConfig()


def score(job: ScoreJob) -> Iterator[str]:
    """Score one study. A study that can't be scored has a state and a code, and is no error."""
    from osteo_ray.model import reference
    from osteo_ray.reports.result_json import to_result
    from osteo_ray.screening.predictor import Predictor

    study, record = need(job, "study"), read_record(job.record)
    result = Predictor.load(job.bundle or reference.bundle(), job.scoring, job.index).score(study, record)
    if job.format == "json":
        yield json.dumps(to_result(result.row), indent=1, allow_nan=False)
        return
    yield from lines(result)
    if not job.bundle:
        yield f"model      {reference.NOTICE}"


def read_record(given: str | None) -> dict[str, Any] | None:
    """A record given as JSON text, or as the path of a JSON file.

    Raises:
        ConfigError: it is neither, or no JSON object.
    """
    if given is None:
        return None
    text = given
    if not given.lstrip().startswith("{"):
        try:
            text = Path(given).read_text(encoding="utf-8")
        except OSError as e:
            raise ConfigError(f"record: {given!r} is no JSON object, and no file to read ({e.strerror})") from None
    try:
        record = json.loads(text)
    except json.JSONDecodeError as e:
        raise ConfigError(f'record: not JSON ({e}); give an object, e.g. {{"age_y": 67, "sex": "F"}}') from None
    if not isinstance(record, Mapping):
        raise ConfigError(f"record: a JSON {type(record).__name__}; give one object for one patient")
    return dict(record)


def lines(result: StudyResult) -> list[str]:
    """A result for a terminal."""
    from osteo_ray.reports.language import DISCLAIMER, words_in
    from osteo_ray.reports.study_view import origin
    from osteo_ray.reports.wording import NONE, number, percent

    row = result.row
    out = [f"study      {result.study_uid or NONE}", f"series     {result.series_uid or NONE}"]
    out.append(f"state      {words_in()(f'state.{result.state}')} ({result.state}, {result.code})")
    if result.message:
        out.append(f"           {result.message}")
    age = NONE if result.age_y is None else f"{result.age_y:.0f} y{origin(row, 'age_from')}"
    sex = NONE if result.sex is None else result.sex + origin(row, "sex_from")
    out.append(f"patient    age {age}, sex {sex}")
    if result.risk is not None:
        interval = f"{percent(result.risk_low)} to {percent(result.risk_high)}"
        out.append(
            f"risk       {percent(result.risk)} of osteoporosis ({interval}), {result.risk_class} at "
            f"{row['operating_point']}"
        )
        out.append(f"rests on   {', '.join(result.modalities)}; may be {', '.join(result.conformal_set) or NONE}")
    if result.trabecular_hu is not None:
        out.append(f"bone       {number(result.trabecular_hu, 0)} HU trabecular, as scanned")
        by_level = ", ".join(f"{v.level} {number(v.hu, 0)}" for v in result.hu_by_level)
        if by_level:
            out.append(f"           by level: {by_level}")
    if result.selected:
        slices = ", ".join(f"{s.index + 1} ({s.level or 'level not known'})" for s in result.selected)
        out.append(f"slices     {slices}; {result.slices_decoded} of {result.slices_total} decoded")
    for c in result.checks:
        if c.verdict != "pass":
            out.append(f"{c.verdict:10} {c.gate}: {c.value} (wanted: {c.threshold})")
    known = result.shap[result.shap["value"].notna() | (result.shap["group"] == "ct")]
    moved = known.sort_values("shap", key=abs, ascending=False).head(4)
    if len(moved):
        out.append("moved by   " + ", ".join(f"{r.feature} {r.shap:+.2f}" for r in moved.itertuples()) + " (log-odds)")
    return [*out, f"notice     {DISCLAIMER}"]


COMMAND = Command(ScoreJob, score, positional="study", shorthands={"--json": ("format", "json")})
