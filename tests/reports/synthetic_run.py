"""Synthetic result rows for the report tests: deterministic, with every state and the odd cases among them."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa

from osteo_ray.reports.html import Overview, StudyView, Thumbnail
from osteo_ray.reports.pictures import Roi
from osteo_ray.screening.schema import RESULTS

UID = "1.2.826.0.1.3680043.10.1338"
SHAP_FEATURES = [
    ("age_y", "demographics", 71.0, "a", 0.62),
    ("sex_male", "demographics", 0.0, "1", 0.31),
    ("bmi", "demographics", 21.4, "kg/m2", 0.18),
    ("alp_u_l", "labs", 118.0, "U/L", 0.27),
    ("uric_acid_umol_l", "labs", 402.0, "umol/L", -0.22),
    ("haemoglobin_g_l", "labs", None, "g/L", 0.04),
    ("creatinine_umol_l", "labs", 61.0, "umol/L", -0.05),
    ("ct", "ct", None, "", 1.12),
]


def empty_row(i: int, state: str, code: str, stage: str, message: str = "") -> dict[str, Any]:
    """A row that was not scored: state, code and identity, everything else null."""
    row: dict[str, Any] = dict.fromkeys(RESULTS.names)
    row |= dict(row_key=f"{i:032x}", run_id="run-2031-04-02-a1b2", state=state, code=code, stage=stage, message=message)
    return row | dict(study_uid=f"{UID}.{i}", series_uid=f"{UID}.{i}.7", patient_key=f"{i * 7919:016x}", attempt=1)


def scored_row(i: int, risk: float, modalities: tuple[str, ...] = ("demographics", "labs", "ct")) -> dict[str, Any]:
    """A scored row with eight chosen slices around the lumbar spine."""
    rng = np.random.default_rng(i)
    n, k = 96, 8
    index = np.sort(rng.choice(np.arange(18, 70), k, replace=False))
    weight = rng.dirichlet(np.full(k, 2.0))
    log_odds = math.log(risk / (1 - risk))
    groups = {"demographics": "demographics" in modalities, "labs": "labs" in modalities, "ct": "ct" in modalities}
    shap = [
        dict(feature=f, group=g, value=v, unit=u, shap=s * (0.6 + 0.8 * rng.random()) * (1 if risk > 0.3 else -1))
        for f, g, v, u, s in SHAP_FEATURES
        if groups[g]
    ]
    p_normal = (1 - risk) * 0.55
    row = empty_row(i, "SCORED", "OK", "score")
    return row | dict(
        risk_prob=risk,
        risk_low=max(0.0, risk - 0.11),
        risk_high=min(1.0, risk + 0.13),
        risk_class="high" if risk >= 0.35 else "low",
        p_normal=p_normal,
        p_osteopenia=1 - risk - p_normal,
        p_osteoporosis=risk,
        log_odds=log_odds,
        operating_point="sensitivity 0.90 on calibration patients",
        threshold=0.35,
        calibrator="+".join(modalities),
        modalities=list(modalities),
        selected=[
            dict(
                sop_uid=f"{UID}.{i}.7.{j}",
                index=int(j),
                z_mm=-412.5 + 3.0 * int(j),
                weight=float(w),
                p_lumbar=0.9,
                level="L2",
                level_confidence=0.97,
                hu=190.5 - 120.0 * risk,
                roi_row=117.1,
                roi_col=95.5,
                roi_radius_mm=9.5,
            )
            for j, w in zip(index, weight, strict=True)
        ],
        slices_total=n,
        slices_decoded=11,
        bytes_read=2_893_112,
        trabecular_hu=200.5 - 120.0 * risk,
        trabecular_hu_120_kvp=200.5 - 120.0 * risk if i % 3 == 0 else None,
        hu_by_level=[
            dict(level="L1", hu=205.5 - 120.0 * risk, hu_120_kvp=171.2, slices=2, spread=4.0),
            dict(level="L2", hu=198.5 - 120.0 * risk, hu_120_kvp=None, slices=1, spread=None),
        ],
        shap_base=-1.1,
        shap=shap,
        gates=[
            dict(gate="Q_MODALITY", verdict="pass", value="CT", threshold="CT"),
            dict(gate="Q_THICKNESS", verdict="pass", value="3.0 mm", threshold="<= 5 mm"),
            dict(gate="Q_TILT", verdict="pass", value="0.0 deg", threshold="<= 1 deg"),
            dict(gate="Q_KVP", verdict="pass", value="120", threshold="= 120"),
            dict(gate="Q_COVERAGE", verdict="pass", value="5 levels", threshold=">= 2 levels"),
        ],
        study_date="20310402",
        age_y=float(50 + i % 40),
        sex="F" if i % 3 else "M",
        age_from=["record", "header"][i % 2],
        sex_from="record",
        manufacturer=["SIEMENS", "GE MEDICAL SYSTEMS", "Philips"][i % 3],
        kvp=[120.0, 100.0, 140.0][i % 3],
        convolution_kernel=["B30f", "STANDARD", "B"][i % 3],
        slice_thickness_mm=[3.0, 1.25, 5.0][i % 3],
        spacing_z_median_mm=3.0,
        contrast=[None, "portal venous"][i % 2],
        model_name="osteo-ray demo",
        model_version="0.1.0",
        model_sha256="9f2c" * 16,
        open_s=0.31,
        select_s=0.52,
        score_s=0.09,
    )


def odd_rows() -> list[dict[str, Any]]:
    """Rows a careless template would break on."""
    warn = scored_row(901, 0.71)
    warn |= dict(state="SCORED_WARN", code="Q_KVP", message="tube voltage is 140 kVp; the score was trained at 120 kVp")
    warn["gates"][3] = dict(gate="Q_KVP", verdict="warn", value="140", threshold="= 120")
    no_labs = scored_row(902, 0.18, ("demographics", "ct"))
    ct_only = scored_row(903, 0.52, ("ct",)) | dict(age_y=None, sex=None)
    abstained = scored_row(904, 0.5) | dict(
        state="ABSTAINED", code="A_UNCERTAIN", message="the interval spans the operating point at both tails"
    )
    abstained |= dict.fromkeys(("risk_prob", "risk_low", "risk_high", "risk_class", "log_odds"))
    hostile = scored_row(905, 0.36) | dict(
        patient_key="<script>alert(1)</script>",
        manufacturer='=HYPERLINK("http://example.org")',
        convolution_kernel="Q" * 240,
        message="a very long message " * 40,
    )
    extreme = scored_row(906, 0.9995) | dict(risk_low=0.98, risk_high=1.0)
    return [
        warn,
        no_labs,
        ct_only,
        abstained,
        hostile,
        extreme,
        empty_row(910, "EXCLUDED", "Q_LOCALIZER", "gate", "the series is a localizer (2 instances)"),
        empty_row(911, "EXCLUDED", "Q_MODALITY", "gate", "modality is MR, CT is needed") | dict(patient_key=None),
        empty_row(912, "QUARANTINED", "D_DECODE", "decode", "instance 14: pixel data is truncated"),
        empty_row(913, "ERROR", "E_TIMEOUT", "score", "no answer in 120 s, two attempts") | dict(attempt=2),
    ]


def many_rows(n: int = 60, seed: int = 7) -> list[dict[str, Any]]:
    risks = np.random.default_rng(seed).beta(1.2, 3.0, n)
    return [scored_row(i, float(np.clip(r, 0.01, 0.99))) for i, r in enumerate(risks)] + odd_rows()


def table(rows: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=RESULTS)


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return dict(
        run_id="run-2031-04-02-a1b2",
        indexed=len(rows),
        files_unreadable=4,
        wall_s=312.4,
        workers=2,
        archive="archive.zip",
        counts=dict(Counter(r["state"] for r in rows)),
    )


def axial_hu(z: float, size: int = 192, seed: int = 0) -> np.ndarray:
    """A plain axial phantom in HU: body, vertebral body whose density follows z, canal, noise."""
    yy, xx = np.mgrid[:size, :size].astype(float)
    c = size / 2
    hu = np.full((size, size), -1000.0)
    hu[((xx - c) / (0.46 * size)) ** 2 + ((yy - c) / (0.34 * size)) ** 2 < 1] = -90
    hu[((xx - c) / (0.41 * size)) ** 2 + ((yy - c) / (0.29 * size)) ** 2 < 1] = 45
    body = ((xx - c) / (0.115 * size)) ** 2 + ((yy - 1.22 * c) / (0.085 * size)) ** 2
    inside = math.cos(z / 17.0) > -0.55
    hu[body < 1] = 330 if inside else 95
    if inside:
        hu[body < 0.78] = 125 + 40 * math.sin(z / 30)
    hu[((xx - c) / (0.045 * size)) ** 2 + ((yy - 1.45 * c) / (0.04 * size)) ** 2 < 1] = 25
    return hu + np.random.default_rng(seed).normal(0, 18, hu.shape)


def thumbnails(row: dict[str, Any]) -> list[Thumbnail]:
    return [
        Thumbnail(
            axial_hu(s["z_mm"], seed=s["index"]),
            (1.9, 1.9),
            s["z_mm"],
            s["weight"],
            s["sop_uid"],
            s["index"],
            Roi(s["roi_row"], s["roi_col"], s["roi_radius_mm"]),
        )
        for s in row["selected"] or []
    ]


def overview() -> Overview:
    """A coarse sagittal picture of the same phantom, head at the top, 3 mm rows."""
    z = np.arange(96)[::-1] * 3.0 - 412.5
    hu = np.stack([axial_hu(float(v), 128, seed=i)[:, 64] for i, v in enumerate(z)])
    return Overview(hu, spacing=(3.0, 2.85), z_top_mm=float(z[0]), z_bottom_mm=float(z[-1]))


def view(row: dict[str, Any], with_overview: bool = True) -> StudyView:
    return StudyView(row, thumbnails(row), overview() if with_overview else None)
