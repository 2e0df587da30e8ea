import json
import os
import signal
import socket
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch

from osteo_ray import patients as records
from osteo_ray.config import validate
from osteo_ray.outcomes import InputError, State
from osteo_ray.patients.config import TimelineConfig
from osteo_ray.patients.record_set import open_record_set, records_of, values_at_ct, write_record_set
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.pipeline import dry_run, screen
from osteo_ray.screening.schema import RESULTS, VOLATILE

pytestmark = pytest.mark.ray
CFG = validate(ScreenConfig, {"pipeline": {"series_per_task": 2, "shard_rows": 10}, "scoring": {"shap": False}})
STABLE = [n for n in RESULTS.names if n not in VOLATILE]


@pytest.fixture(scope="module")
def table(cohort_run):
    return records.load(cohort_run.records)


@pytest.fixture(scope="module")
def done(cohort_run, table, bundle_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("screen")
    return screen(cohort_run.catalogue, table, bundle_dir, out, CFG, quiet=True)


def test_every_indexed_series_ends_in_exactly_one_state(cohort_run, done):
    cat = pq.read_table(cohort_run.catalogue)
    results = pq.read_table(done.results)
    assert results.schema.equals(RESULTS)
    assert sorted(results["series_uid"].to_pylist()) == sorted(cat["series_uid"].to_pylist())
    assert sum(done.states.values()) == done.series == cat.num_rows
    assert set(results["state"].to_pylist()) <= {str(s) for s in State}
    assert None not in results["code"].to_pylist()
    assert done.states.get("SCORED", 0) + done.states.get("SCORED_WARN", 0) >= 3
    assert f"{cat.num_rows:8d}  in all, of {cat.num_rows} indexed series" in done.lines()


def test_a_scored_row_is_whole(done):
    results = pq.read_table(done.results)
    rows = results.filter(pc.is_valid(results["risk_prob"])).to_pylist()
    for r in rows:
        assert 0 <= r["risk_low"] <= r["risk_prob"] <= r["risk_high"] <= 1
        assert r["p_normal"] + r["p_osteopenia"] + r["p_osteoporosis"] == pytest.approx(1)
        assert r["risk_class"] == ("high" if r["risk_prob"] >= r["threshold"] else "low")
        assert sum(s["weight"] for s in r["selected"]) == pytest.approx(1, abs=1e-5)
        looks = 4 + 3 + 4  # coarse, kept, spare
        assert r["slices_decoded"] <= looks < r["slices_total"], "only what the policy looked at was decoded"
        assert r["bytes_read"] > 0
        assert all(0 <= s["index"] < r["slices_total"] and s["sop_uid"] for s in r["selected"])


def test_run_again_scores_nothing_and_gives_the_same(cohort_run, table, bundle_dir, done):
    before = pq.read_table(done.results)
    again = screen(cohort_run.catalogue, table, bundle_dir, Path(done.results).parent, CFG, quiet=True)
    assert (again.scored_now, again.reused) == (0, done.scored_now)
    assert again.run_id == done.run_id
    assert pq.read_table(again.results).equals(before)


def some_shards(done, to, n=None):
    (to / "shards").mkdir(parents=True)
    for p in sorted((Path(done.results).parent / "shards").glob("*.parquet"))[:n]:
        (to / "shards" / p.name).write_bytes(p.read_bytes())


def test_an_interrupted_run_does_only_what_is_missing(cohort_run, table, bundle_dir, done, tmp_path):
    some_shards(done, tmp_path, 2)
    (tmp_path / "shards" / ".half.tmp").write_bytes(b"cut short")
    rest = screen(cohort_run.catalogue, table, bundle_dir, tmp_path, CFG, quiet=True)
    assert 0 < rest.reused < done.scored_now
    assert rest.scored_now + rest.reused == done.scored_now
    assert rest.digest == done.digest
    assert pq.read_table(rest.results, columns=STABLE).equals(pq.read_table(done.results, columns=STABLE))


def test_how_rows_are_batched_and_cut_does_not_change_a_bit(cohort_run, table, bundle_dir, done, tmp_path):
    p = CFG.pipeline.model_copy(update={"series_per_task": 3, "actors": 1, "shard_rows": 1000})
    other = screen(
        cohort_run.catalogue, table, bundle_dir, tmp_path, CFG.model_copy(update={"pipeline": p}), quiet=True
    )
    assert other.digest == done.digest
    assert pq.read_table(other.results, columns=STABLE).equals(pq.read_table(done.results, columns=STABLE))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("asked", [{"pipeline": {"actor_gpus": 0.5}}, {"scoring": {"device": "cuda"}}])
def test_a_gpu_that_is_not_there_is_said(cohort_run, bundle_dir, tmp_path, asked):
    """By the driver where Ray would wait for one, by the scorer where torch sees none; nothing hangs."""
    with pytest.raises(InputError, match="sees no GPU"):
        screen(cohort_run.catalogue, None, bundle_dir, tmp_path, validate(ScreenConfig, asked), quiet=True)


def test_a_changed_record_is_scored_again_and_only_that_one(cohort_run, table, bundle_dir, done, tmp_path):
    some_shards(done, tmp_path)
    results = pq.read_table(done.results)
    scored = results.filter(pc.is_valid(results["risk_prob"]))["patient_key"].to_pylist()
    key = next(k for k in scored if k in set(table.frame["patient_key"]))
    frame = table.frame.copy()
    frame.loc[frame["patient_key"] == key, "alp_u_l"] = 333.0
    again = screen(cohort_run.catalogue, records.RecordTable.of(frame), bundle_dir, tmp_path, CFG, quiet=True)
    assert again.scored_now == scored.count(key)
    assert again.digest != done.digest


def test_patients_not_asked_for_are_accounted_for(cohort_run, table, bundle_dir, tmp_path):
    cat = pq.read_table(cohort_run.catalogue)
    one = cat.filter(pc.is_null(cat["state"]))["patient_key"][0].as_py()
    s = screen(cohort_run.catalogue, table, bundle_dir, tmp_path, CFG, only_patients={one}, quiet=True)
    assert sum(s.states.values()) == cat.num_rows
    assert s.codes["NOT_REQUESTED"] >= 1
    facts = json.loads((tmp_path / "summary.json").read_text())
    assert facts["states"] == s.states


def test_a_series_that_can_not_be_decoded_costs_itself_alone(cohort_run, table, bundle_dir, tmp_path):
    """The pixels of one series are cut off after indexing; it ends with a code, its neighbours are scored."""
    cat = pq.read_table(cohort_run.catalogue)
    rows = cat.to_pylist()
    victim = next(i for i, r in enumerate(rows) if r["state"] is None)
    bad = tmp_path / "cut.dcm"
    bad.write_bytes(b"\0" * 300)
    for inst in rows[victim]["instances"]:
        inst["uri"] = str(bad)
    pq.write_table(pa.Table.from_pylist(rows, schema=cat.schema), tmp_path / "catalogue.parquet")
    s = screen(tmp_path / "catalogue.parquet", table, bundle_dir, tmp_path / "out", CFG, quiet=True)
    got = {r["series_uid"]: r for r in pq.read_table(s.results).to_pylist()}
    r = got[rows[victim]["series_uid"]]
    assert r["state"] in ("QUARANTINED", "ERROR")
    assert r["stage"] == "decode"
    assert r["code"]
    assert r["risk_prob"] is None
    others = [x for x in got.values() if x["series_uid"] != r["series_uid"] and x["risk_prob"] is not None]
    assert len(others) >= 2


@pytest.fixture
def hostile():
    """Ports of two servers: one takes connections and never answers, one kills whoever asks."""

    def kill_each(server: socket.socket) -> None:
        while True:
            try:
                conn, peer = server.accept()
            except OSError:
                return
            for c in psutil.net_connections("tcp"):
                if c.laddr and c.laddr.port == peer[1] and c.pid:
                    with suppress(ProcessLookupError):  # reads run side by side: another one has killed it already
                        os.kill(c.pid, signal.SIGKILL)
            conn.close()

    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_server(("127.0.0.1", 0)) as deadly:
        threading.Thread(target=kill_each, args=(deadly,), daemon=True).start()
        yield silent.getsockname()[1], deadly.getsockname()[1]
        deadly.shutdown(socket.SHUT_RDWR)


def test_a_hang_a_memory_hog_and_a_crash_cost_themselves_alone(cohort_run, table, bundle_dir, done, hostile, tmp_path):
    """One series lies on a server that never answers, one is a compressed object of 4 GiB, one kills its reader."""
    pytest.importorskip("aiohttp")
    silent, deadly = (f"http://127.0.0.1:{port}/x.dcm" for port in hostile)
    huge = tmp_path / "huge"
    with huge.open("wb") as f:
        f.truncate(1 << 32)
    cat = pq.read_table(cohort_run.catalogue)
    rows = cat.to_pylist()
    before = {r["series_uid"]: r for r in pq.read_table(done.results).to_pylist()}
    victims = [r for r in rows if before[r["series_uid"]]["risk_prob"] is not None][:3]
    hog = {"uri": huge.as_uri(), "transfer_syntax": "1.2.840.10008.1.2.4.80", "offset": 0, "length": -1}
    for row, planted in zip(victims, ({"uri": silent}, hog, {"uri": deadly}), strict=True):
        row["instances"] = [{**i, **planted} for i in row["instances"]]
    pq.write_table(pa.Table.from_pylist(rows, schema=cat.schema), tmp_path / "catalogue.parquet")
    limits = {"series_timeout_s": 15, "series_memory_mb": 1024}
    cfg = validate(ScreenConfig, {"pipeline": {"series_per_task": 4, "limits": limits}, "scoring": {"shap": False}})
    s = screen(tmp_path / "catalogue.parquet", table, bundle_dir, tmp_path / "out", cfg, quiet=True)
    after = {r["series_uid"]: r for r in pq.read_table(s.results).to_pylist()}
    ends = [(after[v["series_uid"]]["state"], after[v["series_uid"]]["code"]) for v in victims]
    assert ends == [("QUARANTINED", c) for c in ("TIMEOUT", "OUT_OF_MEMORY", "WORKER_DIED")]
    spared = set(before) - {v["series_uid"] for v in victims}
    assert [{k: after[u][k] for k in STABLE} for u in spared] == [{k: before[u][k] for k in STABLE} for u in spared]


def test_dry_run_counts_and_keeps_nothing(cohort_run, table, bundle_dir, tmp_path):
    lines = dry_run(cohort_run.catalogue, table, bundle_dir, tmp_path, CFG)
    cat = pq.read_table(cohort_run.catalogue)
    open_rows = sum(s is None for s in cat["state"].to_pylist())
    assert lines[0].split() == [str(cat.num_rows), "series", "indexed"]
    assert lines[3].split() == [str(open_rows), "to", "score"]
    assert "scorers" in lines[4]
    assert not list(tmp_path.rglob("*.parquet"))


def test_records_are_those_of_the_time_of_the_ct(tmp_path):
    frame = pd.DataFrame(
        {
            "patient_key": ["a"] * 3,
            "record_date": pd.to_datetime(["2020-01-01", "2020-05-20", "2020-07-01"]),
            "age_y": [60.0, 60.0, 60.0],
            "alp_u_l": [50.0, 80.0, 110.0],
        }
    )
    keys, dates = ["a", "a", "nobody", None], ["20200601", "20211201", "20200601", None]
    table = records.RecordTable.of(frame)
    got = values_at_ct(records_of(table), keys, dates, TimelineConfig())
    alp, age = NAMES.index("alp_u_l"), NAMES.index("age_y")
    assert got[0, alp] == 80, "the nearest before the CT, not the later one"
    assert np.isnan(got[1, alp]), "too old"
    assert np.isnan(got[1, age])
    assert np.isnan(got[2:]).all()
    later = TimelineConfig(after_days=60)
    assert values_at_ct(records_of(table), keys, dates, later)[0, alp] == 80
    assert np.isnan(values_at_ct(records_of(None), keys, dates, later)).all()
    write_record_set(table, str(tmp_path), partitions=3)
    again = values_at_ct(open_record_set(str(tmp_path)), keys, dates, TimelineConfig())
    assert np.array_equal(again, got, equal_nan=True)
