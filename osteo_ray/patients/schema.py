"""The one schema of demographics and routine labs: name, LOINC, UCUM unit, plausible range.

    from osteo_ray.patients.schema import FEATURES, feature
    feature("creatinine_umol_l").unit        # 'umol/L'

Every feature is one float64 column in its own unit; NaN is missing. Ranges are what a living adult can
have, wide on purpose: they catch unit mistakes and typing errors, not sick people.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

T_SCORE_LOINC = "38267-1"
T_SCORE_RANGE = (-8.0, 8.0)


@dataclass(frozen=True)
class Feature:
    """One column of a record.

    `molar_mass` (g/mol) lets mass concentrations (mg/dL) be read as molar ones; `also_loinc` are codes of the
    same quantity in another property (mass instead of substance concentration).
    """

    name: str
    group: Literal["demographics", "labs"]
    kind: Literal["numeric", "binary"]
    loinc: str
    unit: str  # UCUM
    low: float
    high: float
    specimen: Literal["blood", "urine"] | None
    label: str
    molar_mass: float | None = None
    also_loinc: tuple[str, ...] = field(default=())


def _demo(name: str, kind: str, loinc: str, unit: str, low: float, high: float, label: str, *also: str) -> Feature:
    return Feature(name, "demographics", kind, loinc, unit, low, high, None, label, None, also)  # type: ignore[arg-type]


def _lab(
    name: str,
    loinc: str,
    unit: str,
    low: float,
    high: float,
    label: str,
    molar_mass: float | None = None,
    also: tuple[str, ...] = (),
    specimen: Literal["blood", "urine"] = "blood",
) -> Feature:
    return Feature(name, "labs", "numeric", loinc, unit, low, high, specimen, label, molar_mass, also)


FEATURES: tuple[Feature, ...] = (
    _demo("age_y", "numeric", "30525-0", "a", 18, 110, "Age"),
    _demo("sex_male", "binary", "46098-0", "1", 0, 1, "Sex (male)"),
    _demo("height_cm", "numeric", "8302-2", "cm", 120, 220, "Height"),
    _demo("weight_kg", "numeric", "29463-7", "kg", 25, 250, "Weight"),
    _demo("bmi", "numeric", "39156-5", "kg/m2", 10, 80, "Body mass index"),
    _demo("smoker", "binary", "72166-2", "1", 0, 1, "Smokes now"),
    _lab("creatinine_umol_l", "14682-9", "umol/L", 10, 2500, "Creatinine", 113.12, ("2160-0",)),
    _lab("urea_mmol_l", "22664-7", "mmol/L", 0.3, 80, "Urea", 60.06, ("3091-6",)),
    _lab("uric_acid_umol_l", "14933-6", "umol/L", 20, 1500, "Uric acid", 168.11, ("3084-1",)),
    _lab("glucose_mmol_l", "14749-6", "mmol/L", 0.8, 60, "Glucose", 180.16, ("2345-7",)),
    _lab("tc_mmol_l", "14647-2", "mmol/L", 0.8, 25, "Total cholesterol", 386.65, ("2093-3",)),
    _lab("hdl_mmol_l", "14646-4", "mmol/L", 0.1, 7, "HDL cholesterol", 386.65, ("2085-9",)),
    _lab("ldl_mmol_l", "22748-8", "mmol/L", 0.1, 20, "LDL cholesterol", 386.65, ("2089-1", "13457-7")),
    _lab("tg_mmol_l", "14927-8", "mmol/L", 0.1, 120, "Triglycerides", 885.4, ("2571-8",)),
    _lab("alt_u_l", "1742-6", "U/L", 1, 5000, "ALT"),
    _lab("ast_u_l", "1920-8", "U/L", 1, 8000, "AST"),
    _lab("alp_u_l", "6768-6", "U/L", 3, 3000, "Alkaline phosphatase"),
    _lab("ggt_u_l", "2324-2", "U/L", 1, 5000, "Gamma-GT"),
    _lab("albumin_g_l", "1751-7", "g/L", 8, 70, "Albumin"),
    _lab("total_protein_g_l", "2885-2", "g/L", 20, 150, "Total protein"),
    _lab("bilirubin_umol_l", "14631-6", "umol/L", 0.5, 900, "Bilirubin", 584.66, ("1975-2",)),
    _lab("calcium_mmol_l", "2000-8", "mmol/L", 0.8, 5, "Calcium", 40.078, ("17861-6",)),
    _lab("phosphate_mmol_l", "14879-1", "mmol/L", 0.1, 5, "Phosphate", 30.974, ("2777-1",)),
    _lab("haemoglobin_g_l", "718-7", "g/L", 20, 250, "Haemoglobin", 16114.5, ("59260-0",)),
    _lab("wbc_10e9_l", "6690-2", "10*9/L", 0.1, 500, "White blood cells"),
    _lab("platelets_10e9_l", "777-3", "10*9/L", 2, 2500, "Platelets"),
    _lab("urine_creatinine_mmol_l", "14683-7", "mmol/L", 0.2, 100, "Urine creatinine", 113.12, ("2161-8",), "urine"),
    _lab("urine_albumin_mg_l", "14957-5", "mg/L", 0.1, 50000, "Urine albumin", None, ("1754-1",), "urine"),
)
NAMES: tuple[str, ...] = tuple(f.name for f in FEATURES)
DEMOGRAPHICS: tuple[str, ...] = tuple(f.name for f in FEATURES if f.group == "demographics")
LABS: tuple[str, ...] = tuple(f.name for f in FEATURES if f.group == "labs")
_BY_NAME = {f.name: f for f in FEATURES}
BY_LOINC = {code: f for f in FEATURES for code in (f.loinc, *f.also_loinc)}


def feature(name: str) -> Feature:
    """The feature called `name`; KeyError lists the names there are."""
    if name not in _BY_NAME:
        raise KeyError(f"no feature {name!r}; there are: {', '.join(NAMES)}")
    return _BY_NAME[name]
