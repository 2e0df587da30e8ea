"""A series that hangs, crashes or eats memory ends with a code; the rows beside it are scored."""

import os
import signal
import socket
import threading

import numpy as np
import pyarrow.parquet as pq
import pytest

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.config import validate
from osteo_ray.io.child_process import ChildProcess
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening import isolated
from osteo_ray.screening.config import ScoringConfig, SeriesLimits
from osteo_ray.screening.isolated import IsolatedPredictor, ScorerStartError
from osteo_ray.screening.predictor import Predictor
from osteo_ray.screening.score_batch import launched_scorer

CFG = ScoringConfig(shap=False)
pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def rows(cohort_run):
    return [r for r in pq.read_table(cohort_run.catalogue).to_pylist() if r["state"] is None][:3]


@pytest.fixture
def silent():
    """(address, server) of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as s:
        s.settimeout(300)
        yield f"http://127.0.0.1:{s.getsockname()[1]}/x.dcm", s


def planted(row, **of_each):
    return {**row, "instances": [{**i, **of_each} for i in row["instances"]]}


def values(n):
    return np.full((n, len(NAMES)), np.nan, np.float32)


def test_a_hang_and_a_memory_hog_cost_themselves_alone(rows, bundle_dir, silent, tmp_path):
    """One series lies on a server that never answers, one is a compressed object of 4 GiB (a sparse file)."""
    pytest.importorskip("aiohttp")
    huge = tmp_path / "huge"
    with huge.open("wb") as f:
        f.truncate(1 << 32)
    hog = planted(rows[1], uri=huge.as_uri(), transfer_syntax="1.2.840.10008.1.2.4.80", offset=0, length=-1)
    batch = [planted(rows[0], uri=silent[0]), rows[2], hog, rows[0]]
    limits = validate(SeriesLimits, {"series_timeout_s": 15, "series_memory_mb": 1024})
    with IsolatedPredictor(str(bundle_dir), CFG, IndexConfig(), limits) as scorer:
        got = scorer.score_rows(batch, values(4))
        assert scorer.ended == 1, "only the hang cost a process"
    assert [(r["state"], r["code"]) for r in got[::2]] == [("QUARANTINED", "TIMEOUT"), ("QUARANTINED", "OUT_OF_MEMORY")]
    assert all(r["model_sha256"] and r["risk_prob"] is None for r in got[::2])
    alone = Predictor.load(bundle_dir, CFG).score_rows([rows[2], rows[0]], values(2))
    assert [r["risk_prob"] for r in got[1::2]] == [r["risk_prob"] for r in alone], "to the last bit"
    assert None not in [r["risk_prob"] for r in alone]


@pytest.mark.parametrize("kills", [2, 3])
def test_a_process_killed_while_it_starts_is_started_again(rows, bundle_dir, monkeypatch, kills):
    """A kill for want of memory ends neither the batch nor the run; one at every try does."""
    killed: list[int] = []

    def start(*args, **kw):
        child = ChildProcess(*args, **kw)
        if len(killed) < kills:
            killed.append(child.pid)
            os.kill(child.pid, signal.SIGKILL)
        return child

    monkeypatch.setattr(isolated, "ChildProcess", start)
    with IsolatedPredictor(str(bundle_dir), CFG, IndexConfig(), SeriesLimits()) as scorer:
        if kills < isolated.START_TRIES:
            assert scorer.score_rows([rows[1]], values(1))[0]["risk_prob"] is not None
        else:
            with pytest.raises(ScorerStartError, match="signal 9"):
                scorer.score_rows([rows[1]], values(1))
    assert len(killed) == kills


def test_a_scorer_launched_loads_unasked_and_one_killed_meanwhile_is_started_again(rows, bundle_dir):
    """An actor's scorer loads while its first batch is on its way."""
    limits = SeriesLimits()
    scorer = launched_scorer(str(bundle_dir), CFG, IndexConfig(), limits)
    assert isinstance(scorer, IsolatedPredictor)
    with scorer:
        launched = scorer.pid
        assert launched is not None
        assert not scorer.model, "nobody has waited for it"
        scorer.start()
        assert scorer.pid == launched
        assert scorer.model
        scorer.close()
        scorer.launch()
        os.kill(scorer.pid, signal.SIGKILL)
        assert scorer.score_rows([rows[1]], values(1))[0]["risk_prob"] is not None


def test_a_process_killed_once_costs_no_row_and_twice_its_series(rows, bundle_dir, silent):
    pytest.importorskip("aiohttp")
    stuck = planted(rows[0], uri=silent[0])  # holds the child still, so that the kill falls on this series
    # One connection a child: none of a killed child's is taken for the next one's.
    one_read = ScoringConfig(shap=False, read_at_once=1)
    with IsolatedPredictor(str(bundle_dir), one_read, IndexConfig(), SeriesLimits()) as scorer:
        scorer.score_rows([rows[1]], values(1))
        assert scorer.pid is not None
        os.kill(scorer.pid, signal.SIGKILL)
        assert scorer.score_rows([rows[1]], values(1))[0]["risk_prob"] is not None

        def kill_when_stuck():
            for _ in range(2):
                connection, _ = silent[1].accept()  # the child is at that series
                with connection:
                    assert scorer.pid is not None
                    os.kill(scorer.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_stuck)
        killer.start()
        got = scorer.score_rows([stuck, rows[1]], values(2))
        killer.join()
    assert (got[0]["state"], got[0]["code"]) == ("QUARANTINED", "WORKER_DIED")
    assert "signal 9" in got[0]["message"]
    assert got[1]["risk_prob"] is not None
