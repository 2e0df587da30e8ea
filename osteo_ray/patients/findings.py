"""What was found while records were read: what was refused and why, and a table of the features.

found = Findings()
...
found.report().lines()      # feature, known, missing, refused, unit, median; columns that nothing uses
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from osteo_ray.patients.schema import NAMES, feature

AGES_DIFFER = 2
"""Years by which an age may differ from that by the birth date."""
BMIS_DIFFER = 2.0
"""kg/m2 by which a body mass index may differ from that by height and weight, which are rounded."""
_KEPT_PROBLEMS = 1000
_FIRST_DAY = np.datetime64("1980-01-01")
_SAMPLE_PER_CHUNK, _SAMPLE = 5_000, 200_000


class RecordsError(ValueError):
    """Records that can't be used. The text names each file, row, column, value and unit, and what would mend it."""

    exit_code = 3

    def __init__(self, problems: Iterable[str], shown: int = 20, total: int | None = None):
        self.problems = tuple(problems)
        more = (len(self.problems) if total is None else total) - min(shown, len(self.problems))
        text = "\n".join(self.problems[:shown]) + (f"\n... and {more} more" if more > 0 else "")
        super().__init__(text)


@dataclass(frozen=True)
class FeatureSummary:
    """One feature of what was read. `median` is in the schema's unit, `unit` as the source gave it."""

    name: str
    known: int
    missing: int
    refused: int
    bounds: int
    unit: str
    median: float
    source: str


@dataclass(frozen=True)
class ReadReport:
    """What was read of one or more sources."""

    rows: int
    features: tuple[FeatureSummary, ...]
    unused_columns: tuple[str, ...] = ()
    not_given: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unknown: tuple[tuple[str, int], ...] = ()
    dropped: tuple[tuple[str, int], ...] = ()
    births: int = 0  # records with a birth date

    def lines(self) -> list[str]:
        """The report as text, a line each."""
        out = [f"{'feature':24} {'known':>9} {'missing':>9} {'refused':>9}  {'unit':18} {'median':>10}  from"]
        for f in self.features:
            median = "" if np.isnan(f.median) else f"{f.median:.4g}"
            out.append(f"{f.name:24} {f.known:>9} {f.missing:>9} {f.refused:>9}  {f.unit:18} {median:>10}  {f.source}")
        bounds = [f"{f.name} {f.bounds}" for f in self.features if f.bounds]
        if bounds:
            out.append(f"bounds, not values ('<5'): {', '.join(bounds)}")
        if self.births:
            out.append(f"birth dates: {self.births}; the age on the day of a CT follows from them where none is near")
        if self.not_given:
            out.append(f"features that nothing gives: {', '.join(self.not_given)}")
        if self.unused_columns:
            out.append(f"columns that nothing uses: {', '.join(self.unused_columns)}")
        if self.unknown:
            out.append(f"codes that nothing uses: {_counted(self.unknown)}")
        if self.dropped:
            out.append(f"passed over: {_counted(self.dropped)}")
        return out + [f"WARNING  {n}" for n in self.notes]


def _counted(pairs: tuple[tuple[str, int], ...], shown: int = 30) -> str:
    more = f" and {len(pairs) - shown} more" if len(pairs) > shown else ""
    return ", ".join(f"{name} x {n}" for name, n in pairs[:shown]) + more


@dataclass
class _Counts:
    known: int = 0
    missing: int = 0
    refused: int = 0
    bounds: int = 0
    units: dict[str, None] = field(default_factory=dict)
    sources: dict[str, None] = field(default_factory=dict)
    sample: list[np.ndarray] = field(default_factory=list)
    sampled: int = 0


class Findings:
    """Collects, while sources are read, what `ReadReport` says of them."""

    def __init__(self) -> None:
        self.problems: list[str] = []
        self.total_problems = 0
        self.rows = 0
        self.ids: dict[str, tuple[str, str | None]] = {}  # key -> number as written, site
        self._features: dict[str, _Counts] = {}
        self._unused: dict[str, None] = {}
        self._notes: dict[str, None] = {}
        self._odd_days: dict[tuple[str, str], tuple[int, np.datetime64]] = {}
        self.undated: Counter[str] = Counter()  # feature -> patients whose undated values of it differ
        self.both_sexes = 0  # patients
        self.other_ages = 0  # records
        self.other_bmis = 0  # records
        self.births = 0  # records with a birth date
        self.unknown: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    def problem(self, text: str) -> None:
        """One thing that can't be used; all are counted, the first thousand kept."""
        self.total_problems += 1
        if len(self.problems) < _KEPT_PROBLEMS:
            self.problems.append(text)

    def note(self, text: str) -> None:
        """A warning, kept once."""
        self._notes[text] = None

    def of(self, name: str) -> _Counts:
        """The counts of a feature."""
        return self._features.setdefault(name, _Counts())

    def values(self, name: str, values: np.ndarray, refused: int = 0, bounds: int = 0, blank: bool = True) -> None:
        """Count a batch of values in the schema's unit. `blank`: NaN that was not refused is a missing value."""
        c = self.of(name)
        known = values[~np.isnan(values)]
        c.known += len(known)
        c.refused += refused
        c.bounds += bounds
        c.missing += len(values) - len(known) - refused if blank else bounds
        if len(known) and c.sampled < _SAMPLE:
            part = known[:: -(-len(known) // _SAMPLE_PER_CHUNK)]
            c.sample.append(part)
            c.sampled += len(part)

    def source(self, name: str, column: str, unit: str | None = None) -> None:
        """Where a feature came from, and in which unit."""
        c = self.of(name)
        c.sources[column] = None
        if unit is not None:
            c.units[unit] = None

    def units(self, name: str, unit: str) -> None:
        """A unit in which a feature was given."""
        self.of(name).units[unit] = None

    def columns(self, unused: Iterable[str]) -> None:
        """Columns that nothing uses."""
        self._unused.update(dict.fromkeys(unused))

    def days(self, days: np.ndarray, where: str) -> None:
        """Count days (datetime64) before there was DXA or after today: stand-ins for "not known", and typing errors."""
        known = days[~np.isnat(days)].astype("datetime64[D]")
        sides = (known < _FIRST_DAY, f"before {_FIRST_DAY}"), (known > np.datetime64("today"), "after today")
        for odd, what in sides:
            if odd.any():
                n, first = self._odd_days.get((where, what), (0, known[odd][0]))
                self._odd_days[where, what] = n + int(odd.sum()), first

    def remember(self, key: str, patient_id: str, site: str | None, limit: int = 200_000) -> None:
        """A number as written, for the match report alone; never printed or stored."""
        if len(self.ids) < limit:
            self.ids[key] = (patient_id, site)

    def listed(self) -> list[str]:
        """The problems, and how many more there were."""
        more = self.total_problems - len(self.problems)
        return self.problems + ([f"... and {more} more"] if more else [])

    def check(self) -> None:
        """Raise RecordsError where anything was refused."""
        if self.problems:
            raise RecordsError(self.problems, total=self.total_problems)

    def nothing(self) -> list[str]:
        """Why there is no record at all."""
        parts = (("tests or codes that nothing uses", self.unknown), ("passed over", self.dropped))
        why = [f"{what}: {_counted(tuple(c.most_common()))}" for what, c in parts if c]
        return self.problems or ["; ".join(["no record in what was read", *why])]

    def report(self) -> ReadReport:
        """What was read so far."""
        rows = []
        for name in [n for n in (*NAMES, "t_score") if n in self._features]:
            c = self._features[name]
            own = feature(name).unit if name in NAMES else "1"
            units = " ".join(c.units) or own
            median = float(np.median(np.concatenate(c.sample))) if c.sample else np.nan
            shown = units if units == own or own == "1" else f"{units} -> {own}"
            rows.append(
                FeatureSummary(name, c.known, c.missing, c.refused, c.bounds, shown, median, ", ".join(c.sources))
            )
        for f in rows:
            if f.source and not f.known and not (f.name == "age_y" and self.births):
                self.note(f"{f.name}: {f.source} holds not one value that counts")
        if self.undated:
            of = ", ".join(f"{name} of {n} patients" for name, n in self.undated.most_common())
            self.note(
                f"undated values that differ, of which none is used: {of}; name the column of dates, or keep one row a "
                f"patient"
            )
        if self.both_sexes:
            self.note(f"the records of {self.both_sexes} patients give both sexes: neither is used")
        if self.other_ages:
            self.note(f"{self.other_ages} ages are more than {AGES_DIFFER} years off those by the birth date")
        if self.other_bmis:
            self.note(
                f"{self.other_bmis} records state a BMI more than {BMIS_DIFFER:g} kg/m2 off that by their height and "
                f"weight: one of the three is wrong, or of another day"
            )
        for (where, what), (n, first) in self._odd_days.items():
            self.note(f"{where}: {n} {'date is' if n == 1 else 'dates are'} {what}, the first {first}")
        return ReadReport(
            self.rows,
            tuple(rows),
            tuple(self._unused),
            tuple(n for n in NAMES if n not in self._features or not self._features[n].sources),
            tuple(self._notes),
            tuple(self.unknown.most_common()),
            tuple(self.dropped.most_common()),
            self.births,
        )
