"""The pipeline's actor: two tasks at a time, one batch at a time in the scorer."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from osteo_ray.io.store import Store
from osteo_ray.screening import ledger
from osteo_ray.screening.catalogue_rows import CatalogueRows
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.score_batch import CALLS, MARK, ScoreBatch

RUN = "0" * 12


class OneAtATime:
    """A scorer that fails where it is asked while it works."""

    def __init__(self):
        self.free, self.scored = threading.Lock(), threading.Semaphore(0)

    def score_rows(self, rows, records):
        assert self.free.acquire(blocking=False), "two batches at once"
        results = [{"series_uid": r["series_uid"], "state": "SCORED", "code": "OK"} for r in rows]
        self.free.release()
        self.scored.release()
        return results


def task(key):
    batch = pa.table({"series_uid": [f"1.{key}"], "row_key": [str(key) * 32], "attempt": pa.array([1], pa.int32())})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as w:
        w.write_table(batch)
    return pa.table({"shard": [f"00000{key}-" + "a" * 20], "batch": [sink.getvalue().to_pybytes()]})


def test_the_scorer_works_while_a_part_is_written(tmp_path, monkeypatch):
    Store(str(tmp_path)).put(MARK + RUN, b"")
    scorer = OneAtATime()
    actor = ScoreBatch("bundle", ScreenConfig(), str(tmp_path), RUN, lambda *_: scorer)
    write, tasks = ledger.write_part, 2 * CALLS

    def slow_write(out, shard, table):
        # No part is written before the other task's batch, too, has been scored.
        assert scorer.scored.acquire(timeout=60)
        both.wait(timeout=60)
        write(out, shard, table)

    both = threading.Barrier(CALLS)
    monkeypatch.setattr(ledger, "write_part", slow_write)
    with ThreadPoolExecutor(CALLS) as pool:
        receipts = [t.to_pylist()[0] for t in pool.map(actor, map(task, range(tasks)))]
    assert [r["error"] for r in receipts] == [None] * tasks
    assert len(list(tmp_path.glob("parts/*.parquet"))) == tasks


def test_rows_of_a_catalogue_pickled_are_the_same_rows():
    table = pa.table({"series_uid": ["1", "2"], "instances": [[{"uri": "a", "z_mm": 1.0}], []]})
    rows = pickle.loads(pickle.dumps(CatalogueRows(table)))
    assert list(rows) == table.to_pylist()
    assert len(rows) == 2
    with pytest.raises(IndexError):
        rows[2]
