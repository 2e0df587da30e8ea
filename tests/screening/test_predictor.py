from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pydicom
import pytest
from synthetic_bundle import synthetic_bundle

from osteo_ray import load_bundle
from osteo_ray import patients as records
from osteo_ray.catalogue.checks import QualityCheck
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.config import validate
from osteo_ray.dicom.stack import SliceStack
from osteo_ray.model.abstention import ScanView, decide
from osteo_ray.model.calibration import Calibrator
from osteo_ray.model.selection import Selection
from osteo_ray.outcomes import InputError
from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening import predictor
from osteo_ray.screening.predictor import Predictor

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def study(cohort_run):
    rows = pq.read_table(cohort_run.catalogue).to_pylist()
    row = next(r for r in rows if r["state"] is None)
    folder = next(p for p in cohort_run.archive.rglob("*") if p.is_dir() and p.name == row["study_uid"])
    return folder, row


def record_of(row, **labs):
    """A record of the patient whom the header shows."""
    return {"age_y": row["age_y"], "sex": row["sex"]} | labs


def test_two_lines_from_python(study, bundle_dir):
    folder, row = study
    result = load_bundle(bundle_dir).score(folder, record=record_of(row, alp_u_l=90)).to_dict()
    assert result["state"] in ("SCORED", "SCORED_WARN")
    assert result["series_uid"] == row["series_uid"]
    assert 0 < result["risk_prob"] < 1
    assert result["modalities"] == ["demographics", "labs", "ct"]
    values = {s["feature"]: s["value"] for s in result["shap"]}
    assert (values["age_y"], values["sex_male"], values["alp_u_l"]) == (row["age_y"], row["sex"] == "M", 90)
    assert values["creatinine_umol_l"] is None, "what the record lacks is not made up"


def test_shap_adds_up_to_the_score(study, bundle_dir):
    folder, row = study
    scorer = load_bundle(bundle_dir)
    r = scorer.score(folder, record=record_of(row)).to_dict()
    c = scorer.bundle.calibrators[r["calibrator"]]
    assert isinstance(c, Calibrator)
    logit = np.log(r["risk_prob"] / (1 - r["risk_prob"]))
    total = r["shap_base"] + sum(s["shap"] for s in r["shap"])
    assert c.slope * total + c.intercept == pytest.approx(logit, abs=1e-4)


def test_without_a_record_age_and_sex_come_from_the_header_or_not_at_all(study, bundle_dir):
    folder, row = study
    r = load_bundle(bundle_dir).score(folder).to_dict()
    known = row["age_y"] is not None or row["sex"] in ("M", "F")
    assert r["modalities"] == (["demographics", "ct"] if known else ["ct"])
    assert (r["age_from"], r["sex_from"]) == tuple("header" if row[k] is not None else None for k in ("age_y", "sex"))


def test_a_result_carries_the_age_and_sex_that_the_model_used(study, bundle_dir):
    folder, row = study
    result = load_bundle(bundle_dir).score(folder, record={"age_y": row["age_y"] + 1.5, "alp_u_l": 90})
    used = (row["age_y"] + 1.5, row["sex"], "record", "header")
    assert (result.age_y, result.sex, result.age_from, result.sex_from) == used
    shap = result.shap.set_index("feature")["value"]
    assert (shap["age_y"], "M" if shap["sex_male"] else "F") == used[:2]


@pytest.mark.parametrize("what", ["age", "sex"])
def test_a_record_of_somebody_else_abstains(study, bundle_dir, what):
    folder, row = study
    other = {"F": "M", "M": "F"}[row["sex"]]
    record = record_of(row) | ({"age_y": row["age_y"] + 18} if what == "age" else {"sex": other})
    r = load_bundle(bundle_dir).score(folder, record=record)
    assert (r.state, r.code, r.risk) == ("ABSTAINED", "Q_IDENTITY", None)
    values = (f"{row['age_y']:.0f}", f"{row['age_y'] + 18:.0f}") if what == "age" else (row["sex"], other)
    assert f"{what} {values[0]} in the header, {values[1]} in the record" in r.message
    assert {c.gate: c.verdict for c in r.checks}["Q_IDENTITY"] == "fail"
    assert (r.age_from, r.sex_from) == ("record", "record")
    r = load_bundle(bundle_dir).score(folder, record=record_of(row))
    assert {c.gate: c.verdict for c in r.checks}["Q_IDENTITY"] == "pass"


def test_an_age_of_the_record_alone_is_judged_too(study, bundle_dir):
    _, row = study
    silent = row | {"age_y": None, "gates": [g | {"verdict": "warn", "value": "absent"} if g["gate"] == "Q_AGE" else g
                                             for g in row["gates"]]}  # fmt: skip
    scorer = Predictor.load(bundle_dir)
    for age, verdict in ((25, "fail"), (65, "pass")):
        record = records.from_mapping_dict({"age_y": age, "sex": row["sex"]}).matrix()[0][0]
        r = scorer.score_rows([silent], record[None])[0]
        assert {g["gate"]: g["verdict"] for g in r["gates"]}["Q_AGE"] == verdict
        assert (r["age_y"], r["age_from"]) == (age, "record")


def test_scoring_alone_and_in_a_batch_agree(cohort_run, bundle_dir):
    rows = [r for r in pq.read_table(cohort_run.catalogue).to_pylist() if r["state"] is None][:3]
    scorer = load_bundle(bundle_dir)
    table = records.load(cohort_run.records)
    found = [table.by_key(r["patient_key"]).matrix()[0] for r in rows]
    values = np.stack([f[-1] if len(f) else np.full(len(NAMES), np.nan) for f in found])
    together = scorer.score_rows(rows, values)
    alone = [scorer.score_rows([r], v[None])[0] for r, v in zip(rows, values, strict=True)]
    for a, b in zip(together, alone, strict=True):
        assert a["risk_prob"] == pytest.approx(b["risk_prob"], abs=1e-6)
        assert [s["index"] for s in a["selected"]] == [s["index"] for s in b["selected"]]


def test_no_lumbar_slice_means_no_score(study):
    folder, _ = study
    r = Predictor(synthetic_bundle(lumbar_threshold=1.1)).score(folder).to_dict()
    assert (r["state"], r["code"], r["stage"]) == ("ABSTAINED", "NO_LUMBAR_SEEN", "select")
    assert r["risk_prob"] is None
    assert r["selected"], "where it looked is kept, for a person to judge"


def test_a_pattern_without_a_calibrator_abstains(study):
    folder, _ = study
    r = Predictor(synthetic_bundle(patterns=("demographics+labs+ct",))).score(folder).to_dict()
    assert (r["state"], r["code"]) == ("ABSTAINED", "NO_CALIBRATOR")


def test_bad_input_is_named(study, bundle_dir, cohort_run, tmp_path):
    folder, _ = study
    scorer = load_bundle(bundle_dir)
    with pytest.raises(RecordsError, match="age_y"):
        scorer.score(folder, record={"age_y": 400})
    with pytest.raises(RecordsError, match="shoe_size"):
        scorer.score(folder, record={"shoe_size": 43})
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(InputError, match="no CT series"):
        scorer.score(tmp_path)
    with pytest.raises(InputError, match="studies"):
        scorer.score(cohort_run.archive)
    with pytest.raises(FileNotFoundError):
        scorer.score(tmp_path / "absent")


def gates_of(folder, gates, record=None):
    index = validate(IndexConfig, {"gates": gates})
    r = Predictor(synthetic_bundle(), index=index).score(folder, record=record).to_dict()
    return r, {g["gate"]: g["verdict"] for g in r["gates"]}


@pytest.mark.parametrize(
    ("gate", "gates"),
    [
        ("Q_METAL", {"metal_hu": 0, "metal_fraction": 0.0}),
        ("Q_AIR_CALIB", {"air_tolerance_hu": 1e-6, "air_hu": -900, "hu_action": "off"}),  # Q_HU sees it too
        ("Q_COVERAGE", {"coverage_levels": 99}),
    ],
)
def test_gates_on_pixels_fire_and_do_not(study, gate, gates):
    folder, row = study
    whole = record_of(row, alp_u_l=90)
    action = {"Q_METAL": "metal", "Q_AIR_CALIB": "air_calib", "Q_COVERAGE": "coverage"}[gate]
    _, quiet = gates_of(folder, {}, whole)
    assert quiet[gate] == "pass"
    r, fired = gates_of(folder, {**gates, action: "fail"}, whole)
    assert fired[gate] == "fail"
    assert (r["state"], r["code"]) == ("ABSTAINED", gate)
    assert r["risk_prob"] is None
    r, fired = gates_of(folder, {**gates, action: "warn"}, whole)
    assert fired[gate] == "warn"
    assert (r["state"], r["code"]) == ("SCORED_WARN", "GATE_WARN")
    assert gate in r["message"]


def test_a_missing_modality_warns(study):
    folder, row = study
    whole = record_of(row, alp_u_l=90)
    assert gates_of(folder, {}, whole)[1]["Q_MODALITY_MISSING"] == "pass"
    r, gates = gates_of(folder, {}, record_of(row))
    assert gates["Q_MODALITY_MISSING"] == "warn"
    assert r["state"] == "SCORED_WARN"


@pytest.mark.parametrize("what", ["image", "record"])
def test_input_unlike_the_training_data_abstains_and_ordinary_input_does_not(study, what):
    folder, row = study
    whole = record_of(row, alp_u_l=90)
    bundle = synthetic_bundle()
    assert Predictor(bundle).score(folder, record=whole).code not in ("OOD_IMAGE", "OOD_RECORD")
    bundle.novelty[what] = replace(bundle.novelty[what], threshold=1e-4)
    r = Predictor(bundle).score(folder, record=whole).to_dict()
    assert (r["state"], r["code"], r["stage"]) == ("ABSTAINED", f"OOD_{what.upper()}", "score")
    assert r["risk_prob"] is None
    assert "accepted up to" in r["message"]


def test_a_class_set_comes_with_the_score(study):
    folder, row = study
    whole = record_of(row, alp_u_l=90)
    bundle = synthetic_bundle()
    r = Predictor(bundle).score(folder, record=whole).to_dict()
    wanted = [c for c in ("normal", "osteopenia", "osteoporosis") if r[f"p_{c}"] >= 1 - 0.9]
    assert r["conformal_set"] == wanted
    assert r["p_normal"] + r["p_osteopenia"] + r["p_osteoporosis"] == pytest.approx(1)


def test_a_series_filed_the_other_way_round_is_scored_the_same(study, bundle_dir, tmp_path):
    """Instance numbers and file names run from the feet up instead of down: same picks, same risk."""
    folder, row = study
    files = [
        d for f in folder.rglob("*") if f.is_file() and (d := pydicom.dcmread(f)).SeriesInstanceUID == row["series_uid"]
    ]
    scorer, risks = load_bundle(bundle_dir), []
    for way in (1, -1):
        to = tmp_path / str(way)
        to.mkdir()
        for i, d in enumerate(sorted(files, key=lambda d: way * d.ImagePositionPatient[2])):
            d.InstanceNumber = i + 1
            d.save_as(to / f"{i:04d}.dcm")
        r = scorer.score(to).to_dict()
        risks.append((r["risk_prob"], [s["sop_uid"] for s in r["selected"]]))
    assert risks[0] == risks[1]
    assert risks[0][1]


def test_a_stack_at_hand_is_scored_as_its_row_is(study, bundle_dir):
    _, row = study
    scorer = Predictor.load(bundle_dir)
    record = records.from_mapping_dict(record_of(row)).matrix()[0][0]
    with SliceStack.from_row(row) as stack:
        one = scorer.score_stack(stack, row, record)
    batched = scorer.score_rows([row], record[None])[0]
    assert one["risk_prob"] == batched["risk_prob"]
    assert one["selected"] == batched["selected"]


def test_a_chest_inside_the_lumbar_spine_abstains(bundle_dir):
    """Slices every 20 mm. Lumbar above and below the chest: a neck was taken for it. Lumbar below the chest: a body."""
    bundle = Predictor.load(bundle_dir).bundle
    layout = bundle.config.encoder.layout

    def seen(regions: str) -> ScanView:
        e = np.zeros((len(regions), layout.dim), np.float32)
        e[:, layout.region] = np.eye(4)[["tlpn".index(r) for r in regions]]
        kept = np.array([i for i, r in enumerate(regions) if r == "l"])
        return ScanView(Selection(kept, np.ones(len(e), bool), e), 20.0 * np.arange(len(e)))

    assert seen("ppllllttttt").chest_inside_mm() == 0
    assert seen("lltltttt").chest_inside_mm() == 20  # the border between them is not sharp
    assert seen("pptttpllll").chest_inside_mm() == 0  # below it is not inside it
    neck = seen("nlllttttttnll")
    assert neck.chest_inside_mm() == 100
    record = np.full(len(NAMES), np.nan)
    out = decide(bundle, neck, record, "ct")
    assert (out.state, out.code) == ("ABSTAINED", "LEVELS_OUT_OF_ORDER")
    assert "100 mm" in out.message
    assert decide(bundle, seen("ppllllttttt"), record, "ct").code != "LEVELS_OUT_OF_ORDER"


def test_what_was_looked_at_is_read_where_it_is_sound(study, bundle_dir, monkeypatch):
    """Metal in a slice that was not kept takes that slice out, and is no reason to refuse the scan."""
    _, row = study
    bundle = synthetic_bundle()
    view = bundle.config.view.model_copy(update={"read": "looked"})
    bundle.config = bundle.config.model_copy(update={"view": view})
    values = np.full((1, len(NAMES)), np.nan)
    scorer, kept_alone = Predictor(bundle), Predictor.load(bundle_dir)
    with SliceStack.from_row(row, IndexConfig().limits) as stack:
        s = scorer.see(stack)
    others = [k for k in s.read if k not in s.selection.kept]
    assert s.read[: len(s.selection.kept)].tolist() == s.selection.kept.tolist()
    assert len(s.read) == s.decoded > len(s.selection.kept)
    result, alone = (p.score_rows([row], values)[0] for p in (scorer, kept_alone))
    assert [x["index"] for x in result["selected"]] == [x["index"] for x in alone["selected"]]
    assert sum(x["weight"] for x in alone["selected"]) == pytest.approx(1, abs=1e-5)
    assert 0 < sum(x["weight"] for x in result["selected"]) < 0.999
    assert result["risk_prob"] != alone["risk_prob"]

    with SliceStack.from_row(row, IndexConfig().limits) as stack:
        hu = stack.axial(int(s.positions[others[0]]))
    metal = QualityCheck("Q_METAL", "fail", "1", "0")
    real = predictor.q_metal
    monkeypatch.setattr(predictor, "q_metal", lambda x, cfg: metal if np.array_equal(x, hu) else real(x, cfg))
    with SliceStack.from_row(row, IndexConfig().limits) as stack:
        without = scorer.see(stack)
    assert without.read.tolist() == [k for k in s.read if k != others[0]]
    assert [c.verdict for c in without.pixel_gates] == [c.verdict for c in s.pixel_gates]
