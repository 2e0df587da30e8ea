"""Ray Data: catalogue + records + bundle -> results, one row per indexed series, resumable.

    summary = screen("catalogue.parquet", records, "bundle/", "out/", ScreenConfig())

Rows carry URIs; pixels are decoded in the actor that scores them. Each batch of rows is written as
its own part file, named by what it was made from and moved into place when complete. A run that is
started again reads which rows are there and does the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from osteo_ray import rayenv
from osteo_ray.bundle import verify
from osteo_ray.outcomes import Stage, State
from osteo_ray.progress import stage
from osteo_ray.records.schema import NAMES
from osteo_ray.records.table import RecordTable
from osteo_ray.records.window import WindowConfig, join
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.isolated import IsolatedScorer
from osteo_ray.screening.schema import RESULTS
from osteo_ray.screening.scorer import COPIED, Scorer

KEY_COLUMNS = ["series_uid", "content_hash", "patient_key", "study_date", "state"]


@dataclass(frozen=True)
class ScreenSummary:
    """What a run came to. `states` sums to `series`."""

    run_id: str
    series: int
    states: dict[str, int]
    codes: dict[str, int]
    scored_now: int
    reused: int
    seconds: float
    results: Path

    def lines(self) -> list[str]:
        """A few lines for a terminal."""
        out = [f"{self.states.get(s, 0):8d}  {s}" for s in State]
        out.append(f"{sum(self.states.values()):8d}  in all, of {self.series} indexed series")
        out.append("codes    " + ", ".join(f"{c} {n}" for c, n in sorted(self.codes.items(), key=lambda x: -x[1])))
        out.append(f"run {self.run_id}: {self.scored_now} scored now, {self.reused} reused, {self.seconds:.1f} s")
        return out


class LedgerError(RuntimeError):
    """The results do not account for every indexed series exactly once."""


@dataclass(frozen=True)
class Records:
    """Values by patient and study date, as the scorers read them from the object store."""

    keys: np.ndarray  # str, sorted
    values: np.ndarray  # float32 [n, F], NaN missing

    @classmethod
    def of(cls, table: RecordTable | None, rows: Iterable[Mapping[str, Any]], window: WindowConfig) -> Records:
        """The records of catalogue rows' patients as they were at the CT (`records.join`)."""
        if table is None or len(table) == 0:
            return cls(np.zeros(0, "U1"), np.zeros((0, len(NAMES)), np.float32))
        known = set(table.frame["patient_key"])
        wanted = {_record_key(r): r for r in rows if r["patient_key"] in known}
        keys = sorted(wanted)
        studies = pd.DataFrame(
            {
                "patient_key": [wanted[k]["patient_key"] for k in keys],
                "study_date": pd.to_datetime([wanted[k]["study_date"] for k in keys], errors="coerce"),
            }
        )
        return cls(np.array(keys, dtype=str), join(table, studies, **window.model_dump()).matrix()[0])

    def take(self, rows: Iterable[Mapping[str, Any]]) -> np.ndarray:
        """Values [n, F] for catalogue rows; NaN for those without a record."""
        wanted = np.array([_record_key(r) for r in rows], dtype=str)
        out = np.full((len(wanted), len(NAMES)), np.nan, np.float32)
        if len(self.keys):
            i = np.minimum(np.searchsorted(self.keys, wanted), len(self.keys) - 1)
            hit = self.keys[i] == wanted
            out[hit] = self.values[i[hit]]
        return out


def _record_key(row: Mapping[str, Any]) -> str:
    return f"{row['patient_key'] or ''}|{row['study_date'] or ''}"


class ScoreBatch:
    """Ray Data actor: loads the bundle once, scores a batch of catalogue rows, writes its part file."""

    def __init__(self, bundle: str, records: Any, cfg: ScreenConfig, parts: str, run_id: str, salt: str):
        import ray

        # In a process of its own: a series that hangs, crashes or eats memory is quarantined, its batch goes on.
        self.scorer = IsolatedScorer(bundle, cfg.scoring, cfg.index, cfg.pipeline.limits)
        self.records: Records = ray.get(records)
        self.parts = Path(parts)
        self.run_id = run_id
        self.salt = salt

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        values = self.records.take(rows)
        results = self.scorer.score_rows(rows, values)
        for row, v, r in zip(rows, values, results, strict=True):
            r["row_key"] = row_key(row, v, self.salt)
            r["run_id"] = self.run_id
        write_part(self.parts, results)
        # Only a receipt goes back: results never pass through the driver.
        return pa.table({"done": pa.array([len(rows)], pa.int64())})


def row_key(row: Mapping[str, Any], values: np.ndarray, salt: str) -> str:
    """What a result depends on: the series' content, the patient's record, model and config (in `salt`)."""
    h = hashlib.blake2b(digest_size=16)
    for part in (row["series_uid"], row["content_hash"], salt):
        h.update(str(part).encode() + b"\0")
    h.update(np.ascontiguousarray(values, np.float32).tobytes())
    return h.hexdigest()


def write_part(folder: Path, results: Sequence[Mapping[str, Any]]) -> None:
    """Write result rows under a name made of their keys; the file appears whole or not at all."""
    name = hashlib.blake2b("".join(sorted(r["row_key"] for r in results)).encode(), digest_size=16).hexdigest()
    table = pa.Table.from_pylist([dict(r) for r in results], schema=RESULTS)
    tmp = folder / f".{name}.{os.getpid()}.tmp"
    pq.write_table(table, tmp, compression="zstd")
    os.replace(tmp, folder / f"{name}.parquet")


def screen(
    catalogue: str | Path,
    records: RecordTable | None,
    bundle: str | Path,
    out: str | Path,
    cfg: ScreenConfig,
    only_patients: set[str] | None = None,
    quiet: bool = False,
) -> ScreenSummary:
    """Score every open series of a catalogue and account for all of them in `<out>/results.parquet`.

    Args:
        only_patients: patient keys to screen; the others' series end as EXCLUDED, NOT_REQUESTED.

    Raises:
        LedgerError: where the results do not hold each indexed series exactly once.
    """
    t0 = time.perf_counter()
    out = Path(out).absolute()
    parts = out / "parts"
    parts.mkdir(parents=True, exist_ok=True)
    catalogue, bundle = Path(catalogue).absolute(), Path(bundle).absolute()
    plan = _plan(catalogue, records, bundle, out, cfg, only_patients)
    if plan.pending:
        rayenv.start()
        _score(catalogue, plan, bundle, parts, cfg, quiet)

    keep = {plan.keys[i] for i in plan.open_rows}
    closed = _closed_rows(catalogue, plan)
    results = _collect(parts, keep, closed, plan.run_id)
    if sorted(results["row_key"].to_pylist()) != sorted(plan.keys):
        raise LedgerError(f"{results.num_rows} result rows do not account for the {len(plan.rows)} indexed series")
    _write_whole(results, out / "results.parquet")
    summary = ScreenSummary(
        run_id=plan.run_id,
        series=len(plan.rows),
        states=dict(Counter(results["state"].to_pylist())),
        codes=dict(Counter(results["code"].to_pylist())),
        scored_now=len(plan.pending),
        reused=len(plan.open_rows) - len(plan.pending),
        seconds=time.perf_counter() - t0,
        results=out / "results.parquet",
    )
    facts = {k: v for k, v in vars(summary).items() if k != "results"} | {"model_sha256": plan.model}
    (out / "summary.json").write_text(json.dumps(facts, indent=1) + "\n")
    return summary


def dry_run(
    catalogue: str | Path,
    records: RecordTable | None,
    bundle: str | Path,
    out: str | Path,
    cfg: ScreenConfig,
    only_patients: set[str] | None = None,
    sample: int = 3,
) -> list[str]:
    """What a run would do: counts, and a time estimated by scoring `sample` series here, keeping nothing."""
    plan = _plan(Path(catalogue), records, Path(bundle), Path(out), cfg, only_patients)
    lines = [
        f"{len(plan.rows):8d}  series indexed",
        f"{len(plan.rows) - len(plan.open_rows):8d}  end without a score (state in the catalogue, or not asked for)",
        f"{len(plan.open_rows) - len(plan.pending):8d}  scored by an earlier run",
        f"{len(plan.pending):8d}  to score",
    ]
    if plan.pending:
        scorer = Scorer.load(bundle, cfg.scoring, cfg.index)
        tried = plan.pending[:: max(1, len(plan.pending) // sample)][:sample]
        rows = pq.read_table(catalogue).take(tried).to_pylist()
        t = time.perf_counter()
        scorer.score_rows(rows, plan.records.take(rows))
        each = (time.perf_counter() - t) / len(tried)
        total = each * len(plan.pending) / cfg.pipeline.actors
        lines.append(
            f"about {total:.0f} s with {cfg.pipeline.actors} scorers ({each:.2f} s a series, from {len(tried)})"
        )
    return lines


@dataclass(frozen=True)
class _Plan:
    rows: list[dict[str, Any]]
    keys: list[str]
    open_rows: list[int]
    pending: list[int]
    records: Records
    salt: str
    model: str
    run_id: str


def _plan(
    catalogue: Path,
    records: RecordTable | None,
    bundle: Path,
    out: Path,
    cfg: ScreenConfig,
    only_patients: set[str] | None,
) -> _Plan:
    model = verify(bundle)
    salt = hashlib.blake2b(
        json.dumps([model, cfg.scoring.model_dump(mode="json"), cfg.index.gates.model_dump(mode="json")]).encode(),
        digest_size=16,
    ).hexdigest()
    rows = pq.read_table(catalogue, columns=KEY_COLUMNS).to_pylist()
    table = Records.of(records, rows, cfg.window)
    values = table.take(rows)
    keys = [row_key(r, v, salt) for r, v in zip(rows, values, strict=True)]
    run_id = hashlib.blake2b("".join(keys).encode() + salt.encode(), digest_size=6).hexdigest()
    asked = [only_patients is None or r["patient_key"] in only_patients for r in rows]
    open_rows = [i for i, r in enumerate(rows) if r["state"] is None and asked[i]]
    have = done_keys(out / "parts")
    return _Plan(rows, keys, open_rows, [i for i in open_rows if keys[i] not in have], table, salt, model, run_id)


def done_keys(parts: Path) -> set[str]:
    """Row keys that the part files hold."""
    files = sorted(parts.glob("*.parquet"))
    return {k for f in files for k in pq.read_table(f, columns=["row_key"])["row_key"].to_pylist()}


def _score(catalogue: Path, plan: _Plan, bundle: Path, parts: Path, cfg: ScreenConfig, quiet: bool) -> None:
    import ray

    from osteo_ray.archive.dataset import arrow_batches, read_series

    p = cfg.pipeline
    records = ray.put(plan.records)
    ds = read_series(catalogue, plan.pending, p.series_per_task, num_cpus=0.1).map_batches(
        ScoreBatch,
        fn_constructor_args=(str(bundle), records, cfg, str(parts), plan.run_id, plan.salt),
        batch_format="pyarrow",
        batch_size=p.series_per_task,
        num_cpus=p.actor_cpus,
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=p.actors),
        # No series can end this actor: what does is a kill or a lost node, and its batch is simply done again.
        max_restarts=-1,
        max_task_retries=p.max_retries,
    )
    with stage("screen series", len(plan.pending), "series", quiet) as advance:
        for receipt in arrow_batches(ds):
            advance(sum(receipt["done"].to_pylist()))


def _closed_rows(catalogue: Path, plan: _Plan) -> list[dict[str, Any]]:
    """Result rows of the series that the index ended, or that were not asked for."""
    columns = [*COPIED, "n_slices", "state", "code", "stage", "message"]
    out = []
    open_rows = set(plan.open_rows)
    start = 0
    f = pq.ParquetFile(catalogue)
    for g in range(f.num_row_groups):
        for k, row in enumerate(f.read_row_group(g, columns=columns).to_pylist(), start):
            if k in open_rows:
                continue
            if row["state"] is None:
                row |= {
                    "state": str(State.EXCLUDED),
                    "code": "NOT_REQUESTED",
                    "stage": str(Stage.CHOOSE),
                    "message": "the patient is not among those asked for",
                }
            row |= {"row_key": plan.keys[k], "run_id": plan.run_id, "attempt": 1, "slices_total": row.pop("n_slices")}
            row["model_sha256"] = plan.model
            out.append(row)
        start += f.metadata.row_group(g).num_rows
    return out


def _collect(parts: Path, keep: set[str], closed: list[dict[str, Any]], run_id: str) -> pa.Table:
    """This run's rows, each once, by series UID. A row that two part files hold is taken once."""
    tables = [pa.Table.from_pylist(closed, schema=RESULTS)]
    seen: set[str] = set()
    for f in sorted(parts.glob("*.parquet")):
        t = pq.read_table(f, schema=RESULTS)
        mine = []
        for k in t["row_key"].to_pylist():
            mine.append(k in keep and k not in seen)
            if mine[-1]:
                seen.add(k)
        tables.append(t.filter(pa.array(mine, pa.bool_())))
    whole = pa.concat_tables(tables).sort_by("series_uid")
    # Rows that an earlier run made belong to this run as well.
    i = whole.schema.get_field_index("run_id")
    return whole.set_column(i, "run_id", pa.array([run_id] * whole.num_rows, pa.string()))


def _write_whole(table: pa.Table, path: Path) -> None:
    tmp = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    pq.write_table(table, tmp, compression="zstd", row_group_size=50_000)
    os.replace(tmp, path)
