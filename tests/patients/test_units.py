"""Units as laboratories write them; what is not known, or belongs to another quantity, is refused."""

import numpy as np
import pytest

from osteo_ray.patients import Mapping, RecordsError, load
from osteo_ray.patients.schema import BY_LOINC, FEATURES, feature, molar_mass_of
from osteo_ray.patients.units import UnitError, feature_factor, fitting_units


@pytest.mark.parametrize(
    ("written", "name", "by"),
    [
        ("IU/L", "alt_u_l", 1),
        ("单位/升", "alt_u_l", 1),
        ("ukat/L", "alt_u_l", 60),
        ("K/uL", "wbc_10e9_l", 1),
        ("x10^9/L", "wbc_10e9_l", 1),
        ("×10⁹/L", "platelets_10e9_l", 1),
        ("10E3/UL", "wbc_10e9_l", 1),
        ("10*3/uL{cells}", "wbc_10e9_l", 1),
        ("/μL", "wbc_10e9_l", 0.001),
        ("10^4/μL", "platelets_10e9_l", 10),
        ("UMOL/L", "creatinine_umol_l", 1),
        ("µmol/l", "creatinine_umol_l", 1),
        ("μmol/L", "creatinine_umol_l", 1),
        ("微摩尔/升", "creatinine_umol_l", 1),
        ("ｍｍｏｌ／Ｌ", "urea_mmol_l", 1),
        ("Mg/dL", "creatinine_umol_l", 88.4),
        ("mg%", "glucose_mmol_l", 0.0555),
        ("G/L", "wbc_10e9_l", 1),
        ("G/L", "albumin_g_l", 1),
        ("g/dl", "haemoglobin_g_l", 10),
        ("mEq/L", "calcium_mmol_l", 0.5),
        ("mcg/mL", "urine_albumin_mg_l", 1),
        ("lbs", "weight_kg", 0.4536),
        ("厘米", "height_cm", 1),
        ("in", "height_cm", 2.54),
    ],
)
def test_units_in_any_writing(written, name, by):
    assert feature_factor(written, feature(name)) == pytest.approx(by, rel=1e-3)


@pytest.mark.parametrize(
    ("written", "name", "error"),
    [
        ("", "alt_u_l", "no unit; alt_u_l is measured in U/L"),
        ("mmol/L", "alt_u_l", "cannot be turned into 'U/L'"),
        ("U", "alt_u_l", "cannot be turned"),
        ("mEq/L", "phosphate_mmol_l", "counts charges"),
        ("foo", "alt_u_l", "is not known.*`units:"),
    ],
)
def test_what_is_no_unit_of_the_quantity_is_refused(written, name, error):
    with pytest.raises(UnitError, match=error):
        feature_factor(written, feature(name))


@pytest.mark.parametrize("unit", ["10³/µl", "×10⁹/L", "Tsd/µl", "Gpt/l", "X10(9)/L", "Mrd/l"])
def test_raised_digits_in_a_cell_are_digits(tmp_path, unit):
    (tmp_path / "r.csv").write_text(f"id,x,u\n1,6.1,{unit}\n", encoding="utf-8")
    m = {"patient_id": "id", "features": {"wbc_10e9_l": {"column": "x", "unit_column": "u"}}}
    assert load(tmp_path / "r.csv", Mapping.model_validate(m)).frame["wbc_10e9_l"][0] == pytest.approx(6.1)


def test_a_mapping_has_words_of_its_own():
    assert feature_factor("Mikromol", feature("creatinine_umol_l"), own={"mikromol": "umol/L"}) == 1


def test_urea_nitrogen_is_an_analyte_of_its_own():
    f = feature("urea_mmol_l")
    nitrogen = molar_mass_of("urea_mmol_l", loinc="3094-0")
    assert feature_factor("mg/dL", f, nitrogen) / feature_factor("mg/dL", f) == pytest.approx(2.144, abs=0.001)
    assert feature_factor("mmol/L", f, nitrogen) == 1
    assert molar_mass_of("urea_mmol_l", loinc="3091-6") == 60.06


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("3094-0", "urea_mmol_l"),
        ("2339-0", "glucose_mmol_l"),
        ("38483-4", "creatinine_umol_l"),
        ("18262-6", "ldl_mmol_l"),
    ],
)
def test_synonyms_of_loinc(code, name):
    assert BY_LOINC[code].name == name


def test_no_loinc_code_means_two_features():
    codes = [c for f in FEATURES for c in (f.loinc, *f.also_loinc)]
    assert len(codes) == len(set(codes))


@pytest.mark.parametrize(
    ("median", "name", "fits"),
    [
        (100, "glucose_mmol_l", "mg/dL"),
        (3.5, "phosphate_mmol_l", "mg/dL"),
        (0.9, "creatinine_umol_l", "mg/dL"),
        (13, "haemoglobin_g_l", "g/dL"),
        (7000, "wbc_10e9_l", "/uL"),
        (68, "height_cm", "[in_i]"),
        (165, "weight_kg", "[lb_av]"),
    ],
)
def test_a_median_names_the_unit_that_it_fits(median, name, fits):
    assert fits in fitting_units(median, 1, feature(name))
    typical = feature(name).typical
    assert typical is not None
    assert fitting_units(float(np.mean(typical)), 1, feature(name)) == []


def column(tmp_path, name, values, **more):
    path = tmp_path / "r.csv"
    path.write_text("id,x\n" + "".join(f"{k},{v}\n" for k, v in enumerate(values)))
    m = {"patient_id": "id", "features": {name: {"column": "x", **more}}}
    return lambda: load(path, Mapping.model_validate(m))


def test_a_column_whose_median_belongs_to_another_unit_is_refused_once(tmp_path):
    read = column(tmp_path, "phosphate_mmol_l", np.linspace(2.8, 4.2, 30).round(2))
    with pytest.raises(RecordsError, match=r"the median of phosphate_mmol_l.*fits mg/dL") as e:
        read()
    assert len(e.value.problems) == 1
    assert len(column(tmp_path, "phosphate_mmol_l", np.linspace(2.8, 4.2, 30), unit="mg/dL")()) == 30
    assert len(column(tmp_path, "phosphate_mmol_l", np.linspace(2.8, 4.2, 30), check_median=False)()) == 30


def test_urea_nitrogen_called_urea_is_found_by_its_median(tmp_path):
    with pytest.raises(RecordsError, match="mg/dL of urea_nitrogen"):
        column(tmp_path, "urea_mmol_l", range(8, 24), unit="mg/dL")()
    assert len(column(tmp_path, "urea_mmol_l", range(8, 24), unit="mg/dL", analyte="urea_nitrogen")()) == 16


def test_a_median_that_no_unit_explains_is_a_warning(tmp_path):
    t = column(tmp_path, "calcium_mmol_l", [1.2] * 12)()
    assert "no other unit fits" in t.report.notes[0]
    assert t.report.lines()[-1].startswith("WARNING")


def test_a_row_without_its_unit_is_refused(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("id,x,u\n1,15,mg/dL\n2,15,\n")
    m = {"patient_id": "id", "features": {"urea_mmol_l": {"column": "x", "unit_column": "u"}}}
    with pytest.raises(RecordsError, match="line 3, column 'x': 15: no unit"):
        load(path, Mapping.model_validate(m))


def of_two_sites(tmp_path, south, on_bad="raise", **more):
    rows = [f"N{k},north,{5 + k / 10}" for k in range(20)] + [f"S{k},south,{v}" for k, v in enumerate(south)]
    path = tmp_path / "r.csv"
    path.write_text("id,s,urea\n" + "\n".join(rows) + "\n")
    m = {"patient_id": "id", "site_column": "s", "features": {"urea_mmol_l": {"column": "urea", **more}}}
    return load(path, Mapping.model_validate(m), on_bad=on_bad)


def test_a_hospital_that_writes_in_another_unit_is_seen_among_others(tmp_path):
    south = range(30, 42)
    with pytest.raises(RecordsError, match=r"column 'urea' at site 'south': the median of urea_mmol_l.* it fits mg/dL"):
        of_two_sites(tmp_path, south)
    f = of_two_sites(tmp_path, south, "missing").frame
    assert f["urea_mmol_l"].notna().tolist() == [True] * 20 + [False] * 12


@pytest.mark.parametrize(
    ("south", "more"),
    [
        (np.linspace(20, 24, 12), {"unit": "mmol/L"}),  # a clinic of patients on dialysis
        (np.linspace(60, 80, 12), {}),  # in no unit near the other hospital's
    ],
)
def test_a_hospital_of_sick_patients_is_told_and_read(tmp_path, south, more):
    t = of_two_sites(tmp_path, south, **more)
    assert t.frame["urea_mmol_l"].notna().all()
    assert t.report is not None
    assert any("at site 'south': the median of urea_mmol_l" in n for n in t.report.notes)


def test_a_columns_name_that_states_another_unit_is_heeded(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("id,Urea (mg/dL)\nA,30\n")

    def read(**more):
        feature = {"column": "Urea (mg/dL)"} | more
        return load(path, Mapping.model_validate({"patient_id": "id", "features": {"urea_mmol_l": feature}}))

    with pytest.raises(RecordsError, match=r"its name says 'mg/dL', but the mapping gives no unit.*give the `unit:`"):
        read()
    report = read(unit="mmol/L").report
    assert report is not None
    assert any("its name says 'mg/dL', the mapping 'mmol/L', which counts" in n for n in report.notes)
    t = read(unit="mg/dl")
    assert t.frame["urea_mmol_l"].tolist() == pytest.approx([5.0], abs=0.01)
    assert t.report is not None
    assert not t.report.notes


def test_a_unit_column_that_is_not_there_is_never_the_schemas_unit(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("id,crea\nA,80\n")
    features = {"creatinine_umol_l": {"column": "crea", "unit_column": "u"}}
    with pytest.raises(RecordsError, match=r"column 'u' .creatinine_umol_l's unit.: named by the mapping, not there"):
        load(path, Mapping.model_validate({"patient_id": "id", "optional": True, "features": features}))
