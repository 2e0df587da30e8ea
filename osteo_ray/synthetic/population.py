"""Step 1: people. Demographics, correlated labs, a latent trabecular bone density, and the DXA T-score.

    people = draw_people(cfg, n=600, seed=0)

The latent trabecular vBMD (mg/cm3, hydroxyapatite) is a mean by age and sex plus a residual u. It drives both the CT
numbers and the T-score; the T-score adds body weight, sex (areal density grows with size), visible degeneration (which
raises DXA, not trabecular CT) and noise that nothing explains. Labels come from the T-score alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from osteo_ray.model.tissue_scale import HU_PER_VBMD
from osteo_ray.patients.labels import NORMAL_T, OSTEOPOROSIS_T, label_of
from osteo_ray.synthetic import labs
from osteo_ray.synthetic.config import CohortConfig, PopulationConfig

# T-score = T0 + PER_HU * (HU120 - 150) + PER_KG * (weight - 65) + MALE * male + PER_DEG * degeneration + noise
T0, PER_HU, PER_KG, MALE, PER_DEG, NOISE = -1.78, 0.0275, 0.034, 0.30, 0.25, 0.72


@dataclass(frozen=True)
class Person:
    """One person, whole: what the hospital knows, and the truth behind it."""

    seed: int  # everything about this person's body follows from it
    index: int
    patient_id: str
    age_y: float
    male: bool
    height_cm: float
    weight_kg: float
    smoker: bool
    labs: tuple[float, ...]  # in the order of labs.NAMES; NaN only where a resampled person has none
    residual: float  # u, in SD
    vbmd: float  # L1 trabecular, mg/cm3
    degeneration: float  # 0 is none; visible in CT as osteophytes, sclerosis and calcification
    t_score: float
    has_ct: bool = True
    has_demographics: bool = True
    lab_mask: tuple[bool, ...] = ()  # which labs the record holds; empty: all
    has_labs: bool = True

    @property
    def bmi(self) -> float:
        return self.weight_kg / (self.height_cm / 100) ** 2

    @property
    def label(self) -> str:
        return label_of(self.t_score)  # type: ignore[return-value]

    def complete(self) -> Person:
        """The same person with nothing missing."""
        return replace(self, has_ct=True, has_demographics=True, has_labs=True, lab_mask=())


def mean_hu(age: np.ndarray, male: np.ndarray) -> np.ndarray:
    """Mean L1 HU at 120 kVp by age (years) and sex: 226 below 30, 89 at 90, women above men until the menopause
    (Jang, Radiology 2019)."""
    men = np.interp(age, [20, 25, 65, 90], [233, 223, 145, 89])
    women = np.interp(age, [20, 25, 46, 60, 90], [236, 232, 204, 155, 89])
    return np.where(male > 0.5, men, women)


def sd_hu(age: np.ndarray) -> np.ndarray:
    """SD of L1 HU between people of one age and sex; 44 below 30 y and 38 at 90 y as published, narrower between
    (see the log: class means and r(HU, T) can't both hold with 40 throughout)."""
    return np.interp(age, [25, 45, 60, 75, 90], [42, 33, 30.5, 31, 36])


def _ages(rng: np.random.Generator, male: np.ndarray, cfg: PopulationConfig) -> np.ndarray:
    """Split-normal ages: median 65 (IQR 61-71) in men, 59 (55-65) in women (Cui 2016), within the limits."""
    z = rng.standard_normal(len(male))
    age = np.where(male > 0.5, 65, 59) + np.where(z < 0, 4, 6) / 0.6745 * z
    return np.round(np.clip(age, cfg.age_min, cfg.age_max), 1)


def t_mean(hu: np.ndarray, weight: np.ndarray, male: np.ndarray, degeneration: np.ndarray) -> np.ndarray:
    """Expected T-score given L1 HU at 120 kVp, weight (kg), sex and degeneration."""
    load = np.clip(weight, 45, 100)  # what the skeleton answers to levels off at both ends
    return T0 + PER_HU * (hu - 150) + PER_KG * (load - 65) + MALE * (male - 0.45) + PER_DEG * degeneration


def draw_arrays(
    rng: np.random.Generator, n: int, cfg: PopulationConfig, age: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Population as columns [n]; `age` fixes the ages (for checks by age)."""
    male = (rng.random(n) >= cfg.female_share).astype(float)
    drawn = _ages(rng, male, cfg)
    age = drawn if age is None else np.asarray(age, float)
    height = np.where(male > 0.5, 168.6, 157.9) - 0.12 * (age - 60) + 6.0 * rng.standard_normal(n)
    bmi = np.where(male > 0.5, 25.6, 25.2) * np.exp(0.135 * rng.standard_normal(n) - 0.003 * (age - 60))
    # From a stream of their own, so that the share changes no one else.
    rare = rng.spawn(1)[0]
    pick, far = rare.random(n), rare.exponential(size=n)
    bmi = np.where(pick < 0.5 * cfg.extreme_share, np.maximum(17 - far, 14.5), bmi)
    bmi = np.where(pick > 1 - 0.5 * cfg.extreme_share, np.minimum(36 + 4 * far, 52), bmi)
    weight = np.round(np.clip(bmi * (height / 100) ** 2, 36, 160), 1)
    height = np.round(height, 1)
    bmi = weight / (height / 100) ** 2
    smoker = rng.random(n) < np.where(male > 0.5, 0.35, 0.05)
    u = rng.standard_normal(n)
    hu = np.maximum(mean_hu(age, male) + sd_hu(age) * u, 15.0)
    degeneration = np.maximum(0.0, 0.035 * (age - 45) + 0.55 * rng.standard_normal(n))
    noise = rng.standard_normal(n)
    t = t_mean(hu, weight, male, degeneration) + NOISE * cfg.dxa_noise * noise
    return {
        "age": age, "male": male, "height": height, "weight": weight, "smoker": smoker, "u": u,
        "vbmd": hu / HU_PER_VBMD, "degeneration": degeneration, "t_score": np.round(t, 2),
        "labs": labs.draw(rng, age, male, bmi, u),
    }  # fmt: skip


def draw_people(cfg: CohortConfig, n: int | None = None, seed: int | None = None) -> list[Person]:
    """`n` people (config: persons) with what is missing in their records already decided."""
    from osteo_ray.synthetic.missing import decide

    n = cfg.persons if n is None else n
    seed = cfg.seed if seed is None else seed
    rng = np.random.default_rng([seed, 1])
    if cfg.population.source == "nhanes":
        from osteo_ray.synthetic.resample import draw_nhanes

        a = draw_nhanes(rng, n, cfg.population)
    else:
        a = draw_arrays(rng, n, cfg.population)
    m = decide(np.random.default_rng([seed, 2]), a, cfg.missing)
    m["labs"] &= ~np.isnan(a["labs"])
    seeds = np.random.default_rng([seed, 3]).integers(0, 2**31 - 1, n)
    return [
        Person(
            seed=int(seeds[i]), index=i, patient_id=f"OR{seed:03d}-{i:06d}",
            age_y=float(a["age"][i]), male=bool(a["male"][i]), height_cm=float(a["height"][i]),
            weight_kg=float(a["weight"][i]), smoker=bool(a["smoker"][i]), labs=tuple(map(float, a["labs"][i])),
            residual=float(a["u"][i]), vbmd=float(a["vbmd"][i]), degeneration=float(a["degeneration"][i]),
            t_score=float(a["t_score"][i]), has_ct=bool(m["ct"][i]), has_demographics=bool(m["demographics"][i]),
            lab_mask=tuple(map(bool, m["labs"][i])), has_labs=bool(m["labs"][i].any()),
        )
        for i in range(n)
    ]  # fmt: skip


@dataclass(frozen=True)
class Posterior:
    """P(osteoporosis) given images and records, against normal and against everyone else ([n])."""

    vs_normal: np.ndarray
    vs_rest: np.ndarray


def posterior(
    people: list[Person], seen_hu: np.ndarray, repeat_cv: float, dxa_noise: float = 1.0, use_ct: bool = True
) -> Posterior:
    """What a perfect reader would say: exact posterior of the label under this generator.

    The reader sees each scan's true trabecular HU without image noise (`seen_hu` [n], L1 at 120 kVp, still with the
    scan's own calibration error, SD `repeat_cv` of it), the degeneration, and the record with all its labs that are not
    missing. It can't see the calibration error or the T-score's noise.
    """
    col = {k: np.array([getattr(p, k) for p in people], float) for k in ("age_y", "male", "weight_kg", "degeneration")}
    values = np.array([p.labs for p in people])
    mask = np.array([p.lab_mask or (True,) * values.shape[1] for p in people])
    bmi = np.array([p.bmi for p in people])
    u, u_var = labs.bone_given_labs(np.where(mask, values, np.nan), col["age_y"], col["male"], bmi)
    sd = sd_hu(col["age_y"])
    m, v = mean_hu(col["age_y"], col["male"]) + sd * u, sd**2 * u_var
    if use_ct:
        seen_hu = np.asarray(seen_hu, float)
        e = np.maximum((repeat_cv * seen_hu) ** 2, 1e-6)
        m, v = (m * e + seen_hu * v) / (v + e), v * e / (v + e)
    mean = t_mean(m, col["weight_kg"], col["male"], col["degeneration"])
    s = np.sqrt(PER_HU**2 * v + (NOISE * dxa_noise) ** 2)
    op = ndtr((OSTEOPOROSIS_T - mean) / s)
    normal = ndtr((mean - NORMAL_T) / s)
    return Posterior(op / np.maximum(op + normal, 1e-300), op)
