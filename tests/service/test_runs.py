"""A screening's progress, told from its folder: parts as they come, shards as they are finished."""

import time

import pyarrow as pa

from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.store import Store
from osteo_ray.screening.schema import RESULTS
from osteo_ray.screening.shards import Counts
from osteo_ray.service.runs import Phase, RunJob, Runs


def rows(keys: str, state: str) -> list[dict]:
    return [dict.fromkeys(RESULTS.names) | {"row_key": k, "state": state, "code": "x"} for k in keys]


def test_progress_and_rows_of_a_run_that_is_half_done(tmp_path):
    run = Runs(tmp_path).create(RunJob("archive", None, None, {}, "bundle", "me", time.time()))
    run.begin()
    out = Store(run.out)
    catalogue = pa.table({"state": pa.array(["EXCLUDED"] * 3 + [None] * 7, pa.string())})
    out.put_table("catalogue.parquet", catalogue)
    finished = pa.Table.from_pylist([*rows("abc", "EXCLUDED"), *rows("d", "SCORED")], schema=RESULTS)
    counts = Counts(4, {"EXCLUDED": 3, "SCORED": 1}, {"x": 4}, {"SCORED": 1}, 0)
    out.put_table("shards/000000-0.r1.parquet", finished.replace_schema_metadata(counts.footer()))
    out.put_table("parts/000001-0-0.parquet", pa.Table.from_pylist(rows("ef", "ABSTAINED"), schema=RESULTS))
    out.put_table("parts/000001-0-1.parquet", pa.Table.from_pylist(rows("g", "SCORED"), schema=RESULTS))
    p = run.progress()
    assert (p.phase, p.series, p.total, p.done) == (Phase.SCREENING, 10, 7, 4)
    assert p.counts == {"EXCLUDED": 3, "SCORED": 2, "ABSTAINED": 2}
    assert sorted(run.table(["row_key"])["row_key"].to_pylist()) == list("abcdefg")
    assert (run.row("e") or {})["state"] == "ABSTAINED"
    assert (run.row("d") or {})["state"] == "SCORED"
    assert run.row("z") is None
    total, first = run.page(0, 5)
    assert (total, len(first)) == (7, 5)
    assert len(open_set(run.out / "catalogue.parquet")) == 10
