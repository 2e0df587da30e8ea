"""Tables with a column a feature (and a row a record), through a mapping, into the schema's columns and units."""

from __future__ import annotations

import re
from difflib import get_close_matches

import numpy as np
import pandas as pd

from osteo_ray.patients.dates import age_at, births, century_before, date_hint, exchanged, moments
from osteo_ray.patients.findings import AGES_DIFFER, RecordsError
from osteo_ray.patients.mapping import Mapping, folded, withdrawn_among
from osteo_ray.patients.readers.chunk import Chunk
from osteo_ray.patients.reading import Reading
from osteo_ray.patients.schema import NAMES, feature
from osteo_ray.patients.units import unit_like
from osteo_ray.patients.values import BAD, Parsed, as_written, coded, plain, texts_of

_ENOUGH, _SHARED = 5, 0.1  # patients of one birth date, and their share, that are no chance
_FEW = 1000  # different texts of a column that says something of each row
_SIGNS = {"<", ">", "<=", ">=", "=<", "=>", "≤", "≥"}
OF_REFERENCE = re.compile(r"flag|abnorm|(?<![a-z])ref|range|limit|norm|grenz|异常|異常|参考|基準")
"""Names of columns whose signs say where a value lies, or are those of a reference range: not the value's own."""


def columns_of(m: Mapping) -> dict[str, str]:
    """Columns that a mapping names -> what for."""
    out: dict[str, str] = {}
    named = [("patient_id", m.patient_id), ("site", m.site_column), ("date", m.date), ("dxa_date", m.dxa_date)]
    named += [("birth_date", m.birth_date), ("test", m.test), ("value", m.value), ("unit", m.unit)]
    named += [("comparator", m.comparator)]
    named += [("t_score", c) for c in m.t_score] + [("keep", c) for c in m.keep]
    named += [("treatment", m.treatment.column)] if m.treatment else []
    named += [("withdrawn", m.withdrawn.column)] if m.withdrawn else []
    for name, c in m.features.items():
        named += [(name, c.column), (f"{name}'s unit", c.unit_column)]
    for what, column in named:
        if column is not None:
            out.setdefault(column, what)
    return out


def check_columns(chunk: Chunk, reading: Reading) -> None:
    """Hold a table's header against the mapping; note the columns that nothing uses.

    Raises:
        RecordsError: a column that the mapping names is absent or stands twice, or none of its features is there.
    """
    m, there = reading.mapping, list(map(str, chunk.frame.columns))
    used = columns_of(m)
    problems = [
        f"{chunk.source}: the column {c!r} stands more than once; name each, or take one out"
        for c in chunk.repeated
        if c in used
    ]
    for c in (c for c in used if c in there and c not in m.keep):
        if _holds_lists(chunk.frame[c]):
            problems.append(f"{chunk.source}: column {c!r} ({used[c]}) holds lists, not values; unfold it")
    lenient = {c for c, what in used.items() if m.optional and what not in ("patient_id", "keep")}
    lenient -= {c.unit_column for c in m.features.values() if c.unit_column and c.column in there}  # no unit is no unit
    listed = ", ".join(there)
    for c, what in used.items():
        if c not in there and c not in lenient:
            folded = {t.casefold(): t for t in reversed(there)}
            near = get_close_matches(c.casefold(), folded, n=1)
            hint = f"; did you mean {folded[near[0]]!r}?" if near else ""
            what_for = f"{chunk.source}: column {c!r} ({what}): named by the mapping, not there"
            problems.append(f"{what_for}{hint} (it has: {listed})")
    if problems:
        if len(there) == 1 < len(used):
            problems.append(f"{chunk.source}: the header is one column: is its `delimiter` right?")
        raise RecordsError(problems)
    given = {c for c, what in used.items() if c in there} - {m.patient_id, m.date, m.site_column}
    if not given:
        wanted = ", ".join(list(used)[:8])
        raise RecordsError(
            [f"{chunk.source}: no column that the mapping reads ({wanted}, ...); it has: {listed}. Give --mapping"]
        )
    unused = [c for c in there if c not in used]
    absent = [c for c in used if c not in there]
    shown = []
    for c in unused:
        same = [a for a in absent if a.casefold() == c.casefold()]
        near = same or get_close_matches(c.casefold(), absent, n=1)
        shown.append(f"{c} (did you mean {near[0]}?)" if near else c)
    reading.found.columns([*shown, *(f"{c} (twice)" for c in chunk.repeated if c not in used)])


def bound_signs(texts: set[str]) -> set[str]:
    """The signs of bounds among a column's texts; none where it holds anything else but '='."""
    signs = texts - {"", "="}
    return signs if signs <= _SIGNS else set()


def _holds_lists(column: pd.Series) -> bool:
    return isinstance(next((v for v in column if v is not None), None), list | dict | np.ndarray)


def look_at_unused(chunk: Chunk, reading: Reading) -> None:
    """Columns that nothing uses, and that say of the values beside them that they are not what they seem.

    What says it holds few different texts, so that columns with many are passed over.

    Raises:
        RecordsError: of a long table, a column with the signs of bounds, where the mapping does not say that it has
            none, and the column's name not that they are a flag's or a reference range's.
    """
    m = reading.mapping
    said_none = "comparator" in m.model_fields_set and m.comparator is None
    used = columns_of(m)
    for c in (c for c in chunk.frame if c not in used and not _holds_lists(chunk.frame[c])):
        _, cells = pd.factorize(chunk.frame[c].astype(object))
        texts = {plain(t).casefold() for t in cells} - {""} if len(cells) <= _FEW else set()
        where = f"{chunk.source}: column {c!r}"
        if signs := bound_signs(texts):
            what = f"{where} holds the signs of bounds ({', '.join(sorted(signs))}) apart from their values"
            other = OF_REFERENCE.search(c.casefold()) is not None
            if m.format == "long" and not (said_none or other or m.comparator):
                raise RecordsError(
                    [f"{what}; name it: `comparator: {c}`, or say that no column holds any: `comparator: null`"]
                )
            if not said_none:
                mend = f"name it: `comparator: {c}`" if m.format == "long" else "write '<5' in one cell"
                reading.found.note(f"{what}, which are passed over; if they are those of the values, {mend}")
        withdrawn = withdrawn_among(texts, "status" in c.casefold())
        if withdrawn and m.withdrawn is None:
            reading.found.note(
                f"{where} says {', '.join(sorted(withdrawn))} of some rows, which are read like the others; if they do "
                f"not count: `withdrawn: {{column: {c}}}`"
            )


def records_of(chunk: Chunk, reading: Reading, first: bool) -> Chunk:
    """The chunk without rows that are no records: the header once more, or units under it, which are problems; and
    those that the mapping says were withdrawn, which are counted.

    Args:
        first: whether these are the first rows of the source.
    """
    m, raw = reading.mapping, chunk.frame
    assert m.patient_id is not None
    used = [c for c in columns_of(m) if c in raw]
    again = (raw[m.patient_id] == m.patient_id).to_numpy(bool, copy=True)
    for row in np.flatnonzero(again):
        again[row] = all(as_written(raw[c].iloc[row]) in ("", c) for c in used)
        if again[row]:
            reading.found.problem(f"{chunk.at(row)}: the header stands here once more; take the row out")
    measured = [c.column for n, c in m.features.items() if c.column in raw and feature(n).kind == "numeric"]
    texts = [as_written(raw[c].iloc[0]) for c in measured] if first and len(raw) else []
    if any(texts) and all(unit_like(t) for t in texts if t):
        reading.found.problem(f"{chunk.at(0)}: units, not a record; `skip_rows: 1` passes over the row")
        again[0] = True
    if m.withdrawn and m.withdrawn.column in raw:
        which, texts = texts_of(raw[m.withdrawn.column])
        gone = folded(m.withdrawn.texts)
        for k, text in enumerate(texts):
            rows = which == k
            if text.strip().casefold() in gone and rows.any():
                reading.found.dropped[f"rows with {text!r} in {m.withdrawn.column!r}"] += int(rows.sum())
                again |= rows
    return chunk.without(again) if again.any() else chunk


def map_chunk(chunk: Chunk, reading: Reading) -> pd.DataFrame:
    """Rows as delivered, in the schema's columns and units."""
    m, raw, found = reading.mapping, chunk.frame, reading.found
    assert m.patient_id is not None
    found.rows += len(raw)
    sites = raw[m.site_column] if m.site_column and m.site_column in raw else None
    out: dict[str, object] = {"patient_key": reading.keys(raw[m.patient_id], sites, chunk, m.patient_id)}
    if sites is not None or m.site:
        out["site"] = np.full(len(raw), m.site, object) if sites is None else _sites(sites, m)
    refused: dict[str, np.ndarray] = {}
    for name, column in (("record_date", m.date), ("dxa_date", m.dxa_date)):
        if column and column in raw:
            parsed, _ = moments_of(chunk, column, reading)
            out[name], refused[name] = parsed.values.astype("datetime64[s]"), parsed.state == BAD
    for name, c in m.features.items():
        if c.column in raw:
            units = raw[c.unit_column] if c.unit_column else None
            out[name] = reading.quantity(name, c, raw[c.column], units, chunk, c.column)
    if m.birth_date and m.birth_date in raw:
        born = birth_dates(chunk, m.birth_date, reading)
        out["birth_month"] = born.astype("datetime64[M]").astype("datetime64[s]")
        found.births += int((~np.isnat(born)).sum())
        stated = out.get("age_y")
        at = np.asarray(out.get("record_date", np.full(len(born), np.datetime64("NaT", "s"))))
        out["age_y"] = ages(born, at, stated if isinstance(stated, np.ndarray) else None, chunk, m.birth_date, reading)
    if m.treatment and m.treatment.column in raw:
        out["osteoporosis_treatment"] = _treatment(chunk, reading)
    given = [c for c in m.t_score if c in raw]
    if given:
        scores = [reading.t_scores(raw[c], chunk, c) for c in given]
        out["t_score"] = np.fmin.reduce(scores)
    frame = pd.DataFrame(out)
    _unplaced(frame, refused)
    for kept in m.keep:
        frame[kept] = raw[kept].to_numpy()
    if m.derive == "nhanes":
        from osteo_ray.patients.nhanes import derive

        frame = derive(raw, frame)
    return frame


def _unplaced(frame: pd.DataFrame, refused: dict[str, np.ndarray]) -> None:
    """What stands beside a date that was refused is not undated: it can't be placed, and is left out (in place)."""
    by_record = refused.get("record_date")
    if by_record is not None:
        of_record = [c for c in (*NAMES, "osteoporosis_treatment") if c in frame and c != "sex_male"]
        frame.loc[by_record, of_record] = np.nan
    by_dxa = refused.get("dxa_date", by_record if "dxa_date" not in frame else None)
    if by_dxa is not None and "t_score" in frame:
        frame.loc[by_dxa, "t_score"] = np.nan


def _sites(column: pd.Series, m: Mapping) -> np.ndarray:
    """Each row's site; the mapping's where a row names none."""
    texts = column.map(plain)
    return texts.where(~texts.str.casefold().isin(m.missing_texts), m.site).to_numpy(object)


def moments_of(chunk: Chunk, column: str, reading: Reading) -> tuple[Parsed, np.ndarray]:
    """A column of dates as the local day, and seconds of the day (int32 [n]); what is no date is a problem."""
    m = reading.mapping
    parsed, second = moments(chunk.frame[column], m.missing_texts, m.date_format, m.timezone)
    _refuse(parsed, chunk, column, reading)
    parsed = _without_exchanged(parsed, chunk, column, reading)
    reading.found.days(parsed.values, f"{chunk.source}, column {column!r}")
    return parsed, second


def _refuse(parsed: Parsed, chunk: Chunk, column: str, reading: Reading) -> None:
    for row in np.flatnonzero(parsed.state == BAD):
        text = parsed.texts(row)
        hint = date_hint(text, reading.mapping.date_format)
        reading.found.problem(f"{chunk.at(row, column)}: {text!r} is no date{hint}")


def _without_exchanged(parsed: Parsed, chunk: Chunk, column: str, reading: Reading) -> Parsed:
    """The dates without those of which a spreadsheet exchanged day and month: a problem; a warning where it may be
    chance."""
    m = reading.mapping
    found = exchanged(chunk.frame[column], m.missing_texts, m.date_format)
    if found is None:
        return parsed
    rows, date, text, sure = found
    what = (
        f"{chunk.source}, column {column!r}: {int(rows.sum())} cells are dates ({date!r}), none of a day after the "
        f"12th, and all texts beside them are of a later day ({text!r}): of dates that a spreadsheet of another locale "
        f"made of texts, day and month are exchanged"
    )
    if not sure:
        reading.found.note(f"{what}; look whether they are")
        return parsed
    reading.found.problem(f"{what}; export the column as text, or write each date as YYYY-MM-DD")
    values, state = parsed.values.copy(), parsed.state.copy()
    values[rows], state[rows] = np.datetime64("NaT"), BAD
    return Parsed(values, state, parsed.texts)


def _stand_ins(parsed: Parsed, chunk: Chunk, column: str, reading: Reading) -> None:
    """Warn of one birth date that far too many patients share: what a form holds where none is known."""
    assert reading.mapping.patient_id is not None
    known = ~np.isnat(parsed.values)
    people = pd.DataFrame({"who": chunk.frame[reading.mapping.patient_id].map(plain), "born": parsed.values})[known]
    counts = people.drop_duplicates()["born"].value_counts()
    if len(counts) and counts.iloc[0] >= _ENOUGH and counts.iloc[0] > _SHARED * counts.sum():
        born = np.datetime64(counts.index[0], "D")
        reading.found.note(
            f"{chunk.source}, column {column!r}: {counts.iloc[0]} of {counts.sum()} patients are born on {born}; if it "
            f"stands for a date that is not known, add it to `missing:`"
        )


def birth_dates(chunk: Chunk, column: str, reading: Reading) -> np.ndarray:
    """A column of birth dates as datetime64[s]."""
    m = reading.mapping
    parsed = births(chunk.frame[column], m.missing_texts, m.date_format)
    _refuse(parsed, chunk, column, reading)
    parsed = _without_exchanged(parsed, chunk, column, reading)
    _stand_ins(parsed, chunk, column, reading)
    return century_before(parsed.values.astype("datetime64[s]"), m.date_format)


def ages(
    born: np.ndarray, at: np.ndarray, stated: np.ndarray | None, chunk: Chunk, column: str, reading: Reading
) -> np.ndarray:
    """Ages at the records' dates (datetime64 [n]), where the source `stated` none itself."""
    f = feature("age_y")
    age = age_at(born.astype("datetime64[D]"), at.astype("datetime64[D]"))
    computed = np.ones(len(age), bool) if stated is None else np.isnan(stated)
    if stated is not None:
        reading.found.other_ages += int((np.abs(stated - age) > AGES_DIFFER).sum())
    outside = computed & ((age < f.low) | (age > f.high))
    for row in np.flatnonzero(outside):
        reading.found.problem(
            f"{chunk.at(row, column)}: an age of {age[row]:g} at the record's date is outside {f.low:g} to {f.high:g} a"
            f"; correct the birth date, or leave the record out"
        )
    age[outside] = np.nan
    if stated is None:
        reading.found.values("age_y", age, int(outside.sum()))
        reading.found.source("age_y", column, f.unit)
    return age if stated is None else np.where(computed, age, stated)


def _treatment(chunk: Chunk, reading: Reading) -> np.ndarray:
    m = reading.mapping
    assert m.treatment is not None
    codes = m.treatment.codes or {}
    parsed = coded(chunk.frame[m.treatment.column], m.missing_texts, codes)
    for row in np.flatnonzero(parsed.state == BAD):
        there = ", ".join(codes)
        reading.found.problem(
            f"{chunk.at(row, m.treatment.column)}: {parsed.texts(row)!r} is no code of osteoporosis_treatment ({there})"
            f"; say what it means under `treatment: codes:`, null for not known"
        )
    return parsed.values
