"""What patients are cut by, and in which order the groups stand (pure)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import pandas as pd

from osteo_ray.patients.schema import LABS

NOT_RECORDED = "not recorded"
PLAIN = {"manufacturer": "manufacturer", "convolution_kernel": "kernel", "contrast": "contrast", "site": "site"}


def cuts(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Subgroup name -> one text per row, None where not recorded; only what `frame` has columns for."""
    out: dict[str, pd.Series] = {}
    if "sex" in frame:
        out["sex"] = frame["sex"]
    if "age_y" in frame:
        out["age"] = _band(frame["age_y"], [50, 60, 70, 80], "y")
    if "bmi_kg_m2" in frame and frame["bmi_kg_m2"].notna().any():
        out["body mass index"] = _band(frame["bmi_kg_m2"], [18.5, 25, 30], "kg/m2")
    if "modalities" in frame:
        out["modalities"] = frame["modalities"].map(pattern, na_action="ignore")
    if "labs_missing" in frame:
        out["labs missing"] = _labs_missing(frame)
    if "kvp" in frame:
        out["kVp"] = frame["kvp"].map(lambda v: f"{v:g}", na_action="ignore")
    if "slice_thickness_mm" in frame:
        out["slice thickness"] = _band(frame["slice_thickness_mm"], [1, 2, 3, 5], "mm", closed_right=True)
    out |= {by: frame[column] for column, by in PLAIN.items() if column in frame}
    return {by: c.astype(object).where(c.notna() & (c.astype(str) != ""), None) for by, c in out.items()}


def pattern(modalities: Iterable[str]) -> str:
    """Missingness pattern as text: the modalities a score used, sorted, joined by ' + '."""
    return " + ".join(sorted(modalities)) or "none"


def natural(group: str) -> tuple[int, float, str]:
    """Bands and kVp in the order of their first number; '< 50' before '50-59', text by the alphabet, unknown last."""
    if group == NOT_RECORDED:
        return (2, 0.0, group)
    digits = "".join(ch if ch.isdigit() or ch == "." else " " for ch in group).split()
    if not digits or not group.lstrip("<>= ")[:1].isdigit():
        return (1, 0.0, group)
    return (0, float(digits[0]) + (0.5 if group.startswith(">") else -0.5 if group.startswith("<") else 0), group)


def _labs_missing(frame: pd.DataFrame) -> pd.Series:
    """Bands of how many labs a record lacked; who has no labs at all is a group of its own."""
    n = frame["labs_missing"]
    named = pd.Series(np.select([n == 0, n <= 2, n <= 5], ["0", "1-2", "3-5"], "6 or more"), frame.index, dtype=object)
    none = n >= len(LABS)
    if "modalities" in frame:
        none |= frame["modalities"].map(lambda v: "labs" not in v, na_action="ignore").eq(True)
    return named.where(n.notna() | none, None).mask(none, "all")


def _band(values: pd.Series, edges: list[float], unit: str, closed_right: bool = False) -> pd.Series:
    if closed_right:  # thickness: up to and with 1 mm, ...
        names = [f"<= {edges[0]:g} {unit}", *(f"{a:g} < .. <= {b:g} {unit}" for a, b in itertools.pairwise(edges))]
        names.append(f"> {edges[-1]:g} {unit}")
    elif unit == "y":
        names = [f"< {edges[0]:g} {unit}", *(f"{a:g}-{b - 1:g} {unit}" for a, b in itertools.pairwise(edges))]
        names.append(f">= {edges[-1]:g} {unit}")
    else:
        names = [f"< {edges[0]:g} {unit}", *(f"{a:g} <= .. < {b:g} {unit}" for a, b in itertools.pairwise(edges))]
        names.append(f">= {edges[-1]:g} {unit}")
    which = np.searchsorted(edges, values.to_numpy(float), side="left" if closed_right else "right")
    named = pd.Series([names[i] for i in which], index=values.index, dtype=object)
    return named.where(values.notna(), None)
