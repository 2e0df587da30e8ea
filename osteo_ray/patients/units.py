"""Unit conversion through UCUM (ucumvert + pint), with molar masses where mass becomes substance.

    convert(np.array([1.0]), "mg/dL", feature("creatinine_umol_l"))   # 88.4

A unit that is no UCUM code, or measures something else, is an error.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from osteo_ray.patients.schema import Feature

# What laboratories and exports write instead of UCUM, with the UCUM code that is meant.
_SPELLINGS = {
    "": "1",
    "IU/L": "[iU]/L",
    "µmol/L": "umol/L",
    "μmol/L": "umol/L",
    "10^9/L": "10*9/L",
    "G/L": "10*9/L",
    "10^3/uL": "10*3/uL",
    "K/uL": "10*3/uL",
    "1000 cells/uL": "10*3/uL",
    "years": "a",
    "y": "a",
    "lb": "[lb_av]",
    "in": "[in_i]",
    "kg/m^2": "kg/m2",
}


class UnitError(ValueError):
    """A unit that is not UCUM, or that does not measure what the feature measures."""


@cache
def _registry():
    from ucumvert import PintUcumRegistry

    return PintUcumRegistry()


@cache
def factor(unit: str, to: str, molar_mass: float | None) -> float:
    """Number by which values in `unit` are multiplied to be in `to` (both UCUM).

    Raises:
        UnitError: `unit` is no UCUM code, or its dimension is another.
    """
    code = _SPELLINGS.get(unit.strip(), unit.strip())
    if code == to:
        return 1.0
    # Enzyme activity: one international unit is the same amount as U (1 umol/min); UCUM keeps [iU] apart.
    if to == "U/L" and code.startswith("[iU]"):
        code = "U" + code[4:]
    reg = _registry()
    try:
        source, target = reg.from_ucum(code), reg.from_ucum(to)
    except Exception as e:
        raise UnitError(f"unit {unit!r} is not a UCUM code (like 'mg/dL', 'umol/L', '10*9/L')") from e
    source, target = 1 * source, 1 * target
    if source.dimensionality == target.dimensionality:
        return float((source / target).to("dimensionless").magnitude)
    if molar_mass is not None:
        mass_per_mole = molar_mass * reg.from_ucum("g/mol")
        as_mol = source / mass_per_mole
        if as_mol.dimensionality == target.dimensionality:
            return float((as_mol / target).to("dimensionless").magnitude)
        as_mass = source * mass_per_mole
        if as_mass.dimensionality == target.dimensionality:
            return float((as_mass / target).to("dimensionless").magnitude)
    raise UnitError(f"unit {unit!r} cannot be turned into {to!r}")


def convert(values: np.ndarray, unit: str, feature: Feature) -> np.ndarray:
    """Values [n] in `unit` as float64 in the feature's own unit."""
    try:
        return np.asarray(values, np.float64) * factor(unit, feature.unit, feature.molar_mass)
    except UnitError as e:
        raise UnitError(f"{feature.name}: {e}") from None
