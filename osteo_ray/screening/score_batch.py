"""The actor of the screening pipeline: batches of catalogue rows in, a part file of each written, a receipt out.

It loads no model: the scorer is in a process of its own, which this one watches.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from osteo_ray import ray_setup
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.io.store import Store
from osteo_ray.io.trouble import StoreError, retry_for
from osteo_ray.model.bundle_files import BundleError
from osteo_ray.outcomes import InputError
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening import ledger
from osteo_ray.screening.catalogue_rows import CatalogueRows
from osteo_ray.screening.config import ScoringConfig, ScreenConfig, SeriesLimits
from osteo_ray.screening.isolated import IsolatedPredictor, ScorerStartError
from osteo_ray.screening.schema import RESULTS

RECEIPT = pa.schema([("shard", pa.string()), ("done", pa.int64()), ("error", pa.string()), ("message", pa.string())])
RUN_ERRORS: dict[str, type[Exception]] = {
    e.__name__: e for e in (StoreError, BundleError, InputError, ScorerStartError)
}
"""Errors of which no series is guilty: they go back in a receipt, and end the run."""
ADDED = ("row_key", "attempt", "record")
"""Columns of a batch that its catalogue rows do not have."""
CALLS = 2
"""Tasks that an actor has at a time."""
MARK = ".scoring-"
"""Begin of the name of a file that lies in a run's folder while it scores: a scorer on another node looks for it."""


class Scorer(Protocol):
    """What an actor scores with."""

    def score_rows(self, rows: Sequence[Mapping[str, Any]], records: np.ndarray) -> list[dict[str, Any]]:
        """Result rows of catalogue rows and their records, float [n, F]."""


ScorerOf = Callable[[str, ScoringConfig, IndexConfig, SeriesLimits], Scorer]
"""Makes a scorer from a bundle and the run's configs, in the actor."""


def launched_scorer(bundle: str, scoring: ScoringConfig, index: IndexConfig, limits: SeriesLimits) -> Scorer:
    """The scorer of an actor, loading in its process while the first batch is on its way.

    A process of its own: a series that hangs, crashes or eats memory is quarantined, and its batch goes on.
    """
    scorer = IsolatedPredictor(bundle, scoring, index, limits)
    scorer.launch()
    return scorer


class ScoreBatch:
    """Ray Data actor: holds a scorer, scores batches of catalogue rows, writes a part file of each.

    It takes `CALLS` tasks at a time: the scorer has one batch while the next is unpacked and the last one's part is
    written.
    """

    def __init__(self, bundle: str, cfg: ScreenConfig, out: str, run_id: str, scorer_of: ScorerOf = launched_scorer):
        self.scorer = scorer_of(bundle, cfg.scoring, cfg.index, cfg.pipeline.limits)
        self.out = Store(out)
        self.patience_s = cfg.pipeline.store_patience_s
        self.run_id = run_id
        self.same_folder = False
        self.one_at_a_time = threading.Lock()

    def __call__(self, table: pa.Table) -> pa.Table:
        receipts = []
        for shard, work in zip(table["shard"].to_pylist(), table["batch"].to_pylist(), strict=True):
            batches = [pa.Table.from_batches([b]) for b in pa.ipc.open_stream(work)]
            receipt = {"shard": shard, "done": sum(b.num_rows for b in batches), "error": None, "message": None}
            try:
                self._check_folder()
                self._score(shard, batches)
            except tuple(RUN_ERRORS.values()) as e:  # no series is to blame: the run ends, and says why
                receipt |= {"done": 0, "error": type(e).__name__, "message": str(e)}
            receipts.append(receipt)
        # Only receipts go back: results never pass through the driver.
        return pa.Table.from_pylist(receipts, schema=RECEIPT)

    def _check_folder(self) -> None:
        """A node that an autoscaler started may lack the mount: its parts would lie on its own disk, and be missed.

        Raises:
            StoreError: the folder of the run is another one here.
        """
        if not self.same_folder and not self._retry(lambda: self.out.exists(MARK + self.run_id)):
            raise StoreError(
                f"node {ray_setup.node_address()}: out: {self.out.uri} is another folder than the driver's; mount the "
                "same folder at this path on every node, or name a bucket (s3://...)"
            )
        self.same_folder = True

    def _score(self, shard: str, batches: Sequence[pa.Table]) -> None:
        parts = [ledger.part_name(shard, b["row_key"].to_pylist(), b["attempt"].to_pylist()) for b in batches]
        there = self._retry(lambda: self.out.those_there(parts))  # an actor that was killed had got so far
        for part, batch in zip(parts, batches, strict=True):
            if part not in there:
                self._score_batch(shard, batch)

    def _score_batch(self, shard: str, batch: pa.Table) -> None:
        records = _record_column(batch)
        rows = CatalogueRows(batch.select([c for c in batch.column_names if c not in ADDED]))
        with self.one_at_a_time:
            results = self.scorer.score_rows(rows, records)
        keys, attempts = batch["row_key"].to_pylist(), batch["attempt"].to_pylist()
        for k, a, r in zip(keys, attempts, results, strict=True):
            r.update(row_key=k, attempt=a, run_id=self.run_id)
        table = pa.Table.from_pylist(results, schema=RESULTS)
        self._retry(lambda: ledger.write_part(self.out, shard, table))

    def _retry(self, work: Callable[[], Any]) -> Any:
        return retry_for(work, self.out.uri, self.patience_s)


def _record_column(batch: pa.Table) -> np.ndarray:
    """The records joined to a batch, float32 [n, F]; NaN where there are none."""
    if "record" not in batch.column_names:
        return np.full((batch.num_rows, len(NAMES)), np.nan, np.float32)
    return batch["record"].combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(batch.num_rows, -1)
