"""What goes over the wire; OpenAPI is made from these."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from osteo_ray.outcomes import State
from osteo_ray.reports.result_json import schema
from osteo_ray.service.runs import Phase, RunState
from osteo_ray.service.tokens import Role


class Body(BaseModel):
    """Base of what clients send: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid")


class Options(Body):
    """What a client may change of the operator's screening config; null leaves it."""

    gate_policy: Literal["strict", "lenient"] | None = Field(None, description="strict: every warning is a failure")
    shap: bool | None = Field(None, description="explain each scored study")
    worklist_top_n_per_week: int | None = Field(None, ge=1, le=100_000, description="capacity for worklist.csv")


class NewScreening(Body):
    """POST /v1/screenings"""

    archive: str = Field(
        min_length=1, max_length=4096, description="path under a configured folder, bucket, or dicomweb+https://..."
    )
    records: str | None = Field(
        None, min_length=1, max_length=4096, description="CSV, Parquet or FHIR NDJSON under a configured folder"
    )
    mapping: str | None = Field(
        None, min_length=1, max_length=4096, description="a shipped mapping's name, or YAML under a configured folder"
    )
    options: Options = Options()


class Screening(BaseModel):
    """One screening: what was asked, and how far it is."""

    id: str
    state: RunState
    phase: Phase
    archive: str
    records: str | None
    options: Options
    by: str
    created: str
    started: str | None
    finished: str | None
    attempt: int = Field(description="drivers that it has used")
    series: int | None = Field(description="indexed; null before the catalogue is there")
    total: int | None = Field(description="series to score")
    done: int
    counts: dict[State, int] = Field(description="by outcome; sums to `series` when the state is DONE")
    eta_s: float | None = Field(description="seconds left at the present pace; null where nothing can be said")
    error: str | None
    bundle: str


class Screenings(BaseModel):
    total: int
    items: list[Screening]


class ResultDocument(RootModel[dict[str, Any]]):
    """One series' result, as `reports/result.schema.json` has it."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core: Any, handler: Any) -> dict[str, Any]:
        return {k: v for k, v in schema().items() if not k.startswith("$")}


class ResultsPage(BaseModel):
    """Results in the order of series UIDs; `partial` while the screening goes on."""

    total: int
    offset: int
    partial: bool
    items: list[ResultDocument]


class Feedback(BaseModel):
    """One person's judgement of one result."""

    time: str
    by: str
    verdict: Literal["accept", "reject"]
    note: str


class NewFeedback(Body):
    verdict: Literal["accept", "reject"]
    note: str = Field("", max_length=500, description="no patient identifiers, please")


class Identity(BaseModel):
    """Who a study is of, read from its images' header when it is shown; kept nowhere."""

    name: str
    number: str
    accession: str


class WorklistRow(BaseModel):
    """One line of the worklist."""

    rank: int | None = Field(description="of the patient, by risk; null where there is no score")
    row_key: str
    patient_key: str | None
    state: State
    code: str
    message: str | None
    risk_prob: float | None
    risk_low: float | None
    risk_high: float | None
    risk_class: Literal["high", "low"] | None
    age_y: float | None
    sex: str | None
    age_from: Literal["record", "header"] | None = Field(description="where the age comes from")
    sex_from: Literal["record", "header"] | None = Field(description="where the sex comes from")
    modalities: list[str]
    study_date: str | None
    why: str = Field(description="why it ended so, in words; empty where there is nothing to say")
    note: str = Field(description="warnings, and what is known of the patient, in words")
    identity: Identity | None = Field(None, description="with `identifiers: true` alone")
    suppressed: str | None = Field(description="why `worklist.csv` leaves the patient out (KNOWN_DXA, ON_TREATMENT)")
    feedback: list[Feedback]


class WorklistPage(BaseModel):
    total: int = Field(description="rows that the filters leave")
    offset: int
    partial: bool
    items: list[WorklistRow]


class StudyPage(BaseModel):
    """One result, and the same laid out for a page: words, numbers and positions are those of the HTML report."""

    result: ResultDocument
    page: dict[str, Any] = Field(description="osteo_ray.reports.study_view.Page")
    slices_total: int | None
    identity: Identity | None = Field(None, description="with `identifiers: true` alone")
    readable: bool = Field(description="whether the series' slices can be shown")
    feedback: list[Feedback]


class ModelInfo(BaseModel):
    name: str
    version: str
    sha256: str
    wanted: str = Field(description="the bundle asked for; until each replica has it, others may still answer")
    fault: str | None = Field(description="why another than the bundle last asked for scores; null: it does")


class NewModel(Body):
    bundle: str = Field(min_length=1, max_length=4096, description="path under a configured folder of bundles")


class Me(BaseModel):
    name: str
    role: Role


class Places(BaseModel):
    """What may be screened here."""

    roots: list[str]
    buckets: list[str]
    dicomweb: list[str]
    records: list[str]


class Health(BaseModel):
    status: Literal["ok"]


class AuditLines(BaseModel):
    lines: list[dict[str, Any]]
