"""Ray Data: catalogue + records + bundle -> results, one row per indexed series, resumable.

    summary = screen("catalogue.parquet", records, "bundle/", "out/", ScreenConfig())

Rows carry URIs; pixels are decoded in the actor that scores them. Each batch of rows is written as its own part file,
named by what it was made from, whole or not at all; parts become shards, shards `results.parquet` (`ledger`, `shards`).
A run that is started again does what is missing. Catalogue, bundle and `out` may be paths or URIs.
"""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from osteo_ray import ray_setup
from osteo_ray.catalogue.mounted import check_mounted
from osteo_ray.io.store import Store, watched
from osteo_ray.io.trouble import retry_for
from osteo_ray.io.uris import absolute
from osteo_ray.outcomes import InputError, State
from osteo_ray.patients.record_set import (
    Records,
    RecordSet,
    records_of,
    remove_record_set,
    values_at_ct,
    write_record_set,
)
from osteo_ray.patients.table import RecordTable
from osteo_ray.progress import Advance, notice, progress_bar
from osteo_ray.screening import ledger
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.isolated import IsolatedPredictor
from osteo_ray.screening.ledger import Plan
from osteo_ray.screening.pool import Pool, pool_of, this_machine
from osteo_ray.screening.score_batch import CALLS, MARK, RUN_ERRORS, ScoreBatch, ScorerOf, launched_scorer
from osteo_ray.screening.shards import RESULTS_FILE, LedgerError, consolidate, finish_shard

__all__ = ["LedgerError", "ScreenSummary", "dry_run", "screen"]

JOINED = "records"
"""Folder of a run in which records that came as a table lie while it scores."""
RAY_START_S = 8.0
"""What Ray takes to start on one machine, about."""


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
    digest: str  # of all results but run id and timings: equal for two runs over the same input
    results: str  # path or URI

    def lines(self) -> list[str]:
        """A few lines for a terminal."""
        out = [f"{self.states.get(s, 0):8d}  {s}" for s in State]
        out.append(f"{sum(self.states.values()):8d}  in all, of {self.series} indexed series")
        out.append("codes    " + ", ".join(f"{c} {n}" for c, n in sorted(self.codes.items(), key=lambda x: -x[1])))
        out.append(f"run {self.run_id}: {self.scored_now} scored now, {self.reused} reused, {self.seconds:.1f} s")
        return out


def screen(
    catalogue: str | Path,
    records: RecordTable | RecordSet | None,
    bundle: str | Path,
    out: str | Path,
    cfg: ScreenConfig,
    only_patients: set[str] | None = None,
    quiet: bool = False,
    codes: frozenset[str] = frozenset(),
    states: frozenset[str] = frozenset(),
    run_id: str | None = None,
    scorer_of: ScorerOf = launched_scorer,
) -> ScreenSummary:
    """Score every open series of a catalogue and account for all of them in `<out>/results.parquet`.

    Args:
        only_patients: patient keys to screen; the others' series end as EXCLUDED, NOT_REQUESTED.
        codes, states: series that ended so are scored once more.
        run_id: the run that is meant; where input and config make another, nothing is scored.
        scorer_of: makes the scorer of each actor.

    Raises:
        LedgerError: where the results do not hold each indexed series exactly once.
        InputError: codes and states to score again that no series has; another run than `run_id`; an archive of which
            nothing is where the catalogue says.
        StoreError: where results could not be written for as long as `pipeline.store_patience_s`.
        BundleError, ScorerStartError: where no scorer can be had.
    """
    t0 = time.perf_counter()
    store = Store(out)
    catalogue, bundle = absolute(catalogue), absolute(bundle)
    book = records_of(records)

    def patiently(work: Callable[[], Any]) -> Any:
        return retry_for(work, store.uri, cfg.pipeline.store_patience_s)

    plan = ledger.make_plan(catalogue, book, bundle, store, cfg, only_patients)
    if run_id is not None and run_id != plan.run_id:
        raise InputError(
            f"{store.uri} holds run {run_id}, but this archive, records, bundle and config make {plan.run_id}: "
            "give those of the run, or screen again"
        )
    plan = ledger.settle(plan, store)
    if codes or states:
        plan = ledger.again(plan, store, codes, states)
    files = {s.name: s.file for s in plan.shards}
    if len(plan.pending):
        if not ray_setup.joined():  # a cluster's nodes were asked: its driver may not see the archive
            check_mounted(catalogue, plan.pending)
        ray_setup.start()
        mark = MARK + plan.run_id
        patiently(lambda: store.put(mark, b""))
        with watched(store.uri, cfg.pipeline.store_patience_s):
            files |= _score(catalogue, plan, _partitioned(records, store), bundle, store, cfg, quiet, scorer_of)
        patiently(lambda: store.remove([mark]))
        if isinstance(records, RecordTable):
            remove_record_set(store.path(JOINED))
    else:
        for i in plan.unfinished():
            work = partial(finish_shard, *_finishing(plan, i, catalogue, store))
            files |= dict([patiently(work)])
    shards = [replace(s, revision=_revision(files[s.name])) for s in plan.shards]
    with progress_bar("write results", len(plan), "series", quiet) as advance:
        counts = patiently(lambda: consolidate(store, replace(plan, shards=shards), advance))
    summary = ScreenSummary(
        run_id=plan.run_id,
        series=len(plan),
        states=counts.states,
        codes=counts.codes,
        scored_now=len(plan.pending),
        reused=plan.reused,
        seconds=time.perf_counter() - t0,
        digest=counts.hex(),
        results=store.path(RESULTS_FILE),
    )
    facts = {k: v for k, v in vars(summary).items() if k != "results"} | {"model_sha256": plan.model}
    patiently(lambda: store.put("summary.json", (json.dumps(facts, indent=1) + "\n").encode()))
    return summary


def _partitioned(records: RecordTable | RecordSet | None, store: Store) -> RecordSet | None:
    """Records where every task can read its own patients': a table in memory is written beside the results, for as
    long as there is something to score."""
    if isinstance(records, RecordTable):
        return write_record_set(records, store.path(JOINED)) if len(records) else None
    return records


def dry_run(
    catalogue: str | Path,
    records: RecordTable | RecordSet | None,
    bundle: str | Path,
    out: str | Path,
    cfg: ScreenConfig,
    only_patients: set[str] | None = None,
    sample: int = 3,
) -> list[str]:
    """What a run would do: counts, and a time estimated by scoring `sample` series here. Nothing is written."""
    catalogue, bundle = absolute(catalogue), absolute(bundle)
    book: Records = records_of(records)
    store = Store(out)
    plan = ledger.settle(ledger.make_plan(catalogue, book, bundle, store, cfg, only_patients), store, write=False)
    n_open = int(plan.open.sum())
    lines = [
        f"{len(plan):8d}  series indexed",
        f"{len(plan) - n_open:8d}  end without a score (state in the catalogue, or not asked for)",
        f"{plan.reused:8d}  scored by an earlier run",
        f"{len(plan.pending):8d}  to score",
    ]
    if len(plan.pending):
        check_mounted(catalogue, plan.pending)
        tried = plan.pending[:: max(1, len(plan.pending) // sample)][:sample]
        batches = ledger.batches(catalogue, tried, plan.keys[tried], np.ones(len(tried), np.int32), sample)
        table = pa.concat_tables(batches)
        rows, keys, dates = table.to_pylist(), table["patient_key"].to_pylist(), table["study_date"].to_pylist()
        values = values_at_ct(book, keys, dates, cfg.timeline)
        with IsolatedPredictor(bundle, cfg.scoring, cfg.index, cfg.pipeline.limits) as scorer:
            begun = time.perf_counter()
            scorer.start()
            started = time.perf_counter()
            scorer.score_rows(rows, values)
            each = (time.perf_counter() - started) / len(tried)
        # A scorer's actor is such a process too, and starts its own; Ray starts before them.
        start_up = RAY_START_S + 2 * (started - begun)
        scorers = max(1, _pool(plan, cfg).start)
        scoring = each * len(plan.pending) / scorers
        lines.append(
            f"about {_time(start_up + scoring)} with {scorers} scorers: {start_up:.0f} s to start, then "
            f"{each:.2f} s a series (from {len(tried)})"
        )
    return lines


def _time(s: float) -> str:
    """Seconds in the unit that a person plans with."""
    return f"{s:.0f} s" if s < 120 else f"{s / 60:.0f} min" if s < 7200 else f"{s / 3600:.1f} h"


def _pool(plan: Plan, cfg: ScreenConfig) -> Pool:
    """Scorers, readers and finishers for what is pending, on the cluster that was joined or on this machine."""
    import ray

    batches = sum(-(-(s.stop - s.start) // cfg.pipeline.series_per_task) for s in plan.of_shards())
    nodes = ray_setup.nodes() if ray.is_initialized() else this_machine()
    return pool_of(cfg.pipeline, batches, nodes, grows=ray_setup.joined())


def _score(
    catalogue: str,
    plan: Plan,
    records: RecordSet | None,
    bundle: str,
    store: Store,
    cfg: ScreenConfig,
    quiet: bool,
    scorer_of: ScorerOf,
) -> dict[str, str]:
    """Score what is pending; finish each shard as soon as its rows are there. Returns new files by shard name."""
    import ray

    from osteo_ray.catalogue.dataset import arrow_batches
    from osteo_ray.screening.source import read_pending

    pool = _pool(plan, cfg)
    if pool.waits:
        notice(
            f"no node has what a scorer takes (CPU {pool.cpus:g}, GPU {pool.gpus:g}, memory {pool.memory >> 20} MiB); "
            "waiting for one to join"
        )
    pending = read_pending(catalogue, plan, pool.task, records, cfg.timeline, pool.helpers)
    with ray_setup.retries_given():
        ds = pending.map_batches(
            ScoreBatch,
            fn_constructor_args=(bundle, cfg, store.uri, plan.run_id, scorer_of),
            batch_format="pyarrow",
            batch_size=1,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus or None,
            memory=pool.memory,
            compute=ray.data.ActorPoolStrategy(
                min_size=1,
                max_size=pool.most,
                initial_size=max(1, pool.start),
                max_concurrent_calls_per_actor=CALLS,
                enable_true_multi_threading=True,
            ),
            # No series can end this actor: what does is a kill or a lost node, and its batch is done again. Not for
            # ever: where each try is killed, the run ends and says so.
            max_restarts=-1,
            max_task_retries=cfg.pipeline.max_retries,
        )
    index = {s.name: i for i, s in enumerate(plan.shards)}
    waiting = np.array([s.stop - s.start for s in plan.of_shards()])
    finisher = _Finisher(plan, catalogue, store, cfg, pool.helpers)
    with (
        progress_bar("screen series", len(plan.pending), "series", quiet) as advance,
        closing(arrow_batches(ds)) as blocks,
    ):
        for i in plan.unfinished():
            if not waiting[i]:
                finisher.start(i)
        for shard, done in _receipts(blocks, advance):
            i = index[shard]
            waiting[i] -= done
            if not waiting[i]:
                finisher.start(i)
    return finisher.end()


def _receipts(blocks: Iterator[pa.Table], advance: Advance) -> Iterator[tuple[str, int]]:
    for block in blocks:
        for r in block.to_pylist():
            if r["error"]:
                raise RUN_ERRORS[r["error"]](r["message"])
            advance(r["done"])
            yield r["shard"], r["done"]


class _Finisher:
    """Finishes shards in Ray tasks, `most` at a time; whoever starts one does not wait."""

    def __init__(self, plan: Plan, catalogue: str, store: Store, cfg: ScreenConfig, most: int):
        import ray

        self._plan, self._catalogue, self._store, self._most = plan, catalogue, store, most
        self._patience_s = cfg.pipeline.store_patience_s
        # Beside the actors, which hold the cores: no CPU of its own, or a small machine would never get to it.
        self._task = ray.remote(_finish).options(
            num_cpus=0, max_retries=cfg.pipeline.max_retries, scheduling_strategy="SPREAD"
        )
        self._waiting: deque[int] = deque()
        self._running: list[Any] = []
        self._files: dict[str, str] = {}

    def start(self, i: int) -> None:
        self._waiting.append(i)
        self._go_on(timeout=0)

    def end(self) -> dict[str, str]:
        """Wait for all; new files by shard name."""
        while self._running:
            self._go_on(timeout=None)
        return self._files

    def _go_on(self, timeout: float | None) -> None:
        import ray

        if self._running:
            done, self._running = ray.wait(self._running, num_returns=1, timeout=timeout)
            self._files.update(ray.get(done))
        while self._waiting and len(self._running) < self._most:
            args = _finishing(self._plan, self._waiting.popleft(), self._catalogue, self._store)
            self._running.append(self._task.remote(self._patience_s, *args))


def _finishing(plan: Plan, i: int, catalogue: str, store: Store) -> tuple[Any, ...]:
    """Arguments of `finish_shard`."""
    s = plan.shards[i]
    return store.uri, s, catalogue, plan.keys[s.start : s.stop], plan.open[s.start : s.stop], plan.model


def _finish(patience_s: float, uri: str, *args: Any) -> tuple[str, str]:
    return retry_for(lambda: finish_shard(uri, *args), uri, patience_s)


def _revision(file: str) -> int:
    return int(file.rsplit(".r", 1)[1].removesuffix(".parquet"))
