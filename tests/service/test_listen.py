"""Live mode with real DIMSE: Orthanc sends a study and gets its reports; what goes wrong is told, and tried again."""

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
import yaml
from orthanc_running import free_port, installed, running, store
from planted import TAGS, found_in, leaks, plant
from pydicom import dcmread
from pydicom.uid import Comprehensive3DSRStorage, CTImageStorage, MRImageStorage, generate_uid
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt

from osteo_ray.config import validate
from osteo_ray.dicom.sources import file_path
from osteo_ray.outcomes import InputError
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.record_set import write_record_set
from osteo_ray.patients.table import RecordTable
from osteo_ray.reports.sr import REPLACES
from osteo_ray.screening.isolated import IsolatedPredictor, ScorerStartError
from osteo_ray.service.dicom_server import OF_ONE_ADDRESS
from osteo_ray.service.json_lines import append, read
from osteo_ray.service.listen import Listener, ListenError
from osteo_ray.service.listen_config import ListenConfig
from osteo_ray.service.spool import Spool, StudyState

pytestmark = pytest.mark.ray

VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO


@pytest.fixture(scope="module")
def ct(cohort_run, tmp_path_factory) -> list[Path]:
    """The files of one synthetic study, with planted names."""
    row = next(r for r in pq.read_table(cohort_run.catalogue).to_pylist() if r["state"] is None)
    folder = tmp_path_factory.mktemp("ct")
    for i, item in enumerate(row["instances"]):
        plant(Path(file_path(item["uri"])), folder / f"{i}.dcm")
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def scorer(bundle_dir):
    cfg = config()
    with IsolatedPredictor(str(bundle_dir), cfg.scoring, cfg.index, cfg.limits) as scorer:
        scorer.start()
        yield scorer


def config(**keys) -> ListenConfig:
    base = {"port": 0, "callers": ["PACS", "ORTHANC"], "quiet_s": 0.5, "backoff_s": 0.2, "attempts": 2, "timeout_s": 10}
    base["reports"] = {"formats": ["sr", "json"]}
    return validate(ListenConfig, base | {"index": {"pseudonym_key": "k"}} | keys)


def associate(listener, kinds, calling="PACS", called="OSTEORAY"):
    ae = AE(calling)
    for kind in kinds:
        for syntax in ALL_TRANSFER_SYNTAXES:  # each alone, so that every one is accepted or refused by itself
            ae.add_requested_context(kind, syntax)
    return ae.associate("127.0.0.1", listener.port, ae_title=called)


def send(listener, files) -> list[int]:
    assoc = associate(listener, [CTImageStorage])
    assert assoc.is_established
    try:
        return [assoc.send_c_store(f if not isinstance(f, Path) else dcmread(f)).Status for f in files]
    finally:
        assoc.release()


def wait(found, seconds=90):
    for _ in range(seconds * 10):
        got = found()
        if got:
            return got
        time.sleep(0.1)
    raise AssertionError("nothing came")


def ledger(spool: Path) -> list[dict]:
    path = spool / "ledger.jsonl"
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def test_orthanc_sends_a_study_and_gets_sr_back(ct, scorer, tmp_path):
    if not installed():
        pytest.skip("Orthanc is not installed (Debian: orthanc orthanc-dicomweb orthanc-gdcm)")
    port, spool, home = free_port(), tmp_path / "spool", tmp_path / "orthanc"
    home.mkdir()
    cfg = config(
        destination={"host": "127.0.0.1", "port": port, "ae_title": "ORTHANC"},
        reports={"formats": ["sr", "sc"], "identifiers": True},
    )
    with Listener(cfg, spool, scorer, scorer.model) as listener:
        known = {"osteo": ["OSTEORAY", "127.0.0.1", listener.port]}
        with running(home, port, known) as (base, session, _):
            root = base.removesuffix("/dicom-web")
            assert session.post(f"{root}/modalities/osteo/echo", data="{}", timeout=30).status_code == 200
            store(session, base, [f.read_bytes() for f in ct])

            def series() -> dict[str, dict]:
                found = [
                    session.get(f"{root}/series/{s}", timeout=30).json() for s in session.get(f"{root}/series").json()
                ]
                return {s["MainDicomTags"]["Modality"]: s for s in found}

            for n in (1, 2):  # sent twice, reported once
                session.post(
                    f"{root}/modalities/osteo/store", json=[series()["CT"]["ID"]], timeout=120
                ).raise_for_status()
                wait(lambda n=n: len(ledger(spool)) >= n)
                assert set(series()) == {"CT", "SR", "OT"}
                assert [len(series()[m]["Instances"]) for m in ("SR", "OT")] == [1, 1]
            assert len(session.get(f"{root}/patients", timeout=30).json()) == 1, "it is filed under its patient"
            data = session.get(f"{root}/instances/{series()['SR']['Instances'][0]}/file", timeout=30).content
    (tmp_path / "sr.dcm").write_bytes(data)
    sr = dcmread(tmp_path / "sr.dcm")
    assert sr.PatientID == TAGS["PatientID"]
    assert sr.StudyInstanceUID == dcmread(ct[0]).StudyInstanceUID
    first, second = ledger(spool)
    assert first["row_key"] == second["row_key"]
    assert (first["state"], first["instances"], len(first["sent"])) == ("DONE", len(ct), 2)
    assert first["sent"][0] == sr.SOPInstanceUID
    assert not list((spool / "incoming").iterdir()), "what is done is not kept"
    assert not list((spool / "studies").iterdir())


@pytest.mark.parametrize("as_set", [False, True])
def test_nobody_is_named_where_identifiers_were_not_asked_for(ct, scorer, tmp_path, caplog, as_set):
    key = patient_key(TAGS["PatientID"], "k")
    record = {"patient_key": [key], "record_date": pd.to_datetime([None]), "alp_u_l": [99.0], "urea_mmol_l": [5.0]}
    table = RecordTable.of(pd.DataFrame(record))
    folder = str(tmp_path.with_name(f"{tmp_path.name}-records"))
    records = write_record_set(table, folder, 3) if as_set else table
    with caplog.at_level("INFO"), Listener(config(), tmp_path, scorer, scorer.model, records) as listener:
        assert set(send(listener, ct)) == {0}
        (line,) = wait(lambda: ledger(tmp_path))
    assert line["outcome"] in ("SCORED", "SCORED_WARN", "ABSTAINED")
    report = tmp_path / "reports" / line["row_key"] / "sr.dcm"
    assert dcmread(report).PatientIdentityRemoved == "YES"
    result = json.loads((report.parent / "result.json").read_text())
    assert result["patient_key"] == key
    assert "labs" in result["modalities"], "the record was found by the same pseudonym"
    assert leaks(tmp_path) == []
    assert found_in(caplog.text.encode()) == []


def test_who_may_not_send_is_refused(scorer, tmp_path):
    with Listener(config(), tmp_path, scorer, scorer.model) as listener:
        echo = associate(listener, [VERIFICATION])
        assert echo.is_established
        assert echo.send_c_echo().Status == 0
        echo.release()
        assert associate(listener, [CTImageStorage], calling="STRANGER").is_rejected
        assert associate(listener, [CTImageStorage], called="OTHER").is_rejected
        assert not associate(listener, [MRImageStorage]).is_established, "CT only"
    with pytest.raises(InputError, match="callers"):
        Listener(config(callers=[]), tmp_path, scorer, scorer.model)


def test_what_can_not_be_taken_is_answered_and_leaves_nothing(ct, scorer, tmp_path):
    with Listener(
        config(max_spool_bytes=ct[0].stat().st_size + 4096, quiet_s=60), tmp_path, scorer, scorer.model
    ) as listener:
        nobody = dcmread(ct[0])
        nobody.StudyInstanceUID = ""
        assert send(listener, [nobody]) == [0xC000]
        assert send(listener, [ct[0], ct[0], ct[1]]) == [0, 0, 0xA700], (
            "the same again costs nothing; another is too much"
        )
        odd = dcmread(ct[0])
        odd.StudyInstanceUID, odd.SOPInstanceUID = "../../../etc", generate_uid()
        odd.file_meta.MediaStorageSOPInstanceUID = odd.SOPInstanceUID
        assert send(listener, [odd]) == [0xA700]
    files = [p for p in (tmp_path / "incoming").rglob("*") if p.is_file()]
    assert [p.suffix for p in files] == [".dcm"]


def test_a_destination_that_is_away_is_tried_again(ct, scorer, tmp_path):
    got, port = [], free_port()
    destination = {"host": "127.0.0.1", "port": port, "ae_title": "AWAY"}
    with Listener(config(destination=destination, attempts=50), tmp_path, scorer, scorer.model) as listener:
        send(listener, ct)
        wait(lambda: [p for p in (tmp_path / "studies").glob("*.json") if json.loads(p.read_text())["attempt"] >= 2])
        away = AE("AWAY")
        away.add_supported_context(Comprehensive3DSRStorage)
        answers = iter([0xA700, 0x0000])

        def take(event):
            got.append(event.dataset.SOPInstanceUID)
            return next(answers)

        server = away.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, take)])
        (line,) = wait(lambda: ledger(tmp_path))
        assert server is not None
        server.shutdown()
    assert line["state"] == "DONE"
    assert got == [line["sent"][0]] * 2, "refused once, taken the second time"


def test_a_study_that_can_not_be_screened_ends_with_a_code(ct, scorer, tmp_path, monkeypatch):
    with Listener(config(), tmp_path / "a", scorer, scorer.model) as listener:
        monkeypatch.setattr(scorer, "score_rows", lambda *a: (_ for _ in ()).throw(RuntimeError("Sonnenschein")))
        send(listener, ct)
        (line,) = wait(lambda: ledger(tmp_path / "a"))
    assert (line["state"], line["code"], line["attempt"]) == ("FAILED", "SCREENING_FAILED", 2)
    assert line["message"] == "RuntimeError"
    monkeypatch.undo()
    no_image = dcmread(ct[0])
    del no_image.ImagePositionPatient
    del no_image.Rows
    with Listener(config(), tmp_path / "b", scorer, scorer.model) as listener:
        send(listener, [no_image])
        (line,) = wait(lambda: ledger(tmp_path / "b"))
    assert line["state"] in ("FAILED", "DONE")
    assert line["code"] not in ("", "OK")


def test_a_restart_takes_up_what_the_killed_one_left(ct, bundle_dir, tmp_path):
    """The command itself, killed hard while a study waits to be complete; the next start screens it."""
    spool = tmp_path / "spool"
    job = {"bundle": str(bundle_dir), "spool": str(spool), "port": 0, "callers": ["PACS"], "quiet_s": 600}
    job["reports"] = {"formats": ["sr"]}
    (tmp_path / "listen.yaml").write_text(yaml.safe_dump(job))
    command = [sys.executable, "-u", "-m", "osteo_ray.cli", "listen", "--config", str(tmp_path / "listen.yaml")]
    p = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout is not None
        line = p.stdout.readline()
        assert line.startswith("listening at 127.0.0.1:")
        port = int(line.split(":")[1].split()[0])
        assert set(send(type("L", (), {"port": port}), ct)) == {0}
    finally:
        p.kill()
        p.wait()
    assert not ledger(spool)
    half = next((spool / "incoming").iterdir()) / ".cut.tmp"
    half.write_bytes(b"half")
    p = subprocess.Popen([*command, "--set", "quiet_s=0.5"], stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout is not None
        assert p.stdout.readline().startswith("listening")
        (done,) = wait(lambda: ledger(spool))
    finally:
        os.kill(p.pid, signal.SIGTERM)
    assert p.wait(30) == 0
    assert (done["state"], done["instances"]) == ("DONE", len(ct))
    assert done["outcome"] in ("SCORED", "SCORED_WARN", "ABSTAINED")


def test_a_study_of_which_an_image_was_refused_has_no_report_until_that_image_comes(ct, scorer, tmp_path):
    wrong = dcmread(ct[1])
    wrong.StudyInstanceUID = ""  # cannot be understood, so that nobody knows whose it is
    with Listener(config(hold_s=3600), tmp_path, scorer, scorer.model) as listener:
        assert send(listener, [ct[0], wrong, *ct[2:]]) == [0, 0xC000, *[0] * (len(ct) - 2)]
        time.sleep(2)  # four times `quiet_s`
        assert not ledger(tmp_path)
        assert not list((tmp_path / "reports").iterdir())
        assert send(listener, [ct[1]]) == [0]
        (line,) = wait(lambda: ledger(tmp_path))
    assert (line["state"], line["instances"], line["refused"]) == ("DONE", len(ct), 0)


def test_a_study_that_stays_incomplete_ends_without_a_report(ct, scorer, tmp_path):
    limit = sum(f.stat().st_size for f in ct[:-1])
    # Quiet for long: on a busy machine half a second may pass between two images, before the one that is refused.
    with Listener(config(quiet_s=30, hold_s=1.5, max_spool_bytes=limit), tmp_path, scorer, scorer.model) as listener:
        assert 0xA700 in send(listener, ct)
        (line,) = wait(lambda: ledger(tmp_path))
    assert (line["state"], line["code"]) == ("FAILED", "INCOMPLETE")
    assert line["refused"] >= 1
    assert not list((tmp_path / "reports").iterdir())


def test_a_later_report_names_its_predecessor_and_the_same_again_does_not(ct, scorer, tmp_path):
    def sr(line):
        return dcmread(tmp_path / "reports" / line["row_key"] / "sr.dcm")

    with Listener(config(quiet_s=3), tmp_path, scorer, scorer.model) as listener:
        for n, files in enumerate((ct[:-2], ct[:-2], ct), start=1):
            assert set(send(listener, files)) == {0}
            wait(lambda n=n: len(ledger(tmp_path)) >= n)
    first, again, later = ledger(tmp_path)
    assert first["row_key"] == again["row_key"] != later["row_key"]
    assert "PredecessorDocumentsSequence" not in sr(again)
    (study,) = sr(later).PredecessorDocumentsSequence
    (reference,) = study.ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert reference.ReferencedSOPInstanceUID == sr(first).SOPInstanceUID != sr(later).SOPInstanceUID
    assert REPLACES in [e.value for e in sr(later).iterall() if e.keyword == "TextValue"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), ScorerStartError("no memory")])
def test_what_is_no_study_s_fault_takes_nothing_until_it_is_mended(ct, scorer, tmp_path, monkeypatch, error):
    with Listener(config(attempts=1), tmp_path, scorer, scorer.model) as listener:
        where, name = (listener.spool, "save") if isinstance(error, OSError) else (scorer, "index_study")
        assert set(send(listener, ct[:-1])) == {0}
        monkeypatch.setattr(where, name, lambda *a: (_ for _ in ()).throw(error))
        wait(lambda: listener.trouble)
        assert set(send(listener, ct[-1:])) == {0xA700}, "the sender keeps what would not be screened"
        assert not ledger(tmp_path), "no attempt was used up"
        monkeypatch.undo()
        wait(lambda: not listener.trouble)
        wait(lambda: set(send(listener, ct[-1:])) == {0})
        (line,) = wait(lambda: ledger(tmp_path))
    assert (line["state"], line["instances"]) == ("DONE", len(ct))


def test_a_dead_worker_ends_the_process_and_takes_nothing(ct, scorer, tmp_path, monkeypatch):
    monkeypatch.setattr(Listener, "_pass", lambda self: sys.exit())  # no Exception: the thread ends
    with Listener(config(), tmp_path, scorer, scorer.model) as listener:
        listener._worker.join(30)
        assert send(listener, ct[:1]) == [0xA700]
        with pytest.raises(ListenError, match="listen-worker"):
            listener.serve_forever()


# ---- before anybody is known


def raw(listener, data: bytes = b"") -> socket.socket:
    s = socket.create_connection(("127.0.0.1", listener.port), timeout=30)
    s.sendall(data)
    return s


def is_shut(s) -> bool:
    try:
        while s.recv(65536):
            pass
    except ConnectionError:
        pass
    return True


def echoes(listener) -> bool:
    assoc = associate(listener, [VERIFICATION])
    if not assoc.is_established:
        return False
    ok = assoc.send_c_echo().Status == 0
    assoc.release()
    return ok


@pytest.mark.parametrize(
    "head",
    [
        pytest.param(b"\x01\x00\xff\xff\xff\xff", id="an association request of 4 GB"),
        pytest.param(b"\x04\x00\x7f\xff\xff\xff", id="2 GB of data without one"),
        pytest.param(b"\x01\x00\x00\x00\x10\x00" + b"\x00" * 8, id="a request that does not go on"),
        pytest.param(b"", id="silence"),
    ],
)
def test_a_stranger_is_cut_off_before_its_title_is_known(scorer, tmp_path, head):
    with Listener(config(associate_s=1.0), tmp_path, scorer, scorer.model) as listener:
        with raw(listener, head) as s:
            assert is_shut(s), "within its socket's 30 s"
        assert echoes(listener)


def test_silent_connections_neither_pile_up_nor_keep_others_out(scorer, tmp_path):
    with Listener(config(associate_s=3.0, max_associations=2), tmp_path, scorer, scorer.model) as listener:
        silent = [raw(listener) for _ in range(60)]
        time.sleep(1)
        assert len(listener._ae._servers[0].active_associations) <= 2 * OF_ONE_ADDRESS
        wait(lambda: echoes(listener), 30)
        for s in silent:
            s.close()


def test_an_instance_without_an_end_is_cut_off(ct, scorer, tmp_path):
    limit = ct[0].stat().st_size // 2
    with Listener(config(max_instance_bytes=limit), tmp_path, scorer, scorer.model) as listener:
        assert send(listener, [ct[0]]) == [0xA700], "a little too large is answered"
        huge = dcmread(ct[0])
        huge.PixelData = huge.PixelData * 40
        assoc = associate(listener, [CTImageStorage])
        assert assoc.send_c_store(huge).get("Status") in (None, 0xA700)
        wait(lambda: not assoc.is_established)
        assert echoes(listener)
    assert not [p for p in (tmp_path / "incoming").rglob("*") if p.is_file()]


# ---- the spool alone


def test_reports_are_kept_as_long_as_the_config_says(tmp_path):
    spool = Spool(tmp_path, 1 << 20)
    for key, age_s in (("old", 5000), ("new", 0), ("going", 5000)):
        folder = spool.reports / key
        folder.mkdir()
        os.utime(folder, (time.time() - age_s,) * 2)
    spool.save("x", StudyState("1.2", state="SENDING", row_key="going"))
    assert spool.forget_reports(3600) == 1
    assert {p.name for p in spool.reports.iterdir()} == {"new", "going"}


def test_what_lies_in_the_spool_is_the_owner_s_alone(tmp_path):
    spool = Spool(tmp_path / "a" / "spool", 1 << 20)
    spool.put("1.2", "1.2.1", b"a" * 10)
    modes = {p.is_dir(): p.stat().st_mode & 0o777 for p in [spool.root, *spool.root.rglob("*")]}
    assert modes == {True: 0o700, False: 0o600}


def test_a_refusal_outlives_a_restart(tmp_path):
    spool = Spool(tmp_path, 15)
    assert spool.put("1.2", "1.2.1", b"a" * 10)
    assert not spool.put("1.2", "1.2.2", b"b" * 10)
    again = Spool(tmp_path, 1 << 20)
    assert again.due(0.0) == []
    assert again.put("1.2", "1.2.2", b"b" * 10)
    assert len(again.due(0.0)) == 1


def test_a_torn_line_costs_itself_alone(tmp_path):
    path = tmp_path / "lines.jsonl"
    append(path, {"a": 1})
    with path.open("ab") as f:
        f.write(b'{"a": 2, "b"')
    append(path, {"a": 3})
    assert read(path) == [{"a": 1}, {"a": 3}]
    assert read(tmp_path / "none") == []


def test_what_comes_late_opens_a_study_again(tmp_path):
    spool = Spool(tmp_path, 1 << 20)
    assert spool.put("1.2", "1.2.1", b"a" * 10)
    ((name, state),) = spool.due(0.0)
    files = {p.name for p in (tmp_path / "incoming" / name).iterdir()}
    assert spool.put("1.2", "1.2.2", b"b" * 10)
    state.state = "DONE"
    assert not spool.finish(name, state, files), "not all that lies there was screened"
    ((name, state),) = spool.due(0.0)
    assert state.state == "RECEIVING"
    assert spool.used == 20
    files = {p.name for p in (tmp_path / "incoming" / name).iterdir()}
    assert spool.finish(name, state, files)
    assert (spool.used, spool.due(0.0)) == (0, [])
