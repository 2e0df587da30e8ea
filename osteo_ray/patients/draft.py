"""A proposal of a mapping, from a table's header and values: for a person to correct, never used by itself.

osteo-ray records --draft labs.csv > mapping.yaml
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from osteo_ray.io.store import local_file
from osteo_ray.io.uris import is_remote
from osteo_ray.patients import draft_names as names
from osteo_ray.patients.dates import date_forms, day, days, which_first
from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.mapping import Mapping, Numbers, withdrawn_among
from osteo_ray.patients.readers import FHIR, Chunk, chunks, first_rows, kind_of
from osteo_ray.patients.schema import BY_LOINC, T_SCORE_LOINCS, feature
from osteo_ray.patients.units import (
    IN_NAME,
    UnitError,
    feature_factor,
    fitting_units,
    unit_in_name,
    unit_like,
    units_that_fit,
)
from osteo_ray.patients.values import BAD, OK, as_written, number, numbers, plain
from osteo_ray.patients.wide import OF_REFERENCE, bound_signs

ROWS = 2000
"""Rows that a proposal looks at."""
_PLAIN = Mapping(format="fhir")  # nothing of a mapping but what it says where it says nothing


def draft(source: str | Path) -> list[str]:
    """A proposal of a mapping as YAML, a line each, with what has to be looked at as comments.

    Raises:
        RecordsError: a table that can't be read.
    """
    if not is_remote(source) and Path(source).is_dir():
        raise RecordsError([f"{source}: a folder; name one of its files"])
    if kind_of(source) in FHIR:
        raise RecordsError([f"{source}: FHIR needs no mapping of columns; see `format: fhir` for its few settings"])
    try:
        with local_file(source) as path:
            how, chunk, notes = _first(path, Path(str(source)).name)
    except FileNotFoundError:
        raise RecordsError([f"{source}: no such file"]) from None
    table = chunk.frame.iloc[:ROWS].reset_index(drop=True)
    notes += [f"column {c!r} stands twice: rename one" for c in chunk.repeated]
    roles, t_scores = _roles(table, notes)
    body: dict[str, object] = dict(how)
    units, table = _units_row(table)
    if units:
        body["skip_rows"] = 1
        notes.append("the row under the header holds units: it is passed over")
    long = all(r in roles for r in ("test", "value"))
    if long:
        body["format"] = "long"
    if "patient_id" not in roles:
        notes.append("no column looks like the patient's number: name it as patient_id")
    body |= {"patient_id": roles.get("patient_id", "???")}
    for key in ("date", "birth_date", "dxa_date"):
        if key in roles:
            body[key] = roles[key]
    body |= _date_format(table, roles, notes)
    if "site" in roles:
        body["site_column"] = roles["site"]
    body |= _withdrawn(table, roles, notes)
    taken = {*roles.values(), *t_scores}
    if t_scores and not long:
        body["t_score"] = t_scores
    if "treatment" in roles and not long:
        column = roles["treatment"]
        body["treatment"] = {"column": column, "codes": _codes("treatment", table[column], names.YES, notes)}
    body |= _numbers_rule(table, roles, long, notes)
    body |= _long(table, roles, notes) if long else _wide(table, taken, notes, units)
    lines = [
        f"# Proposed from {chunk.source}: check each line, above all units and codes, before it is used.",
        *(f"# CHECK  {n}" for n in notes),
    ]
    return lines + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=110).splitlines()


def _first(path: Path, name: str) -> tuple[dict[str, object], Chunk, list[str]]:
    """(settings of the file, its first rows, what has to be checked): that encoding, sheet and header row of which most
    names are known."""
    how: dict[str, object] = {}
    best = -1, 0
    sheets: dict[object, int] = {}  # with how many known names a row of each has
    for settings, rows in first_rows(path, name):
        known = [(sum(map(_known_in, fields)), number) for number, fields in rows]
        most = max([k for k, _ in known], default=0)
        if "sheet" in settings:
            sheets[settings["sheet"]] = most
        units = sum(unit_like(f) for _, fields in rows for f in fields if not f.isascii())
        if (most, units) <= best:
            continue
        best = most, units
        start = next((n for k, n in known if k == most), 1)
        first = next((n for n, fields in rows if any(fields) and not re.fullmatch('"?sep=.?', "".join(fields))), 1)
        how = settings | ({"header_row": start} if start != first and most > 1 else {})
    notes = [f"{key}: {value!r} is what most names of columns speak for" for key, value in how.items()]
    others = [repr(s) for s, known in sheets.items() if known > 1 and s != how.get("sheet")]
    if others:
        notes.append(
            f"sheets that look like records too: {', '.join(others)}; each needs a mapping and an output of its own"
        )
    return how, next(iter(chunks(path, Mapping.model_validate({"format": "fhir"} | how), name))), notes


def _known_in(text: str) -> int:
    """How much of a column's name is known: the name itself, and the unit behind it."""
    bare, unit = _bare(text), unit_in_name(text)
    named = bool(bare) and (_feature_named(text) is not None or any(re.fullmatch(p, bare) for p in _ROLES.values()))
    return named + (named and unit is not None and unit_like(unit))


def _units_row(table: pd.DataFrame) -> tuple[dict[str, str], pd.DataFrame]:
    """(column -> unit where the row under the header holds units; the table without that row)."""
    measured = [c for c in table.columns if (n := _feature_named(c)) and feature(n).kind == "numeric"]
    units = {c: text for c in measured if (text := as_written(table[c].iloc[0]))}
    if not units or not all(unit_like(t) for t in units.values()):
        return {}, table
    return units, table.iloc[1:].reset_index(drop=True)


def _bare(column: str) -> str:
    """A column's name without the unit behind it."""
    text = IN_NAME.sub("", plain(column)).strip().casefold()
    return re.sub(r"[\s.\-/]+", "_", text).strip("_")


_ROLES = {
    "birth_date": names.BIRTH,
    "dxa_date": names.DXA_DATE,
    "t_score": names.T_SCORE,
    "treatment": names.TREATMENT,
    "patient_id": "|".join(names.PATIENT),
    "date": names.DATE,
    "test": names.TEST,
    "value": names.VALUE,
    "unit": names.UNIT,
    "site": names.SITE,
    "withdrawn": names.WITHDRAWN,
}


def _roles(table: pd.DataFrame, notes: list[str]) -> tuple[dict[str, str], list[str]]:
    """(what is no feature: role -> column; all columns with T-scores)."""
    out: dict[str, str] = {}
    t_scores = [c for c in table.columns if re.fullmatch(names.T_SCORE, _bare(c))]
    for role, pattern in _ROLES.items():
        for part in names.PATIENT if role == "patient_id" else (pattern,):
            fits = [c for c in table.columns if c not in (*out.values(), *t_scores) and re.fullmatch(part, _bare(c))]
            if fits and role not in out and role != "t_score":
                out[role] = fits[0]
                notes += [f"column {c!r} may be the {role}, too" for c in fits[1:]]
    if "date" not in out:
        for c in table.columns.difference([*out.values(), *t_scores], sort=False):
            texts = [t for t in table[c].map(plain) if t]
            if texts and all(day(t, frozenset())[1] == OK or date_forms(t) for t in texts):
                notes.append(f"column {c!r} holds dates: is it the record's date?")
    return out, t_scores


def _feature_named(text: str) -> str | None:
    """The feature that a column's or test's name means; None where none, or more than one, does."""
    bare = _bare(text)
    if plain(text) in BY_LOINC:
        return BY_LOINC[plain(text)].name
    if bare in names.FEATURES:
        return bare
    hits = [name for name, pattern in names.FEATURES.items() if re.fullmatch(pattern, bare)]
    if not hits:  # CREA_umol_l, crea_mg_dl
        with_unit = [n for n, p in names.FEATURES.items() if re.fullmatch(rf"(?:{p})_[a-z0-9]*(?:_[a-z0-9]+)?", bare)]
        hits = [n for n in with_unit if _tail(bare, n)]
    return hits[0] if len(hits) == 1 else None


def _tail(bare: str, name: str) -> str | None:
    """A unit at the end of a column's name: crea_mg_dl."""
    for k in range(1, bare.count("_") + 1):
        unit = "/".join(bare.split("_")[-k:])
        try:
            feature_factor(unit, feature(name))
        except UnitError:
            continue
        return unit
    return None


def _wide(
    table: pd.DataFrame, taken: set[str], notes: list[str], units: dict[str, str] | None = None
) -> dict[str, object]:
    features: dict[str, dict[str, object]] = {}
    for c in table.columns:
        name = None if c in taken else _feature_named(c)
        if name is None:
            if c not in taken:
                notes.append(f"column {c!r}: used by nothing")
        elif name in features:
            notes.append(f"column {c!r}: looks like {name} too")
        else:
            features[name] = {"column": c, **_reading(name, table[c], c, table, notes, (units or {}).get(c))}
    if not features:
        notes.append("no column of a feature was recognised")
    return {"features": features} if features else {}


def _codes(name: str, cells: pd.Series, known: dict[str, int], notes: list[str]) -> dict[str, int | None]:
    """What each text of a column means."""
    texts = list(dict.fromkeys(t for t in cells.map(plain) if t))[:8]
    codes = {t: known.get(t.casefold()) for t in texts}
    if None in codes.values():
        unclear = ", ".join(repr(t) for t, v in codes.items() if v is None)
        notes.append(f"{name}: say what {unclear} means (1, 0 or null)")
    return codes


def _reading(
    name: str, cells: pd.Series, column: str, table: pd.DataFrame, notes: list[str], stated: str | None = None
) -> dict[str, object]:
    """Unit or codes of a feature's column. `stated`: its unit, from the row under the header."""
    f = feature(name)
    if f.kind == "binary":
        return {"codes": _codes(name, cells, names.SEXES if name == "sex_male" else names.YES, notes)}
    if f.unit == "a":
        return {}
    bare = _bare(column)
    beside = [c for c in table.columns if _bare(c) in (f"{bare}_unit", f"{bare}_units", f"unit_{bare}")]
    if beside:
        return {"unit_column": beside[0]}
    analyte = {"analyte": "urea_nitrogen"} if name == "urea_mmol_l" and _is_nitrogen(bare) else {}
    unit = stated or (unit_in_name(plain(column)) or _tail(_bare(column), name))
    values = _values(cells)
    if unit is not None:
        try:
            by = feature_factor(unit, f)
        except UnitError as e:
            notes.append(f"{name}: {e}")
            return {"unit": unit, **analyte}
        if len(values) and (fits := fitting_units(float(np.median(values)) * by, by, f)):
            notes.append(f"{name}: the header says {unit}, but the median fits {' or '.join(fits)}")
        return {"unit": unit, **analyte}
    if not len(values) or f.typical is None:
        notes.append(f"{name}: no unit is written; {f.unit} is assumed")
        return {"unit": f.unit, **analyte}
    median = float(np.median(values))
    fits = units_that_fit(median, f)
    if analyte:
        fits = [u for u in fits if u.endswith(" of urea_nitrogen")] or fits
    if not fits:
        notes.append(f"{name}: no unit is written, and none fits a median of {median:.4g}")
        return {"unit": "???", **analyte}
    unit = fits[0].split(" of ")[0]
    notes.append(f"{name}: no unit is written; by its median of {median:.4g} it may be {' or '.join(fits)}")
    return {"unit": unit, **analyte}


def _is_nitrogen(bare: str) -> bool:
    """Whether a name says urea nitrogen; the Chinese one (尿素氮) is used for urea, too, and has to be checked."""
    return re.search("bun|nitrogen|氮", bare) is not None


def _values(cells: pd.Series) -> np.ndarray:
    best = np.zeros(0)
    for rule in (Numbers(), Numbers(decimal=",")):
        parsed = numbers(cells, frozenset({""}), rule)
        known = parsed.values[parsed.state == OK]
        best = known if len(known) > len(best) else best
    return best


def _long(table: pd.DataFrame, roles: dict[str, str], notes: list[str]) -> dict[str, object]:
    out: dict[str, object] = {k: roles[k] for k in ("test", "value", "unit") if k in roles}
    for c in (c for c in table.columns if c not in roles.values() and not OF_REFERENCE.search(_bare(c))):
        if bound_signs({plain(v) for v in table[c]}):
            out["comparator"] = c
    tests: dict[str, dict[str, object]] = {}
    others: list[str] = []
    for text in dict.fromkeys(table[roles["test"]].map(plain)):
        is_t = text in T_SCORE_LOINCS or re.fullmatch(names.T_SCORE, _bare(text))
        name = "t_score" if is_t else _feature_named(text)
        if name is None:
            others.append(text)
            continue
        entry = tests.setdefault(name, {"names": []})
        assert isinstance(entry["names"], list)
        entry["names"].append(text)
        if "unit" not in roles and name != "t_score":
            cells = table.loc[table[roles["test"]].map(plain) == text, roles["value"]]
            entry |= _reading(name, cells, text, table, notes)
        elif name == "urea_mmol_l" and _is_nitrogen(_bare(text)):
            entry["analyte"] = "urea_nitrogen"
    if others:
        notes.append(f"tests that nothing uses: {', '.join(others[:20])}")
    out["tests"] = tests
    features = _wide(table, set(roles.values()), []).get("features")
    return out | ({"features": features} if features else {})


def _withdrawn(table: pd.DataFrame, roles: dict[str, str], notes: list[str]) -> dict[str, object]:
    """The column that says which rows were taken back, with the texts that seem to say it."""
    column = roles.get("withdrawn")
    if column is None:
        return {}
    texts = [t for t in dict.fromkeys(table[column].map(plain)) if t]
    withdrawn = withdrawn_among(texts, status=True)
    if not withdrawn:
        del roles["withdrawn"]
        return {}
    gone, others = ([t for t in texts if (t.casefold() in withdrawn) is is_gone] for is_gone in (True, False))
    notes.append(
        f"{column}: rows with {', '.join(map(repr, gone))} are passed over; do those with "
        f"{', '.join(map(repr, others[:10])) or 'no other text'} count?"
    )
    return {"withdrawn": {"column": column}}


def _date_format(table: pd.DataFrame, roles: dict[str, str], notes: list[str]) -> dict[str, object]:
    """Ways of writing dates that are not ISO."""
    out: list[str] = []
    for role in ("date", "birth_date", "dxa_date"):
        if role not in roles:
            continue
        cells = table[roles[role]]
        parsed = days(cells, _PLAIN.missing_texts)
        bad = [parsed.texts(i) for i in np.flatnonzero(parsed.state == BAD)]
        if not bad:
            continue
        forms = dict.fromkeys(f for text in bad[:200] for f in date_forms(text))
        fits = [f for f in forms if (days(pd.Series(bad), frozenset({""}), (f,)).state == OK).all()]
        if not fits:
            notes.append(f"{roles[role]}: {bad[0]!r} is no date of a known form; name it as date_format")
        elif fits[0] not in out:
            out.append(fits[0])
            if len(fits) > 1:
                notes.append(f"{roles[role]}: {which_first(fits)} {' or '.join(fits)}")
    return {"date_format": out} if out else {}


def _numbers_rule(table: pd.DataFrame, roles: dict[str, str], long: bool, notes: list[str]) -> dict[str, object]:
    """Ways of writing numbers that the values show, and texts that may mean missing."""
    named = {c: n for c in table.columns if c not in roles.values() and (n := _feature_named(c))}
    ages = {plain(v) for c, n in named.items() if n == "age_y" for v in table[c]}
    columns = [roles["value"]] if long else [c for c, n in named.items() if feature(n).kind == "numeric"]
    texts = sorted({plain(v) for c in columns for v in table[c]} | ages)
    missing = _PLAIN.missing_texts
    out: dict[str, object] = {}
    commas = [t for t in texts if re.fullmatch(r"[<>]?-?\d+,\d{1,2}|[<>]?-?\d+,\d{4,}", t)]
    if commas and not any(re.search(r"\d\.\d", t) for t in texts):
        out["decimal"] = ","
    rules = []
    for name in ("top_coded", "age_units", "flags"):
        hit = [t for t in (texts if name == "flags" else ages) if number(t, missing, Numbers())[1] == BAD]
        if any(number(t, missing, Numbers(rules=(name,)))[1] == OK for t in hit):  # type: ignore[arg-type]
            rules.append(name)
    if rules:
        out["rules"] = rules
    words = [t for t in texts if not re.search(r"\d", t) and t.casefold() not in missing][:20]
    if words and not long:
        notes.append(f"missing: do {', '.join(map(repr, words))} mean missing?")
    return ({"numbers": out} if out else {}) | ({"missing": [*_PLAIN.missing, *words]} if words and not long else {})
