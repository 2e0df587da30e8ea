import subprocess
import sys

import numpy as np
import pytest

from osteo_ray.screening.explain import explain

RNG = np.random.default_rng(0)
WEIGHT = np.array([1.0, -2.0, 0.0, 0.5])
BG = RNG.normal(size=(6, 4))
KNOWN = np.ones((6, 4), bool)
CT = RNG.normal(size=7)  # what each CT (the patient's first) adds


def linear(values, known, ct):
    return (values * known) @ WEIGHT + CT[ct]


def test_a_linear_model_is_explained_exactly():
    x = np.array([0.3, -1.0, 2.0, 1.5])
    e = explain(linear, x, np.ones(4, bool), BG, KNOWN, has_ct=True)
    assert e.values[:4] == pytest.approx(WEIGHT * (x - BG.mean(0)), abs=1e-5)
    assert e.values[4] == pytest.approx(CT[0] - CT[1:].mean(), abs=1e-5)
    assert e.base == pytest.approx((BG @ WEIGHT).mean() + CT[1:].mean(), abs=1e-5)


def test_additive_with_interactions_and_missing_values():
    def f(values, known, ct):
        return values[:, 0] * values[:, 1] * known[:, 1] + 3 * ~known[:, 2] + CT[ct] * values[:, 3]

    x, known = np.array([0.3, -1.0, 0.0, 1.5]), np.array([True, True, False, True])
    e = explain(f, x, known, BG, KNOWN, has_ct=True)
    own = f(np.where(known, x, 0)[None], known[None], np.array([0]))[0]
    assert e.base + e.values.sum() == pytest.approx(own, abs=1e-5)
    assert e.values[2] == pytest.approx(3.0, abs=1e-5), "that a value is missing moves the score, and is said so"


def test_a_patient_without_ct_gives_the_ct_nothing():
    e = explain(linear, np.zeros(4), np.ones(4, bool), BG, KNOWN, has_ct=False)
    assert e.values[4] == pytest.approx(0, abs=1e-9)


def test_a_scorer_has_shap_without_its_plots():
    program = (
        "import sys\n"
        "from osteo_ray.screening import scorer_process\n"
        "scorer_process._import_shap()\n"
        "assert 'shap' in sys.modules and 'matplotlib' not in sys.modules\n"
        "import matplotlib\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
