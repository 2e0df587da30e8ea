"""Unit conversion through UCUM (ucumvert + pint), with molar masses where mass becomes substance.

    convert(np.array([1.0]), "mg/dL", feature("creatinine_umol_l"))   # 88.4

Laboratories write units in many ways (`IU/L`, `K/uL`, `x10^9/L`, `μmol/l`, `UMOL/L`): those that can mean one thing
only are known. A unit that is not, or that measures something else, is an error.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from functools import cache

import numpy as np

from osteo_ray.patients.schema import ANALYTES, Feature, feature

# Written form, in lower case and without blanks -> the UCUM codes that may be meant; the first that converts counts.
_COUNTS = {
    "10*9/L": (
        *("10*9/l", "10^9/l", "10e9/l", "10exp9/l", "10**9/l", "e9/l", "g/l", "giga/l", "bil/l", "1e9/l", "gpt/l"),
        *("mrd/l", "mrd./l", "10(9)/l", "10^9cells/l", "10*9cells/l"),
    ),
    "10*3/uL": (
        *("10*3/ul", "10^3/ul", "10e3/ul", "10exp3/ul", "10**3/ul", "e3/ul", "k/ul", "k/cumm", "k/mm3", "1000/ul"),
        *("thou/ul", "thousand/ul", "th/ul", "thou/mm3", "10^3/mm3", "10*3/mm3", "1000cells/ul", "10^3cells/ul"),
        *("kcells/ul", "cellsx10^3/ul", "10^3/cumm", "1e3/ul", "千/ul", "thou/mcl", "tsd/ul", "tsd./ul", "10(3)/ul"),
    ),
    "10*4/uL": ("10^4/ul", "10*4/ul", "万/ul", "萬/ul"),
    "10*6/L": ("10*6/l", "10^6/l", "10e6/l", "m/l", "mio/l"),
    "10*6/uL": ("10*6/ul", "10^6/ul", "m/ul", "mil/ul"),
    "/uL": ("/ul", "cells/ul", "cell/ul", "/mm3", "cells/mm3", "/cumm", "cells/cumm", "#/ul", "个/ul"),
    "/L": ("/l", "cells/l"),
}
_CONCENTRATIONS = {
    "mol/L": ("mol/l", "摩尔/升"),
    "mmol/L": ("mmol/l", "mm", "mmole/l", "mmoles/l", "millimole/l", "millimol/l", "毫摩尔/升", "毫摩/升", "毫摩爾/升"),
    "umol/L": (
        *("umol/l", "um", "umole/l", "umoles/l", "micromol/l", "mikromol/l", "micromole/l", "mcmol/l"),
        *("微摩尔/升", "微摩/升"),
    ),
    "nmol/L": ("nmol/l", "nm", "纳摩尔/升"),
    "g/L": ("g/l", "gm/l", "gr/l", "克/升"),
    "g/dL": ("g/dl", "gm/dl", "gr/dl", "g%", "gm%", "g/100ml", "克/分升"),
    "mg/L": ("mg/l", "毫克/升"),
    "mg/dL": ("mg/dl", "mg%", "mgs/dl", "mg/100ml", "毫克/分升"),
    "ug/L": ("ug/l", "微克/升"),
    "ug/dL": ("ug/dl",),
    "ug/mL": ("ug/ml",),
    "mg/mL": ("mg/ml",),
    "ng/mL": ("ng/ml",),
    "U/L": (
        *("u/l", "iu/l", "[iu]/l", "units/l", "unit/l", "u.i./l", "ui/l", "ie/l", "e/l", "u/lt"),
        *("单位/升", "国际单位/升", "单位/l"),
    ),
    "kU/L": ("ku/l", "kiu/l"),
    "U/mL": ("u/ml", "iu/ml"),
    "ukat/L": ("ukat/l",),
    "nkat/L": ("nkat/l",),
}
_BODY = {
    "a": ("a", "y", "yr", "yrs", "year", "years", "jahre", "ans", "岁", "歲"),
    "mo": ("mo", "month", "months", "月"),
    "m": ("m", "meter", "metre", "meters", "metres", "米"),
    "cm": ("cm", "cms", "centimeter", "centimeters", "centimetre", "厘米", "公分"),
    "mm": ("mm",),
    "[in_i]": ("in", "inch", "inches", "[in_i]", '"'),
    "[ft_i]": ("ft", "foot", "feet"),
    "kg": ("kg", "kgs", "kilogram", "kilograms", "公斤", "千克"),
    "g": ("g", "gram", "grams"),
    "[lb_av]": ("lb", "lb.", "lbs", "lbs.", "pound", "pounds", "[lb_av]"),
    "[oz_av]": ("oz", "ounce", "ounces", "[oz_av]"),
    "[stone_av]": ("st", "stone", "stones", "[stone_av]"),
    "kg/m2": ("kg/m2", "kg/m^2", "kg/m*2", "kg/sqm", "kg/qm"),
    "1": ("1",),
}
_ALIASES: dict[str, tuple[str, ...]] = {}
for _table in (_CONCENTRATIONS, _COUNTS, _BODY):
    for _code, _names in _table.items():
        for _name in _names:
            _ALIASES[_name] = (*_ALIASES.get(_name, ()), _code)
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")
_RAISED = re.compile(r"(?<=10)([⁰¹²³⁴⁵⁶⁷⁸⁹]+)")
_ANNOTATION = re.compile(r"\{[^}]*\}")
IN_NAME = re.compile(r"[(\[（]\s*([^)\]）]+?)\s*[)\]）]\s*$")
_EQUIVALENTS = re.compile(r"^[munk]?eq/d?l$")
_NO_UNIT = "; give the row its unit, or the column or test a `unit:` that holds for all of its rows"
_NEAR = 1.5
"""Medians of two hospitals in one unit differ by hardly more; most units of one quantity by far more."""
_VALENCE = {"calcium_mmol_l": 2}  # mEq/L of a doubly charged ion is half as many mmol/L


_T_SCORE_UNITS = {
    *("", "1", "#", "t", "tscore", "tscores", "score", "scoret", "ratio", "twert", "twerte"),
    *("t值", "t値", "tスコア", "t评分", "t評分", "t分数"),
    *("unitless", "dimensionless", "none", "nounit", "nounits"),
    *("sd", "sds", "sdscore", "sdunit", "sdunits", "std", "stddev", "stdev", "σ", "ds", "et", "de", "dp", "ss", "со"),
    *("standarddeviation", "standarddeviations", "standardabweichung", "standardabweichungen"),
    *("écarttype", "écartstypes", "ecarttype", "ecartstypes", "标准差", "標準差", "標準偏差"),
}
"""Without blanks, hyphens and brackets; ds, et, de, dp, ss and со are standard deviations of other languages."""
_NO_T_SCORE = re.compile(
    r"z(?![a-z])|z(?:score|wert|sd)|.*(?:%|percent|prozent|百分)|[mku]?g[mr]?(?:ha)?/|[毫微]?克/|bm[dc]$|hu$"
)
"""What begins like this is a Z-score, a share of a norm, a density or mass of bone, or a number of a CT."""


class UnitError(ValueError):
    """A unit that is not known, or that does not measure what the feature measures."""


@cache
def _registry():
    from ucumvert import PintUcumRegistry

    return PintUcumRegistry()


@cache
def written(unit: str) -> str:
    """A unit as written, in the one form that aliases are looked up by: lower case, no blanks, plain characters."""
    text = _RAISED.sub(lambda m: "^" + m[1].translate(_SUPERSCRIPTS), unit)
    text = unicodedata.normalize("NFKC", text).casefold()
    text = "".join(text.split()).replace("μ", "u").replace("µ", "u")
    text = re.sub("[×✕·・]", "x", text).replace("∧", "^").replace("ˆ", "^").replace("∕", "/").replace("⁄", "/")
    text = re.sub(r"^mc(?=g|l|mol)", "u", text).replace("/mcl", "/ul")
    text = re.sub(r"^[x*](?=\s*10|e\d)", "", text)  # x10^9/L
    return re.sub(r"/(litre|liter|lt)s?$", "/l", text)


@cache
def factor(unit: str, to: str, molar_mass: float | None) -> float:
    """Number by which values in `unit` are multiplied to be in `to` (UCUM); `unit` as laboratories write it.

    Raises:
        UnitError: `unit` is not known, or its dimension is another.
    """
    if unit.strip() == to:
        return 1.0
    plain = written(unit)
    if _EQUIVALENTS.match(plain):
        raise UnitError(f"unit {unit!r} counts charges, not substance: give {to!r}")
    bare = _ANNOTATION.sub("", plain)
    aliases = _ALIASES.get(plain) or _ALIASES.get(bare)
    if not aliases and not bare:
        aliases = ("1",)
    for code in aliases or (unit.strip(),):
        got = _ucum_factor(code, to, molar_mass)
        if got is not None:
            return got
    if aliases is None and not _is_ucum(unit.strip()):
        raise UnitError(f"unit {unit!r} is not known; say what it means in the mapping: `units: {{{unit!r}: ...}}`")
    raise UnitError(f"unit {unit!r} cannot be turned into {to!r}")


def _is_ucum(code: str) -> bool:
    try:
        _registry().from_ucum(code)
    except Exception:
        return False
    return True


def _ucum_factor(code: str, to: str, molar_mass: float | None) -> float | None:
    """Factor between UCUM codes; None where `code` is none, or measures something else."""
    if code == to:
        return 1.0
    reg = _registry()
    try:
        source, target = 1 * reg.from_ucum(code), 1 * reg.from_ucum(to)
    except Exception:  # the parser raises exceptions of many kinds
        return None
    if source.dimensionality == target.dimensionality:
        return float((source / target).to("dimensionless").magnitude)
    if molar_mass is not None:
        mass_per_mole = molar_mass * reg.from_ucum("g/mol")
        for quantity in (source / mass_per_mole, source * mass_per_mole):
            if quantity.dimensionality == target.dimensionality:
                return float((quantity / target).to("dimensionless").magnitude)
    return None


def as_meant(unit: str, own: Mapping[str, str] | None) -> str:
    """A unit as a mapping's `units:` means it (any case, any blanks); as written where that says nothing of it."""
    known = {written(k): v for k, v in own.items()} if own else {}
    return known.get(written(unit), unit)


def feature_factor(
    unit: str, f: Feature, molar_mass: float | None = None, own: Mapping[str, str] | None = None
) -> float:
    """Factor from `unit` to a feature's own unit. `own` is a mapping's `units:`, asked first (`as_meant`).

    Raises:
        UnitError: no unit, one that is not known, or one that measures something else.
    """
    if not unit.strip() and f.unit != "1":
        raise UnitError(f"no unit; {f.name} is measured in {f.unit}{_NO_UNIT}")
    unit = as_meant(unit, own)
    if f.name in _VALENCE and written(unit) == "meq/l":
        return 1 / _VALENCE[f.name]
    return factor(unit, f.unit, f.molar_mass if molar_mass is None else molar_mass)


def convert(values: np.ndarray, unit: str, feature: Feature) -> np.ndarray:
    """Values [n] in `unit` as float64 in the feature's own unit."""
    try:
        return np.asarray(values, np.float64) * feature_factor(unit, feature)
    except UnitError as e:
        raise UnitError(f"{feature.name}: {e}") from None


_CANDIDATES = (
    *("mmol/L", "umol/L", "mg/dL", "g/dL", "g/L", "mg/L", "U/L", "ukat/L", "10*9/L", "10*4/uL", "/uL"),
    *("cm", "m", "[in_i]", "mm", "kg", "[lb_av]", "g", "a", "mo"),
)


def unit_in_name(column: str) -> str | None:
    """The unit in brackets at the end of a column's name: 'mg/dL' of 'Urea (mg/dL)'."""
    found = IN_NAME.search(column)
    return found[1] if found else None


def unit_like(text: str) -> bool:
    """Whether a text is a unit, and no value."""
    plain = written(text)
    return not plain.isdecimal() and (plain in _ALIASES or _ANNOTATION.sub("", plain) in _ALIASES)


@cache
def of_t_score(unit: str) -> bool | None:
    """Whether what stands as the unit of a value lets it be a T-score: nothing, a pure number, standard deviations.

    False: it is known to be another quantity's; None: a word that is not known.
    """
    plain = re.sub(r"[{}()\[\].\s_-]", "", written(unit))
    if plain in _T_SCORE_UNITS:
        return True
    if _NO_T_SCORE.match(plain) or unit_like(unit) or _has_dimension(unit.strip()) or _has_dimension(written(unit)):
        return False
    return None


def _has_dimension(code: str) -> bool:
    """Whether a text is a UCUM unit of something that is measured, not a pure number."""
    return _is_ucum(code) and not (1 * _registry().from_ucum(code)).dimensionless


@cache
def _factor_or_none(unit: str, name: str) -> float | None:
    """`feature_factor`, None where there is none; kept, since UCUM's parser takes milliseconds for a unit."""
    try:
        return feature_factor(unit, feature(name))
    except UnitError:
        return None


def contradict(unit: str, other: str, f: Feature) -> bool:
    """Whether two units of one value are both known and make two different values of it."""
    if written(unit) == written(other):
        return False
    one, two = _factor_or_none(unit, f.name), _factor_or_none(other, f.name)
    return one is not None and two is not None and not np.isclose(one, two, rtol=1e-3)


def fitting_units(median: float, used: float, f: Feature) -> list[str]:
    """Units in which a column with this median would lie where a hospital's medians do; [] where it does already.

    Args:
        median: of the values in the feature's own unit, as they were converted.
        used: factor that they were converted by.
    """
    return [] if f.typical is None or f.typical[0] <= median <= f.typical[1] else units_that_fit(median / used, f)


def units_that_fit(raw: float, f: Feature, beside: float | None = None) -> list[str]:
    """Units in which a column whose written values have this median would lie where a hospital's medians do.

    Args:
        beside: where given, the median of others in the feature's unit, near which it would have to lie, too.
    """
    if f.typical is None:
        return []
    out = []
    substances = [(f.molar_mass, "")] + [(m, f" of {a}") for a, (name, m) in ANALYTES.items() if name == f.name]
    for molar_mass, suffix in substances:
        for unit in _CANDIDATES:
            k = _ucum_factor(unit, f.unit, molar_mass)
            # A substance in moles is the same number for every analyte.
            if k is None or not f.typical[0] <= raw * k <= f.typical[1] or (suffix and k == 1):
                continue
            if beside is None or beside / _NEAR <= raw * k <= beside * _NEAR:
                out.append(unit + suffix)
    return out
