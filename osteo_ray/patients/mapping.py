"""How one hospital's records map onto the schema: a short YAML. In full, with examples: docs/your-own-data.md.

    patient_id: MRN                 # column with the patient's number
    date: drawn_on                  # column with the record's date (optional)
    t_score: dxa_t                  # optional; of several columns the lowest counts
    dxa_date: dxa_on                # optional: when the T-score was measured; without it, it is of no known date
    treatment: {column: bone_drug, codes: {y: 1, n: 0}}    # optional: a drug against osteoporosis, as of `date`
    features:
      sex_male: {column: gender, codes: {m: 1, f: 0}}
      creatinine_umol_l: {column: CREA, unit: mg/dL}
      alp_u_l: {column: ALP, unit_column: ALP_unit}
    missing: ["", "NA", "n/a"]

Shipped mappings are named: `load_mapping("default")`, `load_mapping("nhanes")`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from osteo_ray.config import ConfigError, Section, load
from osteo_ray.patients.schema import ANALYTES, NAMES, molar_mass_of

T_SCORE = "t_score"
_A_DAY = datetime(2013, 11, 24, 13, 50, 40)
_TABLE_KEYS = ("patient_id", "site_column", "date", "birth_date", "features", "withdrawn")
_LONG_KEYS = ("test", "value", "comparator", "unit", "tests")
_WIDE_KEYS = ("t_score", "dxa_date", "treatment", "keep", "derive")
_NOT_IN = {
    "wide": _LONG_KEYS,
    "long": _WIDE_KEYS,
    "fhir": (*_TABLE_KEYS, *_WIDE_KEYS, "test", "value", "comparator", "unit", "date_format"),
}
"""Keys of a mapping that its format would pass over in silence."""
WITHDRAWN = (
    *("cancelled", "canceled", "entered in error", "entered-in-error", "deleted", "void", "voided", "invalid"),
    *("rejected", "withdrawn", "storniert", "ungültig", "gelöscht", "annulé", "annullato", "anulado"),
    *("作废", "取消", "已取消", "無効"),
)
"""What tables say of rows that do not count."""
WITHDRAWN_CODES = ("X", "D", "W")
"""The same as codes of HL7's table 0085."""
_CODES_OF_RESULTS = frozenset("abcdfinoprsuvwx")
"""All of that table, in lower case: letters beyond it are another's, of marriage, say (m, s, d, w)."""
_YES_NO = {True: ("yes", "true", "on"), False: ("no", "false", "off")}


def _code_texts(codes: Any) -> Any:
    """YAML's own types as texts: 1 is '1', and `yes`, which YAML reads as true, is 'yes', 'true' and 'on'."""
    if not isinstance(codes, dict):
        return codes
    out: dict[str, Any] = {}
    for key, value in codes.items():
        for text in (
            _YES_NO[key]
            if isinstance(key, bool)
            else ("" if key is None else f"{key:g}",)
            if _number(key)
            else (str(key),)
        ):
            out[text] = float(value) if isinstance(value, bool) else value
    return out


def _texts_of_missing(texts: Any) -> Any:
    if not isinstance(texts, list | tuple):
        return texts
    return [t for x in texts for t in (_YES_NO[x] if isinstance(x, bool) else ("" if x is None else str(x),))]


def folded(texts: Iterable[str]) -> frozenset[str]:
    """Texts in the form in which cells are held against them."""
    return frozenset(t.strip().casefold() for t in texts)


def withdrawn_among(texts: Iterable[str], status: bool) -> set[str]:
    """Which of a column's texts, in lower case, say of a row that it was taken back.

    Args:
        status: whether the column's name says that it may hold codes of HL7's table 0085.
    """
    found = set(folded(texts)) - {""}
    codes = folded(WITHDRAWN_CODES) if status and found <= _CODES_OF_RESULTS else frozenset()
    return found & (folded(WITHDRAWN) | codes)


def _number(key: Any) -> bool:
    return key is None or isinstance(key, int | float)


class Numbers(Section):
    """How numbers are written. Full-width digits and signs are always read as plain ones."""

    decimal: Literal[".", ","] = Field(".", description="decimal sign")
    thousands: Literal["", ",", ".", " ", "'"] = Field("", description="sign between groups of three digits")
    bounds: Literal["missing", "half"] = Field(
        "missing", description="what '<5' is: missing, or half the limit; '>5' is missing. Both are counted"
    )
    rules: tuple[Literal["top_coded", "age_units", "flags"], ...] = Field(
        (),
        description="top_coded: ages '89+' and '>89' are 89; age_units: ages '67Y', '804M' are years; "
        "flags: '5.2 H', '5.2*' are 5.2",
    )

    @model_validator(mode="after")
    def _two_signs(self) -> Numbers:
        if self.thousands == self.decimal:
            raise ValueError(f"decimal and thousands can't both be {self.decimal!r}")
        return self


class Quantity(Section):
    """How one feature's values are to be read."""

    unit: str | None = Field(None, description="unit of all values; null: the schema's own, or that of each row")
    codes: dict[str, float | None] | None = Field(None, description="text -> number; null means missing")
    analyte: str | None = Field(None, description="urea_nitrogen: masses are those of the nitrogen in urea")
    numbers: Numbers | None = Field(None, description="how this feature's numbers are written; null: as all are")
    missing: tuple[str, ...] = Field(
        (), description="texts that mean missing in this feature, beside those that do everywhere"
    )
    check_median: bool = Field(
        True, description="refuse values whose median belongs to another unit; false: such patients, after a look"
    )

    @field_validator("missing", mode="before")
    @classmethod
    def _missing_texts(cls, v: Any) -> Any:
        return _texts_of_missing(v)

    @field_validator("codes", mode="before")
    @classmethod
    def _texts(cls, v: Any) -> Any:
        return _code_texts(v)

    @field_validator("codes")
    @classmethod
    def _one_meaning(cls, v: dict[str, float | None] | None) -> dict[str, float | None] | None:
        seen: dict[str, tuple[str, float | None]] = {}
        for text, value in (v or {}).items():
            other, means = seen.setdefault(text.strip().casefold(), (text, value))
            if means != value:
                raise ValueError(f"{other!r} and {text!r} differ in case alone, so they need the same value")
        return v

    @field_validator("analyte")
    @classmethod
    def _analyte(cls, v: str | None) -> str | None:
        if v is not None and v not in ANALYTES:
            raise ValueError(f"no such analyte; there are: {', '.join(ANALYTES)}")
        return v


class Column(Quantity):
    """Where one feature is found: a column, and its unit or the codes of its values."""

    column: str = Field(description="column of the table")
    unit_column: str | None = Field(None, description="column that holds each row's unit")

    @model_validator(mode="after")
    def _one_unit(self) -> Column:
        if sum(x is not None for x in (self.unit, self.unit_column, self.codes)) > 1:
            raise ValueError("give one of unit, unit_column and codes")
        return self


class Test(Quantity):
    """Which tests of a long table, or codes of FHIR Observations, give one feature."""

    __test__ = False  # no test of pytest's
    names: tuple[str, ...] = Field(
        (), description="names or codes, in any case; LOINC codes that are known need not be given"
    )

    @model_validator(mode="before")
    @classmethod
    def _list(cls, v: Any) -> Any:
        return {"names": [v] if isinstance(v, str) else v} if isinstance(v, str | list | tuple) else v

    @field_validator("names", mode="before")
    @classmethod
    def _texts_of_names(cls, v: Any) -> Any:
        return [str(x) for x in v] if isinstance(v, list | tuple) else v


class KeyTable(Section):
    """A table of which numbers in these records are which numbers in the CTs."""

    path: str = Field(description="CSV, workbook or Parquet, by URI or by path from where the command runs")
    number: str = Field(description="column with the numbers of these records")
    ct: str = Field(description="column with the numbers in the CTs' headers, e.g. pseudonyms")


class Withdrawn(Section):
    """Which rows of a table were taken back."""

    column: str = Field(description="column that says it")
    texts: tuple[str, ...] = Field(
        (*WITHDRAWN, *WITHDRAWN_CODES), description="what it says of a row that does not count, in any case"
    )


class Fhir(Section):
    """Which of a FHIR Patient's identifiers is the number that the CTs carry."""

    identifier_type: str = Field("MR", description="code of identifier.type (HL7 v2-0203)")
    identifier_system: str | None = Field(None, description="identifier.system; where given, the type does not matter")


class Mapping(Section):
    """One source's mapping."""

    format: Literal["wide", "long", "fhir"] = Field(
        "wide", description="wide: a column a feature; long: a row a test; fhir: R4 NDJSON or a Bundle"
    )
    patient_id: str | None = Field(None, description="column with the patient's number")
    key_table: KeyTable | None = Field(
        None, description="where the CTs carry other numbers: a table of both; who is not in it meets no CT"
    )
    site: str | None = Field(None, description="hospital of all rows; part of each patient's key")
    site_column: str | None = Field(None, description="column with each row's hospital, instead of `site`")
    date: str | None = Field(None, description="column with the record's date")
    date_format: tuple[str, ...] = Field((), description="e.g. '%d/%m/%Y'; ISO dates need none")
    timezone: str | None = Field(
        None,
        description="e.g. Asia/Shanghai: zone of the local day, where times carry an offset that is not the site's",
    )
    t_score: tuple[str, ...] = Field((), description="columns with DXA T-scores; the lowest of a row counts")
    dxa_date: str | None = Field(None, description="column with the date of the T-score")
    birth_date: str | None = Field(None, description="column with the birth date: age at the record's date")
    treatment: Column | None = Field(None, description="column and codes: a drug against osteoporosis, as of `date`")
    features: dict[str, Column] = Field({}, description="feature -> its column")
    test: str | None = Field(None, description="long: column with the test's name or code")
    value: str | None = Field(None, description="long: column with the result")
    comparator: str | None = Field(
        None,
        description="long: column with '<' or '>', where a bound's sign stands apart from its value; null, written "
        "out: no column's signs are those of values",
    )
    unit: str | None = Field(None, description="long: column with the unit")
    tests: dict[str, Test] = Field({}, description="long and fhir: feature (or t_score) -> names of its tests")
    withdrawn: Withdrawn | None = Field(
        None, description="wide and long: column that says which rows were taken back; they are passed over and counted"
    )
    keep: tuple[str, ...] = Field((), description="columns carried along as they are")
    missing: tuple[str, ...] = Field(
        ("", "NA", "N/A", "nan", "null", "None", "NaT"), description="texts that mean missing, in any case"
    )
    optional: bool = Field(False, description="columns that the table lacks are missing instead of an error")
    derive: Literal["nhanes"] | None = Field(None, description="columns to compute (nhanes: T-scores from densities)")
    encoding: str | None = Field(None, description="of a text file, e.g. gb18030; null: UTF-8, or what its mark says")
    delimiter: str | None = Field(None, description="of a text file; null: found from its header")
    header_row: int = Field(1, ge=1, description="line or row of the header; what stands above is passed over")
    skip_rows: int = Field(
        0, ge=0, description="rows between the header and the first record, of units or descriptions: passed over"
    )
    sheet: str | int | None = Field(None, description="sheet of a workbook, by name or number from 1")
    numbers: Numbers = Field(Numbers(), description="how numbers are written")
    units: dict[str, str] = Field({}, description="the laboratory's word for a unit -> the unit that it means")
    fhir: Fhir = Field(Fhir(), description="fhir: which identifier counts")

    @field_validator("timezone")
    @classmethod
    def _zone(cls, v: str | None) -> str | None:
        try:
            return v if v is None else ZoneInfo(v).key
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError("no such time zone; names are those of the IANA database, e.g. Asia/Shanghai") from None

    @field_validator("date_format")
    @classmethod
    def _date_forms(cls, v: tuple[str, ...]) -> tuple[str, ...]:
        for form in v:
            try:
                back = datetime.strptime(_A_DAY.strftime(form), form).date()
            except ValueError:
                back = None
            if back != _A_DAY.date():
                raise ValueError(f"{form!r} names no day, month and year as strptime does, e.g. '%d.%m.%Y'")
        return v

    @field_validator("t_score", "date_format", mode="before")
    @classmethod
    def _one_or_more(cls, v: Any) -> Any:
        return () if v is None else (v,) if isinstance(v, str) else v

    @field_validator("missing", mode="before")
    @classmethod
    def _missing_texts(cls, v: Any) -> Any:
        return _texts_of_missing(v)

    @field_validator("treatment")
    @classmethod
    def _codes(cls, v: Column | None) -> Column | None:
        if v is not None and (v.codes is None or set(v.codes.values()) - {0, 1, None}):
            raise ValueError("treatment: give codes, each 1 (treated), 0 (not) or null (not known)")
        return v

    @field_validator("features", "tests")
    @classmethod
    def _known(cls, v: dict[str, Quantity], info: Any) -> dict[str, Quantity]:
        names = (*NAMES, T_SCORE) if info.field_name == "tests" else NAMES
        bad = sorted(set(v) - set(names))
        if bad:
            raise ValueError(f"unknown feature {bad[0]!r}; there are: {', '.join(names)}")
        for name, quantity in v.items():
            if quantity.analyte:
                try:
                    molar_mass_of(name, quantity.analyte)
                except KeyError as e:
                    raise ValueError(str(e.args[0])) from None
        return v

    @model_validator(mode="after")
    def _complete(self) -> Mapping:
        if self.key_table and self.site_column:  # 12 of one hospital would get the CTs of another's 12
            raise ValueError(
                "key_table knows no sites, and site_column several; read each site by a mapping of its own"
            )
        meaningless = sorted(k for k in _NOT_IN[self.format] if getattr(self, k) and k in self.model_fields_set)
        if meaningless:
            raise ValueError(f"format {self.format} has no use for: {', '.join(meaningless)}")
        self._one_use_each()
        if self.format == "fhir":
            return self
        needed = ["patient_id", *(("test", "value") if self.format == "long" else ())]
        absent = [k for k in needed if not getattr(self, k)]
        if self.format == "wide" and not (self.features or self.t_score or self.treatment or self.birth_date):
            absent.append("features, t_score, treatment or birth_date")
        if absent:
            raise ValueError(f"a {self.format} mapping needs {', '.join(absent)}")
        if self.site and self.site_column:
            raise ValueError("give site (of all rows) or site_column, not both")
        return self

    def _one_use_each(self) -> None:
        """One column, or one test's name, is one quantity."""
        columns = [(c.column, name) for name, c in self.features.items()]
        tests = [(text.strip().casefold(), name) for name, t in self.tests.items() for text in t.names]
        for word, pairs in (("column", columns), ("test", tests)):
            seen: dict[str, str] = {}
            for text, name in pairs:
                other = seen.setdefault(text, name)
                if other != name:
                    raise ValueError(f"the {word} {text!r} is given for two features, {other} and {name}")

    @property
    def missing_texts(self) -> frozenset[str]:
        """Texts that mean missing, in lower case."""
        return folded(self.missing)


def shipped() -> list[str]:
    """Names of the mappings that come with the package."""
    folder = resources.files("osteo_ray.patients") / "mappings"
    return sorted(p.name.removesuffix(".yaml") for p in folder.iterdir() if p.name.endswith(".yaml"))


def load_mapping(mapping: str | Path | Mapping | None) -> Mapping:
    """A mapping by shipped name, by path to its YAML, or as it is; None is the shipped `default`.

    Raises:
        ConfigError: no such mapping, or a bad key in it.
    """
    if isinstance(mapping, Mapping):
        return mapping
    name = "default" if mapping is None else str(mapping)
    if name in shipped():
        with resources.as_file(resources.files("osteo_ray.patients") / "mappings" / f"{name}.yaml") as path:
            return load(Mapping, path)
    if not Path(name).is_file():
        raise ConfigError(f"mapping {name!r}: neither a file nor a shipped mapping ({', '.join(shipped())})")
    return load(Mapping, name)
