"""Names are planted in headers, paths and records; after a whole run every byte written or printed is searched."""

import contextlib
import io
import json
import logging
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from planted import FILE, FOLDER, SECRETS, TAGS, found_in, leaks, plant
from pydicom import dcmread

from osteo_ray.cli import main
from osteo_ray.dicom.sources import file_path

pytestmark = pytest.mark.ray
KEY = "index.pseudonym_key=only the hospital knows"


def copy_study(cohort_run, to: Path, n: int) -> None:
    """The synthetic archive's n-th open study under planted names."""
    row = [r for r in pq.read_table(cohort_run.catalogue).to_pylist() if r["state"] is None][n]
    for i, item in enumerate(row["instances"]):
        plant(Path(file_path(item["uri"])), to / f"{FILE}{i:03d}.dcm")


@pytest.fixture(scope="module")
def ran(cohort_run, tmp_path_factory):
    """Planted studies and records; (folder, archive, its index's folder, folder of what goes out)."""
    root = tmp_path_factory.mktemp("privacy")
    archive, trusted, public = root / "archive", root / "trusted", root / "public"
    copy_study(cohort_run, archive / FOLDER / "one", 0)
    copy_study(cohort_run, archive / FOLDER / "two", 1)
    copy_study(cohort_run, archive / FOLDER / "three", 2)
    (archive / FOLDER / "Arztbrief_Sonnenschein.txt").write_text("Sonnenschein, Gertrüd")
    header, *rows = cohort_run.records.read_text().splitlines()
    patient = rows[0].split(",")
    patient[0] = TAGS["PatientID"]
    bad = [*patient]
    bad[header.split(",").index("creatinine_umol_l")] = "99999999"
    (root / "records.csv").write_text("\n".join([header, ",".join(patient), ",".join(bad)]) + "\n")
    return root, archive, trusted, public


@pytest.fixture(scope="module")
def printed(ran, bundle_dir):
    """What index, records, screen and report printed and logged."""
    root, archive, trusted, public = ran
    out, log = io.StringIO(), io.StringIO()
    handler = logging.StreamHandler(log)
    logging.getLogger().addHandler(handler)
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            assert (
                main(["index", str(archive), "--out", str(trusted), "--set", "pseudonym_key=only the hospital knows"])
                == 0
            )
            records = ["records", str(root / "records.csv"), "--out", str(public / "records.parquet")]
            key = ["--set", "pseudonym_key=only the hospital knows"]
            assert main([*records, *key]) == 3
            assert main([*records, "--on-bad", "missing", *key]) == 0
            # One study goes away between index and screening: errors speak of files.
            shutil.rmtree(archive / FOLDER / "two")
            catalogue = str(trusted / "catalogue.parquet")
            screen = ["screen", catalogue, "--records", str(public / "records.parquet"), "--bundle", str(bundle_dir)]
            assert main([*screen, "--out", str(public / "screen"), "--set", KEY]) == 0
            assert main(["report", str(public / "screen"), "--set", "states=[SCORED,SCORED_WARN,ABSTAINED,ERROR]"]) == 0
            identified = ["report", str(public / "screen"), "--identifiers", "--out", str(root / "identified")]
            assert main([*identified, "--formats", "sr"]) == 0
    finally:
        logging.getLogger().removeHandler(handler)
        logging.getLogger().setLevel(level)
    return out.getvalue() + log.getvalue()


def test_the_search_finds_what_it_looks_for(ran, printed, tmp_path):
    root, archive, trusted, _ = ran
    plain = {s for s in SECRETS if s in " ".join(TAGS.values()).replace("^", " ")}
    assert len(plain) >= 20
    assert set(found_in(next((archive / FOLDER / "one").iterdir()))) >= plain - {"Mondfinster-"}
    # The catalogue holds paths, and so the names in them: it stays with the archive.
    assert any("Sonnenschein" in x for x in leaks(trusted))
    for i, data in enumerate(
        ["Gertrüd".encode("utf-16-le"), b"gertr\\u00fcd", b"x=Gertr%C3%BCd", "GERTRÜD".encode("latin-1")]
    ):
        (tmp_path / str(i)).write_bytes(data)
        assert found_in(tmp_path / str(i)) == ["Gertrüd"], data
    assert leaks(root / "identified"), "with --identifiers the name is where it was asked for"


def test_nothing_written_outside_the_archives_catalogue_names_anybody(ran, printed):
    _, _, _, public = ran
    states = {r["state"] for r in pq.read_table(public / "screen" / "results.parquet").to_pylist()}
    assert {"ERROR"} < states, "a scored series and one whose files are gone"
    kinds = {p.suffix for p in public.rglob("*") if p.is_file()}
    assert {".parquet", ".csv", ".html", ".json", ".dcm", ".pdf", ".jsonl"} <= kinds
    assert leaks(public) == []
    # Nor is there a way to the files.
    for p in public.rglob("*"):
        if p.is_file():
            assert b"file://" not in p.read_bytes(), p


def test_nothing_printed_or_logged_names_anybody(printed):
    assert "SCORED" in printed
    assert "refused" in printed
    assert found_in(printed.encode()) == []


def test_rays_own_logs_name_nobody(ran, printed, ray_session):
    logs = Path(ray_session._private.worker._global_node.get_session_dir_path()) / "logs"
    assert any(logs.iterdir())
    assert leaks(logs) == []


def test_the_pseudonym_is_keyed(ran, printed):
    from osteo_ray.patients.identity import patient_key

    _, _, _, public = ran
    keys = {r["patient_key"] for r in pq.read_table(public / "screen" / "results.parquet").to_pylist()}
    assert keys == {patient_key(TAGS["PatientID"], "only the hospital knows")}
    assert patient_key(TAGS["PatientID"], None) not in keys
    line = json.loads((public / "screen" / "studies" / "reports.jsonl").read_text().splitlines()[0])
    sr = dcmread(public / "screen" / "studies" / line["row_key"] / "sr.dcm")
    assert {sr.PatientID} == keys
