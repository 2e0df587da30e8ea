"""Rivals of the ablation: methods without deep networks, on records and hand-made features of the same slices.

All of them see what the networks see of a scan, averaged over its slices: the mean and spread of HU in each region of
interest, the grey-level co-occurrence of the slice around the vertebra, density at 120 kVp, tube voltage, contrast.
"""

from __future__ import annotations

import numpy as np
import torch
from skimage.feature import graycomatrix, graycoprops
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from osteo_ray.kdamm.objective import Rows
from osteo_ray.model.encoder import SliceEncoder
from osteo_ray.model.networks import Batch
from osteo_ray.model.ordinal import Latent

TEXTURE = ("contrast", "homogeneity", "energy", "correlation", "ASM", "dissimilarity")
HALF = 9
"""Half the side, in pixels, of the square about the trabecular region whose texture is measured."""


@torch.no_grad()
def texture(crops: np.ndarray, encoder: SliceEncoder) -> np.ndarray:
    """Haralick's features of spine crops int16 HU [n, S, S] -> float32 [n, len(TEXTURE)].

    From the square about the centre of the encoder's trabecular region: 32 grey levels of -100 to 500 HU, distance 1,
    mean of four directions.
    """
    roi = encoder(torch.from_numpy(crops)).roi[:, 0]
    side = roi.shape[-1]
    at = torch.arange(side, dtype=roi.dtype)
    row, column = (2 * (roi.sum(d) * at).sum(-1).numpy() for d in (2, 1))
    out = np.zeros((len(crops), len(TEXTURE)), np.float32)
    angles = [0, np.pi / 4, np.pi / 2, 3 * np.pi / 4]
    for i, hu in enumerate(crops):
        y, x = (int(np.clip(round(float(c[i])), HALF, hu.shape[0] - HALF)) for c in (row, column))
        patch = hu[y - HALF : y + HALF, x - HALF : x + HALF].astype(float)
        grey = (np.clip((patch + 100) / 600, 0, 1) * 31).astype(np.uint8)
        m = graycomatrix(grey, [1], angles, levels=32, symmetric=True, normed=True)
        out[i] = [graycoprops(m, p).mean() for p in TEXTURE]
    return out


def table(b: Batch, texture_of: np.ndarray, columns: list[int] | None) -> np.ndarray:
    """One row a patient, NaN unknown: records, the slices' mean features (`columns` of them, None: all), texture."""
    scanned = b.bag_mask.any(1).numpy()[:, None]
    mean = ((b.bag * b.bag_mask[..., None]).sum(1) / b.bag_mask.sum(1, keepdim=True).clamp_min(1)).numpy()
    image = np.c_[mean if columns is None else mean[:, columns], texture_of]
    return np.c_[np.where(b.known.numpy(), b.values.numpy(), np.nan), np.where(scanned, image, np.nan)]


def rivals(
    train: Rows, complete: np.ndarray, texture_train: np.ndarray, test: Batch, texture_test: np.ndarray, hand: list[int]
) -> dict[str, np.ndarray]:
    """Log-probabilities [n, 3] of the test patients by each rival.

    Args:
        complete: bool, training patients with every modality.
        hand: dimensions of the bag that count as hand-made: the regions' HU and how the scan was made.
    """
    y, t = train.label.numpy(), train.t_score.numpy()
    by_t = np.isfinite(t).all()
    out = {}

    def prepared(model):
        impute = SimpleImputer(strategy="mean", add_indicator=True, keep_empty_features=True)
        return make_pipeline(impute, StandardScaler(), model)

    def by_class(model, x, to, rows) -> np.ndarray:
        return np.log(np.maximum(model.fit(x[rows], y[rows]).predict_proba(to), 1e-9))

    def by_t_score(model, x, to, rows) -> np.ndarray:
        # A Gaussian about the prediction, as wide as the cross-fitted error on complete patients.
        apart = cross_val_predict(model, x[rows], t[rows], cv=5)
        sd = float(np.std((apart - t[rows])[complete[rows]]))
        mean = torch.from_numpy(model.fit(x[rows], t[rows]).predict(to))
        return Latent(mean, torch.tensor(np.log(sd))).logits().numpy()

    every = np.ones(len(y), bool)
    for what, columns in (("ROI + GLCM", hand), ("embedding + GLCM", None)):
        x, to = table(train.batch, texture_train, columns), table(test, texture_test, columns)
        for fitted_on, rows in (("everyone", every), ("complete", complete)):
            logistic = prepared(LogisticRegression(C=0.03, max_iter=2000))
            out[f"(vi) logistic, {what}, {fitted_on}"] = by_class(logistic, x, to, rows)
            if by_t:
                ridge = prepared(RidgeCV(np.logspace(0, 4, 13)))
                out[f"(vi) ridge on T-scores, {what}, {fitted_on}"] = by_t_score(ridge, x, to, rows)
        if columns is None:
            continue
        tree = {"learning_rate": 0.04, "max_iter": 120, "max_leaf_nodes": 6, "min_samples_leaf": 20}
        tree |= {"l2_regularization": 5.0, "random_state": 0}
        out[f"(vi) boosting, {what}, everyone"] = by_class(HistGradientBoostingClassifier(**tree), x, to, every)
        if by_t:
            boosting = HistGradientBoostingRegressor(**tree)
            out[f"(vi) boosting on T-scores, {what}, everyone"] = by_t_score(boosting, x, to, every)
    return out
