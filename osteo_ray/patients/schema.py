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
T_SCORE_LOINCS: tuple[str, ...] = (
    T_SCORE_LOINC,  # lumbar spine
    *("38264-8", "80945-9", "80946-7"),  # hip; right, left
    *("38263-0", "80947-5", "80948-3"),  # femur, under which the neck is reported; right, left
)
"""DXA T-scores of the sites that diagnose (ISCD): lumbar spine, total hip, femoral neck. The lowest of a day counts."""
T_SCORE_RANGE = (-8.0, 8.0)


@dataclass(frozen=True)
class Feature:
    """One column of a record.

    `molar_mass` (g/mol) lets mass concentrations (mg/dL) be read as molar ones; `also_loinc` are codes of the
    same quantity in another property (mass instead of substance concentration), specimen or method. `typical` is
    where the median of a hospital's patients lies: a column whose median is elsewhere is in another unit.
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

    @property
    def typical(self) -> tuple[float, float] | None:
        """Between which values the median of a hospital's patients lies; None where it says nothing."""
        return _TYPICAL_MEDIAN.get(self.name)


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
    _demo("age_y", "numeric", "30525-0", "a", 18, 110, "Age", "21612-7"),
    _demo("sex_male", "binary", "46098-0", "1", 0, 1, "Sex (male)"),
    _demo("height_cm", "numeric", "8302-2", "cm", 120, 220, "Height", "3137-7"),
    _demo("weight_kg", "numeric", "29463-7", "kg", 25, 250, "Weight", "3141-9"),
    _demo("bmi", "numeric", "39156-5", "kg/m2", 10, 80, "Body mass index"),
    _demo("smoker", "binary", "72166-2", "1", 0, 1, "Smokes now"),
    _lab("creatinine_umol_l", "14682-9", "umol/L", 10, 2500, "Creatinine", 113.12, ("2160-0", "38483-4", "59826-8")),
    _lab(
        "urea_mmol_l",
        "22664-7",
        "mmol/L",
        0.3,
        80,
        "Urea",
        60.06,
        ("3091-6", "3094-0", "14937-7", "6299-2", "59570-2"),
    ),
    _lab("uric_acid_umol_l", "14933-6", "umol/L", 20, 1500, "Uric acid", 168.11, ("3084-1",)),
    _lab(
        "glucose_mmol_l",
        "14749-6",
        "mmol/L",
        0.8,
        60,
        "Glucose",
        180.16,
        ("2345-7", "2339-0", "15074-8", "1558-6", "14771-0", "41653-7", "14743-9"),
    ),
    _lab("tc_mmol_l", "14647-2", "mmol/L", 0.8, 25, "Total cholesterol", 386.65, ("2093-3",)),
    _lab("hdl_mmol_l", "14646-4", "mmol/L", 0.1, 7, "HDL cholesterol", 386.65, ("2085-9",)),
    _lab(
        "ldl_mmol_l",
        "22748-8",
        "mmol/L",
        0.1,
        20,
        "LDL cholesterol",
        386.65,
        ("2089-1", "13457-7", "18262-6", "39469-2", "69419-0"),
    ),
    _lab("tg_mmol_l", "14927-8", "mmol/L", 0.1, 120, "Triglycerides", 885.4, ("2571-8", "3043-7")),
    _lab("alt_u_l", "1742-6", "U/L", 1, 5000, "ALT", None, ("1743-4", "1744-2")),
    _lab("ast_u_l", "1920-8", "U/L", 1, 8000, "AST", None, ("30239-8", "88112-8")),
    _lab("alp_u_l", "6768-6", "U/L", 3, 3000, "Alkaline phosphatase", None, ("1783-0",)),
    _lab("ggt_u_l", "2324-2", "U/L", 1, 5000, "Gamma-GT"),
    _lab("albumin_g_l", "1751-7", "g/L", 8, 70, "Albumin", None, ("61151-7", "61152-5")),
    _lab("total_protein_g_l", "2885-2", "g/L", 20, 150, "Total protein"),
    _lab("bilirubin_umol_l", "14631-6", "umol/L", 0.5, 900, "Bilirubin", 584.66, ("1975-2", "42719-5")),
    _lab("calcium_mmol_l", "2000-8", "mmol/L", 0.8, 5, "Calcium", 40.078, ("17861-6", "49765-1")),
    _lab("phosphate_mmol_l", "14879-1", "mmol/L", 0.1, 5, "Phosphate", 30.974, ("2777-1",)),
    _lab("haemoglobin_g_l", "718-7", "g/L", 20, 250, "Haemoglobin", 16114.5, ("59260-0", "20509-6", "30313-1")),
    _lab("wbc_10e9_l", "6690-2", "10*9/L", 0.1, 500, "White blood cells", None, ("26464-8", "804-5")),
    _lab("platelets_10e9_l", "777-3", "10*9/L", 2, 2500, "Platelets", None, ("26515-7", "778-1")),
    _lab("urine_creatinine_mmol_l", "14683-7", "mmol/L", 0.2, 100, "Urine creatinine", 113.12, ("2161-8",), "urine"),
    _lab("urine_albumin_mg_l", "14957-5", "mg/L", 0.1, 50000, "Urine albumin", None, ("1754-1",), "urine"),
)
NAMES: tuple[str, ...] = tuple(f.name for f in FEATURES)
DEMOGRAPHICS: tuple[str, ...] = tuple(f.name for f in FEATURES if f.group == "demographics")
LABS: tuple[str, ...] = tuple(f.name for f in FEATURES if f.group == "labs")
_BY_NAME = {f.name: f for f in FEATURES}
BY_LOINC = {code: f for f in FEATURES for code in (f.loinc, *f.also_loinc)}

ANALYTES: dict[str, tuple[str, float]] = {"urea_nitrogen": ("urea_mmol_l", 28.014)}
"""What is measured in another substance's mass: name -> (feature, g/mol). One mole of urea holds 28 g of nitrogen, so
urea nitrogen in mg/dL x 2.14 is urea in mg/dL; in mmol/L both are the same number."""
_ANALYTE_OF_LOINC = dict.fromkeys(("3094-0", "14937-7", "6299-2", "59570-2"), "urea_nitrogen")

_TYPICAL_MEDIAN: dict[str, tuple[float, float]] = {
    "age_y": (25, 95),
    "height_cm": (140, 195),
    "weight_kg": (40, 115),
    "bmi": (17, 45),
    "creatinine_umol_l": (35, 450),
    "urea_mmol_l": (3.2, 18),
    "uric_acid_umol_l": (150, 650),
    "glucose_mmol_l": (3.8, 14),
    "tc_mmol_l": (2.6, 8),
    "hdl_mmol_l": (0.7, 2.4),
    "ldl_mmol_l": (1.2, 6),
    "tg_mmol_l": (0.5, 6),
    "alt_u_l": (6, 150),
    "ast_u_l": (8, 150),
    "alp_u_l": (30, 300),
    "ggt_u_l": (7, 250),
    "albumin_g_l": (18, 55),
    "total_protein_g_l": (45, 90),
    "bilirubin_umol_l": (3, 60),
    "calcium_mmol_l": (1.7, 2.9),
    "phosphate_mmol_l": (0.6, 2),
    "haemoglobin_g_l": (70, 180),
    "wbc_10e9_l": (2.5, 20),
    "platelets_10e9_l": (80, 550),
    "urine_creatinine_mmol_l": (1, 30),
}


def molar_mass_of(name: str, analyte: str | None = None, loinc: str | None = None) -> float | None:
    """g/mol by which a mass of what was measured becomes the feature's substance.

    Raises:
        KeyError: an analyte that there is not, or that another feature is measured by.
    """
    analyte = analyte or (_ANALYTE_OF_LOINC.get(loinc) if loinc else None)
    if analyte is None:
        return feature(name).molar_mass
    if analyte not in ANALYTES or ANALYTES[analyte][0] != name:
        there = ", ".join(f"{a} (of {n})" for a, (n, _) in ANALYTES.items())
        raise KeyError(f"{name}: no analyte {analyte!r}; there are: {there}")
    return ANALYTES[analyte][1]


def feature(name: str) -> Feature:
    """The feature called `name`; KeyError lists the names there are."""
    if name not in _BY_NAME:
        raise KeyError(f"no feature {name!r}; there are: {', '.join(NAMES)}")
    return _BY_NAME[name]
