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
from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.mapping import Mapping, Numbers
from osteo_ray.patients.readers import FHIR, Chunk, chunks, kind_of
from osteo_ray.patients.schema import BY_LOINC, T_SCORE_LOINCS, feature
from osteo_ray.patients.units import UnitError, feature_factor, fitting_units, units_that_fit
from osteo_ray.patients.values import BAD, OK, days, number, numbers, plain

ROWS = 2000
"""Rows that a proposal looks at."""
_FEATURES: dict[str, str] = {
    "age_y": r"age|age_?y(ears)?|alter|年龄|年齡|edad",
    "sex_male": r"sex|gender|geschlecht|性别|性別|sexo",
    "height_cm": r"height|body_?height|groesse|größe|身高",
    "weight_kg": r"weight|body_?weight|gewicht|体重|體重",
    "bmi": r"bmi|body_?mass_?index",
    "smoker": r"smok(er|ing|es)|raucher|吸烟",
    "creatinine_umol_l": r"crea(t|tinine?)?|scr|kreatinin|肌酐",
    "urea_mmol_l": r"urea|bun|harnstoff|urea_?nitrogen|尿素氮?",
    "uric_acid_umol_l": r"ua|uric(_?acid)?|urate?|harns(ä|ae)ure|尿酸",
    "glucose_mmol_l": r"glu(c|cose|kose)?|fbg|fpg|blood_?sugar|血糖|葡萄糖",
    "tc_mmol_l": r"t?chol(esterol)?|total_?cholesterol|tc|总胆固醇",
    "hdl_mmol_l": r"hdl(_?c|_?chol(esterol)?)?|高密度脂蛋白",
    "ldl_mmol_l": r"ldl(_?c|_?chol(esterol)?)?|低密度脂蛋白",
    "tg_mmol_l": r"tg|trig(lycerides?)?|triglyzeride|甘油三酯",
    "alt_u_l": r"alt|alat|sgpt|gpt|谷丙转氨酶",
    "ast_u_l": r"ast|asat|sgot|got|谷草转氨酶",
    "alp_u_l": r"alp|ap|alk_?phos|alkaline_?phosphatase|碱性磷酸酶",
    "ggt_u_l": r"ggt|gamma_?gt|γ_?gt|谷氨酰转肽酶",
    "albumin_g_l": r"alb(umin)?|白蛋白",
    "total_protein_g_l": r"tp|total_?protein|总蛋白",
    "bilirubin_umol_l": r"t?bil(i|irubin)?|total_?bilirubin|总胆红素",
    "calcium_mmol_l": r"ca|calcium|钙",
    "phosphate_mmol_l": r"p|phos(phate|phorus)?|phosphat|磷",
    "haemoglobin_g_l": r"hb|hgb|ha?emoglobin|血红蛋白",
    "wbc_10e9_l": r"wbc|leu[ck]o(cytes|zyten)?|white_?(blood_?)?cells?|白细胞",
    "platelets_10e9_l": r"plt|platelets?|thrombo(cytes|zyten)|血小板",
    "urine_creatinine_mmol_l": r"u(rine)?_?crea(t|tinine)?|尿肌酐",
    "urine_albumin_mg_l": r"u(rine)?_?alb(umin)?|microalbumin|尿微量白蛋白",
}
_PATIENT = r"(patient|pat|subject|person)?_?(id|no|nr|num(ber)?|key)|mrn|pid|patient|病历号|住院号|患者id|门诊号"
_DATE = (
    r"(record|lab|sample|collect(ion|ed)?|draw|drawn|visit|exam|test|result)?_?(on|at|date|time|datetime)"
    r"|drawn|datum|fecha|日期|采样时间|检查日期"
)
_BIRTH = r"(dob|birth_?(date|day)?|date_?of_?birth|geburtsdatum|出生日期)"
_T_SCORE = r".*t_?score.*|dxa_?t|t值"
_DXA_DATE = r"(dxa|bmd)_?(on|date|time)"
_TEST = r"test|test_?(name|code)|analyte|item|parameter|loinc|code|项目(名称)?|检验项目"
_VALUE = r"value|result|result_?value|结果|检验结果"
_UNIT = r"units?|uom|einheit|单位"
_SITE = r"site|hospital|facility|centre|center|医院|院区"
_SEXES = dict.fromkeys(("m", "male", "man", "männlich", "男"), 1)
_SEXES |= dict.fromkeys(("f", "female", "woman", "w", "weiblich", "女"), 0)
_YES = dict.fromkeys(("y", "yes", "true", "1", "是"), 1)
_YES |= dict.fromkeys(("n", "no", "false", "0", "否", "never", "former"), 0)
_IN_HEADER = re.compile(r"[(\[（]\s*([^)\]）]+?)\s*[)\]）]\s*$")


def draft(source: str | Path) -> list[str]:
    """A proposal of a mapping as YAML, a line each, with what has to be looked at as comments.

    Raises:
        RecordsError: a table that can't be read.
    """
    if kind_of(source) in FHIR:
        raise RecordsError([f"{source}: FHIR needs no mapping of columns; see `format: fhir` for its few settings"])
    try:
        with local_file(source) as path:
            chunk = _first(path, Path(str(source)).name)
    except FileNotFoundError:
        raise RecordsError([f"{source}: no such file"]) from None
    table = chunk.frame.iloc[:ROWS].reset_index(drop=True)
    notes = [f"column {c!r} stands twice: rename one" for c in chunk.repeated]
    roles = _roles(table)
    body: dict[str, object] = {}
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
    if "t_score" in roles and not long:
        body["t_score"] = roles["t_score"]
    body |= _numbers_rule(table, roles, long)
    body |= _long(table, roles, notes) if long else _wide(table, set(roles.values()), notes)
    lines = [
        f"# Proposed from {chunk.source}: check each line, above all units and codes, before it is used.",
        *(f"# CHECK  {n}" for n in notes),
    ]
    return lines + yaml.safe_dump(body, sort_keys=False, allow_unicode=True, width=110).splitlines()


def _first(path: Path, name: str) -> Chunk:
    try:
        return next(iter(chunks(path, Mapping(format="fhir"), name)))
    except RecordsError as e:
        found = re.search(r"`encoding: ([\w-]+)`", str(e))
        if found is None:
            raise
        return next(iter(chunks(path, Mapping(format="fhir", encoding=found[1]), f"{name} as {found[1]}")))


def _bare(column: str) -> str:
    """A column's name without the unit behind it."""
    text = _IN_HEADER.sub("", plain(column)).strip().casefold()
    return re.sub(r"[\s.\-/]+", "_", text).strip("_")


def _roles(table: pd.DataFrame) -> dict[str, str]:
    """What is no feature: role -> column."""
    patterns = [("birth_date", _BIRTH), ("dxa_date", _DXA_DATE), ("t_score", _T_SCORE), ("patient_id", _PATIENT)]
    patterns += [("date", _DATE), ("test", _TEST), ("value", _VALUE), ("unit", _UNIT), ("site", _SITE)]
    out: dict[str, str] = {}
    for role, pattern in patterns:
        for c in table.columns:
            if role not in out and c not in out.values() and re.fullmatch(pattern, _bare(c)):
                out[role] = c
    return out


def _feature_named(text: str) -> str | None:
    """The feature that a column's or test's name means; None where none, or more than one, does."""
    bare = _bare(text)
    if plain(text) in BY_LOINC:
        return BY_LOINC[plain(text)].name
    if bare in _FEATURES:
        return bare
    hits = [name for name, pattern in _FEATURES.items() if re.fullmatch(pattern, bare)]
    if not hits:  # CREA_umol_l, crea_mg_dl
        with_unit = [n for n, p in _FEATURES.items() if re.fullmatch(rf"(?:{p})_[a-z0-9]*(?:_[a-z0-9]+)?", bare)]
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


def _wide(table: pd.DataFrame, taken: set[str], notes: list[str]) -> dict[str, object]:
    features: dict[str, dict[str, object]] = {}
    for c in table.columns:
        name = None if c in taken else _feature_named(c)
        if name is None:
            if c not in taken:
                notes.append(f"column {c!r}: used by nothing")
        elif name in features:
            notes.append(f"column {c!r}: looks like {name} too")
        else:
            features[name] = {"column": c, **_reading(name, table[c], c, table, notes)}
    if not features:
        notes.append("no column was recognised: name at least one under features")
    return {"features": features}


def _reading(name: str, cells: pd.Series, column: str, table: pd.DataFrame, notes: list[str]) -> dict[str, object]:
    """Unit or codes of a feature's column."""
    f = feature(name)
    if f.kind == "binary":
        texts = list(dict.fromkeys(t for t in cells.map(plain) if t))[:8]
        known = _SEXES if name == "sex_male" else _YES
        codes = {t: known.get(t.casefold()) for t in texts}
        if None in codes.values():
            unclear = ", ".join(repr(t) for t, v in codes.items() if v is None)
            notes.append(f"{name}: say what {unclear} means (1, 0 or null)")
        return {"codes": codes}
    if f.unit == "a":
        return {}
    bare = _bare(column)
    beside = [c for c in table.columns if _bare(c) in (f"{bare}_unit", f"{bare}_units", f"unit_{bare}")]
    if beside:
        return {"unit_column": beside[0]}
    analyte = {"analyte": "urea_nitrogen"} if name == "urea_mmol_l" and _is_nitrogen(bare) else {}
    written = _IN_HEADER.search(plain(column))
    unit = written[1] if written else _tail(_bare(column), name)
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
    tests: dict[str, dict[str, object]] = {}
    others: list[str] = []
    for text in dict.fromkeys(table[roles["test"]].map(plain)):
        is_t = text in T_SCORE_LOINCS or re.fullmatch(_T_SCORE, _bare(text))
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
    features = _wide(table, set(roles.values()), [])["features"]
    return out | ({"features": features} if features else {})


def _date_format(table: pd.DataFrame, roles: dict[str, str], notes: list[str]) -> dict[str, object]:
    """Ways of writing dates that are not ISO."""
    out: list[str] = []
    for role in ("date", "birth_date", "dxa_date"):
        if role not in roles:
            continue
        cells = table[roles[role]]
        parsed = days(cells, frozenset({""}))
        bad = [parsed.texts(i) for i in np.flatnonzero(parsed.state == BAD)]
        if not bad:
            continue
        sep = next((s for s in "/.-" if s in bad[0]), None)
        forms = [f"%d{sep}%m{sep}%Y", f"%m{sep}%d{sep}%Y", f"%d{sep}%m{sep}%y", f"%m{sep}%d{sep}%y"] if sep else []
        fits = [f for f in forms if (days(pd.Series(bad), frozenset({""}), (f,)).state == OK).all()]
        if not fits:
            notes.append(f"{roles[role]}: {bad[0]!r} is no date of a known form; name it as date_format")
        elif fits[0] not in out:
            out.append(fits[0])
            if len(fits) > 1:
                notes.append(f"{roles[role]}: day or month first? {' or '.join(fits)}")
    return {"date_format": out} if out else {}


def _numbers_rule(table: pd.DataFrame, roles: dict[str, str], long: bool) -> dict[str, object]:
    """Ways of writing numbers that the values show."""
    columns = [roles["value"]] if long else [c for c in table.columns if _feature_named(c) and c not in roles.values()]
    texts = {plain(v) for c in columns for v in table[c]}
    missing = frozenset({""})
    out: dict[str, object] = {}
    commas = [t for t in texts if re.fullmatch(r"[<>]?-?\d+,\d{1,2}|[<>]?-?\d+,\d{4,}", t)]
    if commas and not any(re.search(r"\d\.\d", t) for t in texts):
        out["decimal"] = ","
    rules = []
    for name in ("top_coded", "age_units", "flags"):
        hit = [t for t in texts if number(t, missing, Numbers())[1] == BAD]
        if any(number(t, missing, Numbers(rules=(name,)))[1] == OK for t in hit):  # type: ignore[arg-type]
            rules.append(name)
    if rules:
        out["rules"] = rules
    return {"numbers": out} if out else {}
