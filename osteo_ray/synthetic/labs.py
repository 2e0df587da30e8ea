"""Labs of a synthetic person: margins by sex, effects of age, BMI and bone, and correlation between labs.

Medians of creatinine, HDL, LDL, total cholesterol, triglycerides, ALT and AST: Cui 2016 (PMC4938238). The other
medians and the spreads are ordinary reference-population values. `bone` is each lab's correlation with the
residual of bone density that age, sex and weight don't explain; signs as published (ALP up, uric acid, haemoglobin
and creatinine down with low density), sizes set so that labs add about 0.02 to the tabular AUC.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.patients.schema import feature


@dataclass(frozen=True)
class Lab:
    """One lab: value = median * exp(sd * x) where `log`, else median + sd * x, with
    x = bone * u + age * (years - the sex's median of them) / 10 + bmi * (BMI - 25) / 4 + noise."""

    name: str
    male: float
    female: float
    sd: float
    log: bool = True
    bone: float = 0.0
    age: float = 0.0
    bmi: float = 0.0
    panel: str = "chemistry"
    loads: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # on kidney, liver, lipid, nutrition factors
    digits: int = 1


LABS: tuple[Lab, ...] = (
    Lab("creatinine_umol_l", 73, 61, 0.20, bone=0.10, age=0.15, loads=(0.7, 0, 0, 0.1), digits=0),
    Lab("urea_mmol_l", 5.4, 4.9, 0.25, age=0.2, loads=(0.6, 0, 0, 0.1), digits=2),
    Lab("uric_acid_umol_l", 345, 275, 0.22, bone=0.11, bmi=0.25, loads=(0.4, 0.1, 0.1, 0), digits=0),
    Lab("glucose_mmol_l", 5.4, 5.2, 0.18, age=0.1, bmi=0.2, digits=2),
    Lab("tc_mmol_l", 5.11, 5.59, 0.18, panel="lipids", loads=(0, 0, 0.85, 0.1), digits=2),
    Lab("hdl_mmol_l", 1.21, 1.38, 0.22, bone=-0.05, bmi=-0.25, panel="lipids", loads=(0, 0, 0.1, 0.1), digits=2),
    Lab("ldl_mmol_l", 3.09, 3.36, 0.25, panel="lipids", loads=(0, 0, 0.8, 0), digits=2),
    Lab("tg_mmol_l", 1.25, 1.33, 0.50, bmi=0.25, panel="lipids", loads=(0, 0.1, 0.4, 0), digits=2),
    Lab("alt_u_l", 16, 17, 0.45, age=-0.05, bmi=0.2, loads=(0, 0.75, 0, 0), digits=0),
    Lab("ast_u_l", 21, 21, 0.30, loads=(0, 0.75, 0, 0), digits=0),
    Lab("alp_u_l", 70, 72, 0.26, bone=-0.19, age=0.08, loads=(0, 0.2, 0, 0), digits=0),
    Lab("ggt_u_l", 26, 19, 0.60, bmi=0.15, loads=(0, 0.6, 0.1, 0), digits=0),
    Lab("albumin_g_l", 43, 42, 2.8, log=False, bone=0.06, age=-0.15, loads=(0, 0, 0, 0.7), digits=1),
    Lab("total_protein_g_l", 71, 72, 4.2, log=False, loads=(0, 0, 0, 0.6), digits=1),
    Lab("bilirubin_umol_l", 12.5, 10.5, 0.40, loads=(0, 0.1, 0, 0.1), digits=1),
    Lab("calcium_mmol_l", 2.33, 2.34, 0.09, log=False, loads=(0, 0, 0, 0.5), digits=2),
    Lab("phosphate_mmol_l", 1.08, 1.18, 0.16, log=False, bone=-0.04, loads=(0.1, 0, 0, 0), digits=2),
    Lab(
        "haemoglobin_g_l", 147, 131, 11.0, log=False, bone=0.10, age=-0.15, panel="blood count", loads=(-0.1, 0, 0, 0.4)
    ),
    Lab("wbc_10e9_l", 6.2, 5.9, 0.25, bmi=0.1, panel="blood count", digits=2),
    Lab("platelets_10e9_l", 215, 235, 0.24, bone=-0.04, panel="blood count", digits=0),
    Lab("urine_creatinine_mmol_l", 11.0, 8.0, 0.55, bone=0.05, age=-0.1, panel="urine", loads=(0.1, 0, 0, 0), digits=2),
    Lab("urine_albumin_mg_l", 9.0, 9.0, 1.10, age=0.1, bmi=0.1, panel="urine", loads=(0.15, 0, 0, 0), digits=1),
)
NAMES: tuple[str, ...] = tuple(lab.name for lab in LABS)
PANELS: tuple[str, ...] = tuple(dict.fromkeys(lab.panel for lab in LABS))

BONE = np.array([lab.bone for lab in LABS])
_LOADS = np.array([lab.loads for lab in LABS])
# Covariance of the noise of x: factors plus what is the lab's own, so that var(x | age, bmi) = 1 with bone's share.
_OWN = 1 - BONE**2 - (_LOADS**2).sum(1)
NOISE_COV = _LOADS @ _LOADS.T + np.diag(_OWN)
_AGE = np.array([lab.age for lab in LABS])
_BMI = np.array([lab.bmi for lab in LABS])
_LOG = np.array([lab.log for lab in LABS])
_SD = np.array([lab.sd for lab in LABS])
_DIGITS = [lab.digits for lab in LABS]
_LOW, _HIGH = (np.array([getattr(feature(lab.name), end) for lab in LABS]) for end in ("low", "high"))


def _median(male: np.ndarray) -> np.ndarray:
    m = np.array([lab.male for lab in LABS])
    f = np.array([lab.female for lab in LABS])
    return np.where(male[:, None] > 0.5, m, f)


def _shift(age: np.ndarray, male: np.ndarray, bmi: np.ndarray) -> np.ndarray:
    return _AGE * (age[:, None] - np.where(male > 0.5, 65, 59)[:, None]) / 10 + _BMI * (bmi[:, None] - 25) / 4


def draw(rng: np.random.Generator, age: np.ndarray, male: np.ndarray, bmi: np.ndarray, u: np.ndarray) -> np.ndarray:
    """Labs float64 [n, L] for people of given age (years), sex, BMI and bone residual u (SD units)."""
    n = len(age)
    noise = rng.standard_normal((n, 4)) @ _LOADS.T + rng.standard_normal((n, len(LABS))) * np.sqrt(_OWN)
    x = BONE * u[:, None] + _shift(age, male, bmi) + noise
    mid = _median(male)
    values = np.where(_LOG, mid * np.exp(_SD * x), mid + _SD * x)
    # A laboratory reports no value outside the schema's range; one draw in about 10^5 would be.
    values = np.clip(values, _LOW, _HIGH)
    return np.stack([np.round(values[:, j], d) for j, d in enumerate(_DIGITS)], 1)


def bone_given_labs(
    values: np.ndarray, age: np.ndarray, male: np.ndarray, bmi: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Posterior mean and variance ([n], [n]) of the bone residual u ~ N(0, 1) given labs [n, L] with NaN.

    Exact for this generator: given age, sex and BMI, u and the labs' x are jointly normal.
    """
    mid = _median(male)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.where(_LOG, np.log(np.maximum(values, 1e-3) / mid) / _SD, (values - mid) / _SD) - _shift(age, male, bmi)
    have = ~np.isnan(values)
    mean, var = np.zeros(len(age)), np.ones(len(age))
    patterns, which = np.unique(have, axis=0, return_inverse=True)
    for k, p in enumerate(patterns):
        if not p.any():
            continue
        rows = which.ravel() == k
        w = np.linalg.solve(NOISE_COV[np.ix_(p, p)], BONE[p])
        precision = 1 + BONE[p] @ w
        mean[rows] = x[rows][:, p] @ w / precision
        var[rows] = 1 / precision
    return mean, var
