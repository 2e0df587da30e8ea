"""What is done, what is missing, what is tried again: by files alone, without a scorer."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from osteo_ray.catalogue.schema import CATALOGUE
from osteo_ray.config import validate
from osteo_ray.io.store import Store
from osteo_ray.patients import RecordTable
from osteo_ray.patients.record_set import records_of
from osteo_ray.screening import ledger
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.schema import RESULTS
from osteo_ray.screening.shards import LedgerError, consolidate, digest_of, finish_shard

CFG = validate(ScreenConfig, {"pipeline": {"shard_rows": 4}})
NOBODY = records_of(None)
N = 10
CLOSED = 3  # of each ten rows the index ended the first three


def write_catalogue(path: Path, n: int = N) -> str:
    rows = []
    for i in range(n):
        row = dict.fromkeys(CATALOGUE.names) | {"series_uid": f"1.{i}", "content_hash": f"h{i}", "patient_key": f"p{i}"}
        if i < CLOSED:
            row |= {"state": "EXCLUDED", "code": "Q_LOCALIZER", "stage": "gate", "message": "a localizer"}
        rows.append(row | {"study_uid": "1", "instances": [], "n_slices": 3})
    pq.write_table(pa.Table.from_pylist(rows, schema=CATALOGUE), path, row_group_size=3)
    return str(path)


def result(key: bytes, attempt: int = 1, code: str = "OK", run: str = "r") -> dict:
    row = dict.fromkeys(RESULTS.names) | {"row_key": key.decode(), "attempt": attempt, "run_id": run, "code": code}
    risk = 0.1 + int(key[:4], 16) / 1e6
    return row | {"state": "SCORED" if code == "OK" else "QUARANTINED", "stage": "score", "risk_prob": risk}


def score(plan, out, rows=None, codes=None, run="r"):
    """What the actors do: parts of two rows of one shard; `codes` by catalogue row."""
    for shard, of_shard in zip(plan.shards, plan.of_shards(), strict=True):
        todo = [
            (i, a)
            for i, a in zip(plan.pending[of_shard], plan.attempt[of_shard], strict=True)
            if rows is None or i in rows
        ]
        for k in range(0, len(todo), 2):
            results = [result(plan.keys[i], int(a), (codes or {}).get(int(i), "OK"), run) for i, a in todo[k : k + 2]]
            ledger.write_part(out, shard.name, pa.Table.from_pylist(results, schema=RESULTS))


def finish(plan, out, catalogue):
    files = {s.name: s.file for s in plan.shards}
    for i in plan.unfinished():
        s = plan.shards[i]
        keys, is_open = plan.keys[s.start : s.stop], plan.open[s.start : s.stop]
        files |= dict([finish_shard(out.uri, s, catalogue, keys, is_open, plan.model)])
    shards = [replace(s, revision=int(files[s.name].split(".r")[1].split(".")[0])) for s in plan.shards]
    return consolidate(out, replace(plan, shards=shards))


@pytest.fixture
def at(tmp_path, bundle_dir):
    """A catalogue, an empty run, and its plan as a run would make it now."""
    catalogue = write_catalogue(tmp_path / "catalogue.parquet")
    out = Store(tmp_path / "out")

    def plan(catalogue=catalogue, records=NOBODY, only=None, cfg=CFG):
        return ledger.settle(ledger.make_plan(catalogue, records, str(bundle_dir), out, cfg, only), out)

    return catalogue, out, plan


def test_parts_become_shards_and_shards_results_in_the_catalogues_order(at):
    catalogue, out, plan = at
    p = plan()
    assert p.pending.tolist() == list(range(CLOSED, N))
    assert [s.stop - s.start for s in p.shards] == [4, 4, 2]
    score(p, out)
    counts = finish(p, out, catalogue)
    t = pq.read_table(out.path("results.parquet"))
    assert t.schema.equals(RESULTS)
    assert t["row_key"].to_pylist() == [k.decode() for k in p.keys]
    assert counts.states == {"EXCLUDED": 3, "SCORED": 7}
    assert counts.scored == {"SCORED": 7}
    assert t["message"].to_pylist()[:CLOSED] == ["a localizer"] * CLOSED
    assert out.names("parts/") == []
    done = plan()
    assert len(done.pending) == 0
    assert done.unfinished() == []
    assert done.reused == 7


@pytest.mark.parametrize("stop", range(8))
def test_a_run_cut_short_anywhere_comes_out_the_same(at, stop):
    """Seven rows are scored; after `stop` of them the run ends, once more than halfway through finishing."""
    catalogue, out, plan = at
    first = plan()
    whole = Store(out.uri + "-whole")
    score(first, whole, run="other")
    expected = finish(first, whole, catalogue)
    score(first, out, set(range(CLOSED, CLOSED + stop)))
    if stop > 4:  # the first shard was written, but its parts were not yet removed
        s = first.shards[0]
        kept = {n: out.get(n) for n in out.names("parts/", s.name)}
        finish_shard(out.uri, s, catalogue, first.keys[:4], first.open[:4], first.model)
        for n, data in kept.items():
            out.put(n, data)
    out.put("parts/.cut.tmp", b"cut short")
    p = plan()
    assert p.pending.tolist() == list(range(CLOSED + stop, N)), "what was written is not scored again"
    score(p, out)
    got = finish(p, out, catalogue)
    assert (got.digest, got.states, got.codes) == (expected.digest, expected.states, expected.codes)


def test_a_damaged_part_is_scored_again(at):
    catalogue, out, plan = at
    p = plan()
    score(p, out)
    name = out.names("parts/")[1]
    out.put(name, out.get(name)[:100])
    again = plan()
    assert len(again.pending) == 2
    score(again, out)
    assert finish(again, out, catalogue).rows == N


def test_a_row_that_is_nowhere_stops_the_run(at):
    catalogue, out, plan = at
    p = plan()
    score(p, out, rows=set(range(CLOSED, N - 1)))
    with pytest.raises(LedgerError, match="1 of 2 scored series have no result row"):
        finish(p, out, catalogue)


def test_a_shard_that_is_not_what_its_name_says_stops_the_run(at):
    catalogue, out, plan = at
    p = plan()
    score(p, out)
    finish(p, out, catalogue)
    names = out.names("shards/")
    out.put(names[0], out.get(names[1]))
    out.remove(["results.parquet"])
    with pytest.raises(LedgerError, match="does not hold the rows"):
        finish(plan(), out, catalogue)


def test_the_same_in_an_object_store(at, bundle_dir):
    """Catalogue, bundle and results by URI (fsspec's in-memory store; `tests/test_store.py` has a real S3 protocol)."""
    catalogue, _, plan = at
    away = Store("memory://archive")
    away.put("catalogue.parquet", Path(catalogue).read_bytes())
    for f in bundle_dir.iterdir():
        away.put(f"bundle/{f.name}", f.read_bytes())
    out, uri = Store("memory://archive/run"), away.path("catalogue.parquet")
    for _ in range(2):  # the second time there is nothing to do
        p = ledger.settle(ledger.make_plan(uri, NOBODY, away.path("bundle"), out, CFG), out)
        assert (p.keys == plan().keys).all()
        score(p, out)
        assert finish(p, out, uri).states == {"EXCLUDED": 3, "SCORED": 7}
    assert len(p.pending) == 0
    rows = pa.concat_tables(ledger.batches(uri, np.arange(2, 8), p.keys[2:8], np.ones(6, np.int32), 2))
    assert rows["series_uid"].to_pylist() == [f"1.{i}" for i in range(2, 8)]
    assert rows["row_key"].to_pylist() == [k.decode() for k in p.keys[2:8]]


def test_retry_does_only_what_was_asked_and_the_last_attempt_counts(at):
    catalogue, out, plan = at
    p = plan()
    score(p, out, codes={4: "TIMEOUT", 8: "TIMEOUT", 9: "WORKER_DIED"})
    before = finish(p, out, catalogue)
    assert before.codes["TIMEOUT"] == 2
    with pytest.raises(
        ledger.NothingToRetry, match=r"ended as NO_SUCH; codes there are: OK 4, TIMEOUT 2, WORKER_DIED 1"
    ):
        ledger.again(plan(), out, frozenset({"NO_SUCH"}), frozenset())

    r = ledger.again(plan(), out, frozenset({"TIMEOUT"}), frozenset())
    assert (r.pending.tolist(), r.attempt.tolist()) == ([4, 8], [2, 2])
    score(r, out, rows={4}, codes={4: "TIMEOUT"})  # cut short here
    r = ledger.again(plan(), out, frozenset({"TIMEOUT"}), frozenset())
    assert (r.pending.tolist(), r.attempt.tolist()) == ([8], [2]), "row 4 was tried again in this retry already"
    score(r, out)
    after = finish(r, out, catalogue)
    assert after.codes == {"Q_LOCALIZER": 3, "OK": 5, "TIMEOUT": 1, "WORKER_DIED": 1}
    t = pq.read_table(out.path("results.parquet"))
    assert t["attempt"].to_pylist() == [1, 1, 1, 1, 2, 1, 1, 1, 2, 1]
    assert len(out.names("shards/")) == 3, "older revisions are gone"

    r = ledger.again(plan(), out, frozenset(), frozenset({"QUARANTINED"}))
    assert (r.pending.tolist(), r.attempt.tolist()) == ([4, 9], [3, 2])


def test_an_archive_that_grew_keeps_what_was_scored(at, tmp_path):
    catalogue, out, plan = at
    p = plan()
    score(p, out)
    finish(p, out, catalogue)
    table = pq.read_table(catalogue)
    new = pa.Table.from_pylist([table.to_pylist()[5] | {"series_uid": "0.1"}], schema=CATALOGUE)
    pq.write_table(pa.concat_tables([new, table]), tmp_path / "grown.parquet")  # every row moves by one
    grown = plan(str(tmp_path / "grown.parquet"))
    assert grown.pending.tolist() == [0]
    score(grown, out)
    assert finish(grown, out, str(tmp_path / "grown.parquet")).states == {"EXCLUDED": 3, "SCORED": 8}


def test_rows_not_asked_for_are_scored_when_they_are(at):
    catalogue, out, plan = at
    few = plan(only={"p4", "p9"})
    score(few, out)
    assert finish(few, out, catalogue).codes == {"Q_LOCALIZER": 3, "NOT_REQUESTED": 5, "OK": 2}
    rest = plan()
    assert rest.pending.tolist() == [3, 5, 6, 7, 8]


def test_a_repeated_catalogue_row_keeps_a_row_of_its_own(at, tmp_path):
    catalogue, out, plan = at
    table = pq.read_table(catalogue)
    pq.write_table(pa.concat_tables([table, table.slice(7)]), tmp_path / "twice.parquet")
    p = plan(str(tmp_path / "twice.parquet"))
    assert len(set(p.keys.tolist())) == len(p) == N + 3
    score(p, out)
    assert finish(p, out, str(tmp_path / "twice.parquet")).rows == N + 3


def test_a_row_key_depends_on_content_record_model_and_config(at):
    *_, plan = at
    frame = pd.DataFrame({"patient_key": ["p4"], "record_date": pd.to_datetime(["2020-01-01"]), "alp_u_l": [80.0]})
    have = records_of(RecordTable.of(frame))
    base = plan().keys
    changed = base != plan(records=have).keys
    assert changed.nonzero()[0].tolist() == [4]
    pipeline = validate(ScreenConfig, {"pipeline": {"shard_rows": 4, "actors": 7, "series_per_task": 1}})
    assert (plan(cfg=pipeline).keys == base).all(), "how the work is cut is no part of the result"
    others = ({"scoring": {"shap": False}}, {"timeline": {"lab_days": 30}}, {"index": {"gates": {"policy": "strict"}}})
    for other in others:
        assert (plan(cfg=validate(ScreenConfig, {"pipeline": {"shard_rows": 4}} | other)).keys != base).all()
    labels = {"timeline": {"dxa_days": 30, "treated": "keep"}}
    assert (plan(cfg=validate(ScreenConfig, {"pipeline": {"shard_rows": 4}} | labels)).keys == base).all()


def test_the_digest_leaves_out_order_run_and_times():
    rows = [result(f"{i:032x}".encode()) for i in range(5)]
    base = digest_of(pa.Table.from_pylist(rows, schema=RESULTS))
    moved = [r | {"run_id": "x", "select_s": 3.0} for r in rows[::-1]]
    assert digest_of(pa.Table.from_pylist(moved, schema=RESULTS)) == base
    moved[2]["risk_prob"] = float(np.nextafter(moved[2]["risk_prob"], 1))
    assert digest_of(pa.Table.from_pylist(moved, schema=RESULTS)) != base
