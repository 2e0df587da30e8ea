"""Single studies are read in children that may hang or die: attacks on them, and which bundle scores."""

import asyncio
import os
import shutil
import signal
import socket
import threading
import time
import zipfile

import numpy as np
import pytest
from serving import study_config
from synthetic_bundle import synthetic_bundle

from osteo_ray.dicom import dicomweb
from osteo_ray.dicom.sources import open_source
from osteo_ray.model.bundle_files import BundleError
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.isolated import IsolatedPredictor
from osteo_ray.service.built_in_study import write_study
from osteo_ray.service.runs import Runs
from osteo_ray.service.scoring import ModelHost, Pointer

pytestmark = pytest.mark.slow

NOTHING = np.full(len(NAMES), np.nan)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return str(write_study(tmp_path_factory.mktemp("study") / "study.zip"))


@pytest.fixture
def dripping():
    """(address, connections so far) of a DICOMweb service that answers with a byte now and then, for ever."""
    gone = threading.Event()
    asked = []

    def drip(s):
        with s:
            s.recv(65536)
            asked.append(time.monotonic())
            s.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\n\r\n[")
            while not gone.wait(0.2):
                s.sendall(b" ")

    def accept(server):
        while not gone.is_set():
            try:
                s, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=lambda s=s: _quietly(drip, s), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, args=(server,), daemon=True).start()
        yield f"dicomweb+http://127.0.0.1:{server.getsockname()[1]}/dicom-web/studies/1.2.3", asked
        gone.set()


def _quietly(work, *args):
    try:
        work(*args)
    except OSError:
        return


def kill_child(predictor: IsolatedPredictor) -> None:
    assert predictor.pid is not None
    os.kill(predictor.pid, signal.SIGKILL)


def host(cfg) -> ModelHost:
    pointer = Pointer(Runs(cfg.runs).store)
    pointer.deploy(cfg.bundle)
    return ModelHost(pointer, cfg)


def test_a_service_that_drips_bytes_keeps_nobody_else_waiting(study, dripping, bundle_dir, tmp_path):
    of = host(study_config(tmp_path, bundle_dir, limits={"score_timeout_s": 20}))

    async def attack():
        slow = asyncio.create_task(of.score(dripping[0], NOTHING))
        uploads = [await of.score(study, NOTHING) for _ in range(2)]
        assert not slow.done()
        assert await of.fault() is None
        return uploads, await slow

    of.refresh()
    try:
        uploads, slow = asyncio.run(attack())
    finally:
        of.close()
    assert [a.row["slices_decoded"] > 0 for a in uploads] == [True, True]
    assert (slow.row, slow.code) == (None, "TIMEOUT")


def test_a_client_that_goes_away_ends_its_study(dripping, bundle_dir, tmp_path):
    of = host(study_config(tmp_path, bundle_dir))
    of.refresh()
    lane = of._lanes["dicomweb"]

    async def leave():
        waiting = [asyncio.create_task(of.score(dripping[0], NOTHING)) for _ in range(2)]
        while not dripping[1]:
            await asyncio.sleep(0.1)
        for w in waiting:
            w.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

    try:
        asyncio.run(leave())
    finally:
        of.close()
    lane._queue.shutdown(wait=True)  # at once, not after the 120 s that each study might have taken
    assert lane.predictor.pid is None


def test_a_killed_child_costs_no_study_and_a_deadly_study_itself(study, dripping, bundle_dir, tmp_path):
    of = host(study_config(tmp_path, bundle_dir))
    of.refresh()
    predictor = of._lanes["dicomweb"].predictor
    try:
        kill_child(of._lanes["upload"].predictor)
        assert asyncio.run(of.score(study, NOTHING)).row is not None
        address, asked = dripping

        def kill():
            for n in (1, 2):
                while len(asked) < n:  # the child reads the study
                    time.sleep(0.05)
                kill_child(predictor)

        threading.Thread(target=kill, daemon=True).start()
        answer = asyncio.run(of.score(address, NOTHING))
        assert (answer.row, answer.code) == (None, "WORKER_DIED")
    finally:
        of.close()


def test_what_is_no_study_is_refused_without_its_path(bundle_dir, tmp_path):
    of = host(study_config(tmp_path, bundle_dir))
    odd = tmp_path / "secret-name.zip"
    with zipfile.ZipFile(odd, "w") as z:
        z.writestr("readme.txt", "no CT")
    try:
        answer = asyncio.run(of.score(str(odd), NOTHING))
    finally:
        of.close()
    assert (answer.row, answer.code) == (None, "NO_STUDY")
    assert "secret-name" not in answer.message


def test_readiness_says_why_nothing_can_be_scored(bundle_dir, tmp_path):
    bundle = tmp_path / "bundle"
    shutil.copytree(bundle_dir, bundle)
    of = host(study_config(tmp_path, bundle))
    of.refresh()
    try:
        assert asyncio.run(of.fault()) is None
        of._scored_at = float("-inf")
        (bundle / "weights.safetensors").write_bytes(b"broken")
        of._lanes["upload"].predictor.close()  # the next study needs a new child
        assert "NOT_READY" in (asyncio.run(of.fault()) or "")
    finally:
        of.close()


def test_the_configured_bundle_scores_where_the_wanted_one_is_gone_or_broken(bundle_dir, tmp_path):
    cfg = study_config(tmp_path, bundle_dir)
    other = tmp_path / "other"
    sha = synthetic_bundle(seed=1).save(other)
    first = host(cfg)
    first.pointer.want(str(other))
    first.refresh()
    assert (first.model.sha256, first.pointer.fault()) == (sha, None)
    first.close()

    (other / "weights.safetensors").write_bytes(b"broken")
    second = host(cfg)
    with pytest.raises(BundleError):
        second.refresh()
    assert second.loaded
    assert second.model.sha256 != sha
    assert not second.refresh(), "the broken one is not tried again each second"
    second.close()

    shutil.rmtree(other)
    third = host(cfg)
    assert third.refresh()
    assert third.model.sha256 != sha
    assert str(other) in (third.pointer.fault() or "")
    assert third.pointer.get() == str(bundle_dir), "screenings take the same one"
    assert (third.pointer.label() or "").startswith("synthetic 0")
    third.close()


def test_answers_of_a_service_are_bounded(dripping, monkeypatch):
    source = open_source(dripping[0])
    monkeypatch.setattr(dicomweb, "ANSWER_S", 0.5)
    with pytest.raises(OSError, match="did not end within"):
        list(source.list())
    monkeypatch.setattr(dicomweb, "ANSWER_S", 60.0)
    monkeypatch.setattr(dicomweb, "MOST_BYTES", 3)
    with pytest.raises(OSError, match="longer than"):
        list(source.list())


@pytest.mark.parametrize(("same", "says"), [(True, "same one"), (False, "more than")])
def test_lists_without_an_end_end(monkeypatch, same, says):
    """One service answers every page alike, another has new series for ever."""
    source = dicomweb.DicomWebSource("dicomweb+http://127.0.0.1:9/dicom-web")
    page = [{"0020000D": {"Value": [str(i)]}} for i in range(dicomweb._PAGE)]
    monkeypatch.setattr(dicomweb, "MOST_PAGES", 5)
    monkeypatch.setattr(source, "_json", lambda uri, **at: page if same else [{**x, "at": at} for x in page])
    with pytest.raises(OSError, match=says):
        list(source._paged("x"))
