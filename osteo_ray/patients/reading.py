"""What every kind of source shares while it is read: the mapping, how patients are keyed, and what was found."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pandas as pd

from osteo_ray.patients.config import DEFAULT_IDENTITY, IdentityConfig
from osteo_ray.patients.findings import Findings
from osteo_ray.patients.identity import normalised, patient_key
from osteo_ray.patients.key_table import ct_numbers
from osteo_ray.patients.mapping import Mapping, Quantity, folded
from osteo_ray.patients.readers.chunk import Chunk
from osteo_ray.patients.schema import T_SCORE_RANGE, Feature, feature, molar_mass_of
from osteo_ray.patients.units import (
    UnitError,
    as_meant,
    contradict,
    feature_factor,
    fitting_units,
    of_t_score,
    unit_in_name,
    units_that_fit,
)
from osteo_ray.patients.values import BAD, BOUND, OK, as_written, coded, no_id, number_hint, numbers, plain, texts_of

_ENOUGH = 10
"""Values from which the median of a column says something about its unit."""
_ENOUGH_T, _ZEROS = 5, 0.15
"""T-scores from which a warning is due, and the share of zeros among them that is more than chance (some 4 %)."""
_OFTEN = 3
"""Times that a 999 has to stand to be odd, where it is not far above the other values."""
_MOST = 4
"""Patients with a digit in their number for each without, from which the latter are odd."""
_CORRECT = "; correct it, or add it to `missing:` if it means missing"
_CODES = {"sex_male": "{M: 1, F: 0}"}


def _whole(ids: pd.Series) -> pd.Series:
    """A column of numbers; those that a short float has rounded are texts that say so."""
    kind = ids.dtype
    if not isinstance(kind, np.dtype) or kind.kind != "f" or kind.itemsize >= 8:
        return ids
    rounded = ids.abs() >= 2.0 ** (np.finfo(kind).nmant + 1)
    return ids.astype(object).mask(rounded, ids.map(lambda v: f"{v:.6E}")) if rounded.any() else ids


def _outside_hint(stated: float, f: Feature) -> str:
    """What would mend a value outside a feature's range."""
    fits = units_that_fit(stated, f)
    return f"; it would fit {' or '.join(fits)}" if fits else _CORRECT


@dataclass(frozen=True)
class Reading:
    """One load of one or more sources."""

    mapping: Mapping
    pseudonym_key: str | None = None
    identity: IdentityConfig = DEFAULT_IDENTITY
    found: Findings = field(default_factory=Findings)

    def keys(self, ids: pd.Series, sites: pd.Series | None, chunk: Chunk, column: str) -> np.ndarray:
        """Patient keys (object [n]), None where a row names nobody; each such row is a problem."""
        no_ids: dict[str, str] = {}

        def text_of(cell: object) -> str:
            if why := no_id(cell):
                no_ids[plain(cell)] = why
            return plain(cell)

        codes, uniques = texts_of(_whole(ids), text_of)
        if sites is not None:
            which, names = texts_of(sites)
            self._sites_alike([names[k] for k in np.unique(which)], chunk)
            # Every pair of number and site that occurs.
            pairs, codes = np.unique(codes.astype(np.int64) * len(names) + which, return_inverse=True)
            uniques = [f"{uniques[p // len(names)]}\x1f{names[p % len(names)]}" for p in pairs.tolist()]
        elif not len(codes) or codes.max() < len(uniques) - 1:
            uniques = uniques[:-1]  # no cell is empty
        keys: list[str | None] = []
        bad: dict[int, str] = {}
        for k, text in enumerate(uniques):
            pid, _, site = text.partition("\x1f")
            if pid.casefold() in self.mapping.missing_texts or not normalised(pid, self.identity):
                stated = f"; {pid!r} is one of the mapping's `missing:`" if pid else ""
                bad[k] = f"no patient id; such a record joins nothing{stated}"
            elif pid in no_ids:
                bad[k] = no_ids[pid]
            keys.append(None if k in bad else self.key(pid, site or self.mapping.site))
        if bad:
            for row in np.flatnonzero(np.isin(codes, list(bad))):
                self.found.problem(f"{chunk.at(row, column)}: {bad[codes[row]]}")
        self._placeholders(uniques, codes, bad, chunk, column)
        return np.array(keys, object)[codes] if len(keys) else np.empty(0, object)

    def _sites_alike(self, names: list[str], chunk: Chunk) -> None:
        """Warn of hospitals whose names differ in writing alone: one patient of both is two patients."""
        if not self.identity.site_in_key:
            return
        forms: dict[str, list[str]] = {}
        for name in names:
            forms.setdefault("".join(name.casefold().split()), []).append(name)
        for alike in (a for a in forms.values() if len(a) > 1):
            shown = ", ".join(repr(a) for a in alike)
            self.found.note(f"{chunk.source}: {shown} are different sites, so their equal numbers different patients")

    def _placeholders(
        self, uniques: list[str], codes: np.ndarray, bad: dict[int, str], chunk: Chunk, column: str
    ) -> None:
        """Warn of the few numbers without a digit among many that have some."""
        pids = {k: text.partition("\x1f")[0] for k, text in enumerate(uniques) if k not in bad}
        often = np.bincount(codes, minlength=len(uniques))
        words = [k for k, pid in pids.items() if not re.search(r"[1-9]", pid) and ("0" not in pid or often[k] > 1)]
        if words and len(pids) - len(words) >= _MOST * len(words):
            rows = np.flatnonzero(np.isin(codes, words))
            self.found.note(
                f"{chunk.at(rows[0], column)}: {len(words)} of {len(pids)} patients have a number without a digit but "
                f"0, in {len(rows)} rows; a total, a footer, a word for nobody? Take such rows out"
            )

    @cached_property
    def _ct_numbers(self) -> dict[str, str]:
        table = self.mapping.key_table
        return {} if table is None else ct_numbers(table, self.identity)

    def key(self, pid: str, site: str | None) -> str:
        """A patient's key: by the CTs' number, where the mapping has a table of them."""
        table = self.mapping.key_table
        if table is not None:
            own = normalised(pid, self.identity)
            number = self._ct_numbers.get(own)
            if number is None:
                self.found.note(f"{table.path}: not all patients are in this key table; those who are not meet no CT")
                # As it is, the number might be another person's in the CTs. The patient's own records still meet.
                return patient_key(f"not in the key table: {own}", self.pseudonym_key, self.identity, site or None)
            pid = number
        key = patient_key(pid, self.pseudonym_key, self.identity, site or None)
        self.found.remember(key, pid, site or None)
        return key

    def quantity(
        self,
        name: str,
        q: Quantity,
        cells: pd.Series,
        units: pd.Series | None,
        chunk: Chunk,
        column: str,
        test: str | None = None,
    ) -> np.ndarray:
        """A feature's values in the schema's unit, float64 [n]; what can't be used is NaN, a problem, and counted.

        Args:
            units: each row's unit as written; None: `q.unit`, or the schema's own. Where `q.unit` holds for all, a
                row that states another one is a problem.
            test: the test's name in a long table.
        """
        f, found, missing = feature(name), self.found, self.mapping.missing_texts | folded(q.missing)
        rule = q.numbers or self.mapping.numbers
        if name != "age_y":  # only ages are capped, or followed by a unit of time
            rule = rule.model_copy(update={"rules": tuple(r for r in rule.rules if r == "flags")})
        stated_units, units = (units, None) if q.unit is not None else (None, units)
        parsed = numbers(cells, missing, rule) if q.codes is None else coded(cells, missing, q.codes)
        values = parsed.values
        stated = values.copy()
        refused = parsed.state == BAD
        for row in np.flatnonzero(refused):
            text = parsed.texts(row)
            if q.codes is not None:
                there = ", ".join(dict.fromkeys(q.codes))
                found.problem(
                    f"{chunk.at(row, column)}: {text!r} is no code of {name} ({there}); say what it means: "
                    f"`codes: {{{text}: ...}}`, null for missing"
                )
            else:
                codes = self._codes_hint(name, cells) if f.kind == "binary" else None
                hint = number_hint(text, rule, codes, age=name == "age_y")
                found.problem(f"{chunk.at(row, column)}: {text!r} is not a number ({name}, {q.unit or f.unit}){hint}")
        if q.codes is None and f.kind == "numeric":
            if units is None:
                refused |= self._contradicted(f, q, values, stated_units, chunk, column, test is None)
            refused |= self._convert(f, q, values, units, chunk, column)
        outside = (values < f.low) | (values > f.high)
        for row in np.flatnonzero(outside):
            unit = as_written(units.iloc[row]) if units is not None else q.unit or f.unit
            found.problem(
                f"{chunk.at(row, column)}: {name} = {values[row]:g} {f.unit} is outside {f.low:g} to {f.high:g} "
                f"{f.unit} (written: {parsed.texts(row)} {unit}){_outside_hint(stated[row], f)}"
                if f.kind == "numeric"
                else f"{chunk.at(row, column)}: {name}: {values[row]:g} is neither 0 nor 1; "
                f"say what each text means: `codes:`"
            )
        values[outside] = np.nan
        refused |= outside
        if f.kind == "numeric":
            self._stand_ins(name, stated, ~np.isnan(values) & (parsed.state == OK), chunk, column)
        found.values(name, values, int(refused.sum()), int((parsed.state == BOUND).sum()))
        found.source(name, test or column, None if units is not None else q.unit or f.unit)
        return values

    def _codes_hint(self, name: str, cells: pd.Series) -> str:
        texts = sorted({plain(c) for c in cells.iloc[:1000]} - {""})[:4]
        if name == "sex_male" and {t.casefold() for t in texts} <= {"m", "f"}:
            return _CODES[name]
        return "{" + ", ".join(f"{t}: ..." for t in texts) + "}, each 1, 0 or null"

    def _contradicted(
        self,
        f: Feature,
        q: Quantity,
        values: np.ndarray,
        units: pd.Series | None,
        chunk: Chunk,
        column: str,
        named: bool,
    ) -> np.ndarray:
        """Rows [n] whose own unit, or that in the column's name, is another than the mapping's; their values are NaN
        now.

        Args:
            units: of the rows; None where there are none.
            named: whether `column` is a column of the feature alone.
        """
        refused, known, used = np.zeros(len(values), bool), ~np.isnan(values), q.unit or f.unit
        own = self.mapping.units
        in_name = unit_in_name(plain(column)) if named else None
        if in_name and known.any() and contradict(as_meant(in_name, own), used, f):
            what = f"{chunk.source}, column {column!r}: its name says {in_name!r}"
            if q.unit is not None:
                self.found.note(f"{what}, the mapping {q.unit!r}, which counts; is it right?")
            else:
                self.found.problem(f"{what}, but the mapping gives no unit, which means {f.unit!r}; give the `unit:`")
                refused |= known
        if units is not None:
            which, texts = texts_of(units, as_written)
            other = [k for k, u in enumerate(texts) if u and contradict(as_meant(u, own), used, f)]
            by_row = np.isin(which, other) & known
            for row in np.flatnonzero(by_row):
                self.found.problem(
                    f"{chunk.at(row, column)}: {values[row]:g} {texts[which[row]]}, but the mapping says that all of "
                    f"{f.name} is in {used!r}; leave its `unit:` out, or correct the row"
                )
            refused |= by_row
        values[refused] = np.nan
        return refused

    def _convert(
        self, f: Feature, q: Quantity, values: np.ndarray, units: pd.Series | None, chunk: Chunk, column: str
    ) -> np.ndarray:
        """Bring values into the feature's unit, in place; rows [n] that were refused (and are NaN now)."""
        refused = np.zeros(len(values), bool)
        known = ~np.isnan(values)
        molar_mass = molar_mass_of(f.name, q.analyte)
        sites = self._sites(chunk) if f.typical is not None and known.any() else []
        if units is None:
            written: list[str] = [q.unit or f.unit]
            which = np.zeros(len(values), np.intp)
        else:
            which, written = texts_of(units, as_written)
        for k, unit in enumerate(written):
            rows = np.flatnonzero(known & (which == k))
            if not len(rows):
                continue
            try:
                if unit.casefold() in self.mapping.missing_texts:
                    unit = ""
                by = feature_factor(unit, f, molar_mass, self.mapping.units)
            except UnitError as e:
                for row in rows:
                    self.found.problem(f"{chunk.at(row, column)}: {values[row]:g}: {e}")
                values[rows], refused[rows] = np.nan, True
                continue
            values[rows] *= by
            if units is not None:
                self.found.units(f.name, unit)
            if not q.check_median:
                continue
            # A hospital may write in a unit of its own, which the median of all does not show.
            named = q.unit is not None or units is not None or unit_in_name(plain(column)) is not None
            for site, of_site in [("", rows), *((s, r[np.isin(r, rows)]) for s, r in sites)]:
                others = values[np.setdiff1d(rows, of_site)] if site and not named else values[:0]
                if self._other_unit(f, values[of_site], by, unit, chunk, column, site, others[~np.isnan(others)]):
                    values[of_site], refused[of_site] = np.nan, True
                    if not site:
                        break
        return refused

    def _sites(self, chunk: Chunk) -> list[tuple[str, np.ndarray]]:
        """The rows of each site, where there are several."""
        column = self.mapping.site_column
        if column is None or column not in chunk.frame:
            return []
        which, names = texts_of(chunk.frame[column])
        there = np.unique(which)
        return [(names[k], np.flatnonzero(which == k)) for k in there] if len(there) > 1 else []

    def _stand_ins(self, name: str, stated: np.ndarray, used: np.ndarray, chunk: Chunk, column: str) -> None:
        """Warn of 99, 999 and the like that stand far above all other values, or above them and more often than any, as
        those do that mean missing."""
        values, counts = np.unique(stated[used], return_counts=True)
        if len(values) < 2:
            return
        top = f"{values[-1]:g}"
        far = values[-1] >= 2 * values[-2]
        often = len(top) > 2 and counts[-1] >= _OFTEN and counts[-1] > 2 * counts[:-1].max()
        if (far or often) and len(top) > 1 and set(top.replace(".", "")) == {"9"}:
            self.found.note(
                f"{chunk.source}, column {column!r}: {top} stands {counts[-1]} times for {name}, and no other value "
                f"above {values[-2]:g}; if it means missing, add it to the feature's own `missing:`"
            )

    def _other_unit(
        self,
        f: Feature,
        values: np.ndarray,
        by: float,
        unit: str,
        chunk: Chunk,
        column: str,
        site: str,
        others: np.ndarray,
    ) -> bool:
        """Whether a column's median belongs to another unit: a problem; to no unit that is known: a warning.

        One site among several may be a clinic of sick patients: its median alone refuses nothing where a unit is
        stated, or where in no other unit it would be near that of the other sites.

        Args:
            site: of which these values are; '': those of all.
            others: values of the other sites; none where a unit is stated.
        """
        if len(values) < _ENOUGH or f.typical is None:
            return False
        median = float(np.median(values))
        if f.typical[0] <= median <= f.typical[1]:
            return False
        text = (
            f"{chunk.source}, column {column!r}{f' at site {site!r}' if site else ''}: the median of {f.name}, "
            f"{median / by:.4g} {unit}"
            f"{'' if by == 1 else f' ({median:.4g} {f.unit})'}, is not where patients' medians lie, "
            f"{f.typical[0]:g} to {f.typical[1]:g} {f.unit}"
        )
        fits = fitting_units(median, by, f)
        if not fits:
            self.found.note(f"{text}; no other unit fits either")
            return False
        if site:
            near = units_that_fit(median / by, f, float(np.median(others))) if len(others) >= _ENOUGH else []
            if not near:
                self.found.note(
                    f"{text}; it would fit {' or '.join(fits)}: is that its unit, or are the patients such?"
                )
                return False
            fits = near
        self.found.problem(
            f"{text}; it fits {' or '.join(fits)}: give the unit, or `check_median: false` if the patients are such"
        )
        return True

    def t_scores(
        self,
        cells: pd.Series,
        chunk: Chunk,
        column: str,
        test: str | None = None,
        units: pd.Series | None = None,
        q: Quantity | None = None,
    ) -> np.ndarray:
        """T-scores, float64 [n].

        Args:
            test: the test's name in a long table.
            units: each row's unit as written. One that says more than "a T-score" measures something else: a density
                of 0.7 g/cm2 would count as a normal T-score.
            q: what the mapping says of the test.
        """
        m = self.mapping
        rule = (q and q.numbers) or m.numbers
        parsed = numbers(cells, m.missing_texts | folded(q.missing if q else ()), rule)
        values = parsed.values
        low, high = T_SCORE_RANGE
        values[parsed.state == BOUND] = np.nan  # half of a T-score's bound means nothing
        other = self._not_t_scores(values, units, chunk, column)
        values[other] = np.nan
        outside = (values < low) | (values > high)
        for row in np.flatnonzero(outside):
            self.found.problem(
                f"{chunk.at(row, column)}: T-score {values[row]:g} is outside {low:g} to {high:g}{_CORRECT}"
            )
        for row in np.flatnonzero(parsed.state == BAD):
            text = parsed.texts(row)
            self.found.problem(f"{chunk.at(row, column)}: {text!r} is not a number (T-score){number_hint(text, rule)}")
        values[outside] = np.nan
        self._odd_t_scores(values[~np.isnan(values)], chunk, column)
        refused = int(outside.sum() + other.sum() + (parsed.state == BAD).sum())
        self.found.values("t_score", values, refused, int((parsed.state == BOUND).sum()))
        self.found.source("t_score", test or column)
        return values

    def _not_t_scores(self, values: np.ndarray, units: pd.Series | None, chunk: Chunk, column: str) -> np.ndarray:
        """Rows (bool [n]) with a value whose unit is not that of a T-score; each is a problem."""
        if units is None:
            return np.zeros(len(values), bool)
        m = self.mapping
        which, stated = texts_of(units, as_written)
        fits = [u.casefold() in m.missing_texts or of_t_score(as_meant(u, m.units)) for u in stated]
        known = ~np.isnan(values)
        for k in (k for k, fit in enumerate(fits) if fit is None and known[which == k].any()):
            self.found.note(
                f"{chunk.source}, column {column!r}: T-scores have the unit {stated[k]!r}, which is not known, and are "
                f'read as T-scores; if they are, `units: {{{stated[k]!r}: "1"}}` says so, else take the rows out'
            )
        other = np.isin(which, [k for k, fit in enumerate(fits) if fit is False]) & known
        for row in np.flatnonzero(other):
            unit = stated[which[row]]
            self.found.problem(
                f"{chunk.at(row, column)}: {values[row]:g} {unit}: a T-score has no such unit; take the row out, or "
                f'say that the word means a T-score: `units: {{{unit!r}: "1"}}`'
            )
        return other

    def _odd_t_scores(self, known: np.ndarray, chunk: Chunk, column: str) -> None:
        """Warn of T-scores that may be something else."""
        where, n = f"{chunk.source}, column {column!r}", len(known)
        if n >= _ENOUGH_T and known.min() >= 0:
            self.found.note(
                f"{where}: not one of {n} T-scores is below 0; are they densities (g/cm2), or were signs lost?"
            )
        zeros = int((known == 0).sum())
        if zeros >= _ENOUGH_T and zeros > _ZEROS * n:
            self.found.note(f"{where}: {zeros} of {n} T-scores are 0; if that means not measured, take them out")
