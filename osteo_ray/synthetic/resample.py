"""Population resampled from NHANES: real people's demographics, labs and femoral-neck T-score.

What NHANES has no measure of is drawn: the trabecular density that the CT shows, given the T-score, and degeneration.
The residual of bone density follows the person's own T-score residual (after age, sex and weight) with the correlation
that the published population has, so labs carry exactly what real labs carry, and no more.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from osteo_ray.config import ConfigError
from osteo_ray.model.tissue_scale import HU_PER_VBMD
from osteo_ray.synthetic import labs
from osteo_ray.synthetic.config import PopulationConfig


@lru_cache(maxsize=2)
def _table(path: str) -> dict[str, np.ndarray]:
    from osteo_ray import patients as records

    f = records.load(path, "nhanes").frame
    f = f[f[["t_score", "age_y", "height_cm", "weight_kg"]].notna().all(axis=1)]
    return {
        c: f[c].to_numpy(float)
        for c in ("t_score", "age_y", "sex_male", "height_cm", "weight_kg", "smoker", *labs.NAMES)
    }


def draw_nhanes(rng: np.random.Generator, n: int, cfg: PopulationConfig) -> dict[str, np.ndarray]:
    """Population as columns [n], like `population.draw_arrays`; labs [n, L] with NaN where the survey has none.

    Raises:
        ConfigError: no nhanes_path, or nobody of the ages asked for.
    """
    from osteo_ray.synthetic import population as pop

    if cfg.nhanes_path is None:
        raise ConfigError("population.nhanes_path: needed with source: nhanes (the nhanes_bmd.parquet file)")
    t = _table(cfg.nhanes_path)
    inside = np.flatnonzero((t["age_y"] >= cfg.age_min) & (t["age_y"] <= cfg.age_max))
    if not len(inside):
        raise ConfigError(
            f"population.age_min, age_max: nobody from {cfg.age_min:g} to {cfg.age_max:g} years in NHANES"
        )
    x = np.stack([np.ones(len(inside)), *(t[c][inside] for c in ("age_y", "sex_male", "weight_kg", "height_cm"))], 1)
    score = t["t_score"][inside]
    fitted = x @ np.linalg.lstsq(x, score, rcond=None)[0]
    z = (score - fitted) / (score - fitted).std()
    female = t["sex_male"][inside] == 0
    weight = np.where(female, cfg.female_share / female.mean(), (1 - cfg.female_share) / (1 - female.mean()))
    pick = rng.choice(len(inside), n, p=weight / weight.sum())
    rows = inside[pick]
    age, male = t["age_y"][rows], t["sex_male"][rows]
    sd = pop.sd_hu(age)
    signal = pop.PER_HU * sd
    rho = signal / np.hypot(signal, pop.NOISE * cfg.dxa_noise)
    u = rho * z[pick] + np.sqrt(1 - rho**2) * rng.standard_normal(n)
    hu = np.maximum(pop.mean_hu(age, male) + sd * u, 15.0)
    return {
        "age": age, "male": male, "height": t["height_cm"][rows], "weight": t["weight_kg"][rows],
        "smoker": np.nan_to_num(t["smoker"][rows]) > 0, "u": u, "vbmd": hu / HU_PER_VBMD,
        "degeneration": np.maximum(0.0, 0.035 * (age - 45) + 0.55 * rng.standard_normal(n)),
        "t_score": np.round(score[pick], 2), "labs": np.stack([t[c][rows] for c in labs.NAMES], 1),
    }  # fmt: skip
