"""The card's held-out figures: whom they count, and that they are what scikit-learn makes of the same scores."""

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import recall_score, roc_auc_score
from synthetic_bundle import synthetic_bundle
from synthetic_scans import synthetic_scans

from osteo_ray.model.acquisition import Acquisition, extend
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import normal_log_odds
from osteo_ray.model.embedding import THORACIC, EmbeddingLayout
from osteo_ray.patients.labels import OSTEOPENIA, OSTEOPOROSIS
from osteo_ray.patients.schema import NAMES
from osteo_ray.training.heldout import judge
from osteo_ray.training.patients import Patients, batch_of
from osteo_ray.training.picks import pick_slices
from osteo_ray.training.prepare import People

N, OUT_OF_RANGE, UNLABELLED = 60, 7, 5


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return synthetic_bundle()


@pytest.fixture(scope="module")
def people() -> People:
    """All have CT and records; the first were scanned at a voltage that nothing is scored at, the last lack a DXA."""
    scans = synthetic_scans(N, 16)
    scans.embedding[..., EmbeddingLayout.region][..., THORACIC] = 0  # nowhere the chest: no scan is upside down
    rng = np.random.default_rng(3)
    kvp = np.full(N, 120.0)
    kvp[:OUT_OF_RANGE] = 60.0
    label = scans.label.copy()
    label[-UNLABELLED:] = -1
    patients = Patients(
        key=scans.patient, part=np.full(N, "test"), label=label, t_score=np.zeros(N, np.float32),
        values=rng.normal(50, 5, (N, len(NAMES))), scan=np.arange(N), series=scans.series,
        day=np.full(N, "2024-01-01", "datetime64[D]"), judged=np.ones(N, bool), site=np.full(N, None, object),
    )  # fmt: skip
    return People(scans, Acquisition(kvp, np.zeros(N)), patients)


@pytest.fixture(scope="module")
def judged(bundle, people) -> dict[str, Any]:
    return judge(bundle, people, quiet=True)


def test_nobody_counts_whom_the_product_would_refuse(judged):
    assert judged["n_heldout"] == N - UNLABELLED
    assert judged["heldout_scans"] == N
    for row in judged["heldout"]:
        assert row["refused"]["KVP_OUT_OF_RANGE"] == OUT_OF_RANGE
        assert row["n"] == N - UNLABELLED - sum(row["refused"].values())


@pytest.mark.parametrize("pattern", ["ct", "demographics+labs+ct"])
def test_the_figures_are_those_of_the_scores(bundle, people, judged, pattern):
    row = next(r for r in judged["heldout"] if r["pattern"] == pattern)
    assert set(row["refused"]) == {"KVP_OUT_OF_RANGE"}  # or the rows below would not be those that count
    chosen = np.arange(OUT_OF_RANGE, N - UNLABELLED)
    picks = pick_slices(people.scans, bundle.policy, bundle.reward_classifiers, bundle.config.view, True)
    bags = extend(picks.bags, bundle.config.encoder.layout, people.scanned, bundle.config.acquisition)
    batch = batch_of(people.patients, np.arange(N), bundle.standardiser, bags, picks.masks)
    found = [bundle.predict(batch.take(torch.tensor([i])), pattern) for i in chosen]  # one by one, as the product
    # The card rounds to four places.
    risk = np.array([f.risk[0] for f in found])
    odds = np.array([normal_log_odds(f.logits)[0] for f in found])
    y = people.patients.label[chosen]
    case, ends = y == OSTEOPOROSIS, y != OSTEOPENIA
    assert row["events"] == case.sum()
    assert row["auc"][0] == pytest.approx(roc_auc_score(case[ends], odds[ends]), abs=6e-5)
    assert row["auc_rest"][0] == pytest.approx(roc_auc_score(case, risk), abs=6e-5)
    high = risk >= bundle.threshold
    assert row["sensitivity"][0] == pytest.approx(recall_score(case, high), abs=6e-5)
    assert row["specificity"][0] == pytest.approx(recall_score(~case, ~high), abs=6e-5)
    assert row["auc"][1] < row["auc"][0] < row["auc"][2]


def test_models_read_what_was_looked_at_and_all_else_stays_with_the_kept(bundle, people):
    view = bundle.config.view
    kept, looked = (
        pick_slices(people.scans, bundle.policy, bundle.reward_classifiers, view.model_copy(update={"read": r}), True)
        for r in ("kept", "looked")
    )
    assert np.array_equal(kept.kept, looked.kept)
    for a, b in zip(looked.of_kept(), (kept.bags, kept.masks), strict=True):
        assert np.array_equal(a, b)
    for i in range(N):
        first, at = kept.kept[i][kept.kept[i] >= 0], np.flatnonzero(looked.looked[i])
        others = [k for k in at if k not in first]
        assert len(others) > 0
        assert np.array_equal(looked.bags[i, looked.masks[i]], people.scans.embedding[i, [*first, *others]])
    views = (p.views(people.scans, people.scanned) for p in (kept, looked))
    for one, other in zip(*views, strict=True):
        assert np.array_equal(one.selection.kept, other.selection.kept)
