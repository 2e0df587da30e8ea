"""One result as FHIR R4: a transaction bundle of DiagnosticReport, Observation, RiskAssessment and Device.

    write_fhir("a.fhir.json", row, source, created=datetime.now(UTC))

Every id is made of the row key, and entries are PUT: a server that gets the bundle again changes nothing. What was
known of the patient (age, labs) is contained in the RiskAssessment under its LOINC codes, so that no server files
it a second time; what this system found has codes of its own, never those of DXA or FRAX. All is `preliminary`.
Built and validated by fhir.resources; its R4B models are those of R4 for these four resources. That library takes any
string where the standard binds a code, so the bound codes are checked here.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from fhir.resources.R4B.bundle import Bundle
from pydantic import ValidationError

from osteo_ray import __version__
from osteo_ray.outcomes import InputError, State
from osteo_ray.patients.schema import FEATURES
from osteo_ray.reports import codes as c
from osteo_ray.reports.checks_view import check, verdict_of
from osteo_ray.reports.config import NO_SYSTEMS, FhirSystems
from osteo_ray.reports.language import DISCLAIMER, words_in
from osteo_ray.reports.source import REPORT_VERSION, Source
from osteo_ray.reports.wording import SPACE, date
from osteo_ray.reports.wording import percent as narrow_percent

SNOMED, LOINC, UCUM = "http://snomed.info/sct", "http://loinc.org", "http://unitsofmeasure.org"
DCM = "http://dicom.nema.org/resources/ontology/DCM"
ABSENT = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
PSEUDONYM_SYSTEM = f"{c.FHIR_SYSTEM}.1"
ROW_SYSTEM = f"{c.FHIR_SYSTEM}.2"
_EVENT = {"registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown"}
BOUND = {
    "Observation": {"status": _EVENT},
    "RiskAssessment": {"status": _EVENT},
    "DiagnosticReport": {"status": _EVENT | {"partial", "appended"}},
    "Device": {"status": {"active", "inactive", "entered-in-error", "unknown"}},
    "Bundle": {"type": {"transaction"}},
}
"""Codes that R4 binds as `required`, of the resources written here."""

_ORIGIN = {"record": "patient's record", "header": "CT's header"}
_INPUT = {f.name: f for f in FEATURES}


def build_fhir(
    row: Mapping[str, Any], source: Source | None, created: datetime, systems: FhirSystems = NO_SYSTEMS
) -> Bundle:
    """The bundle of one result row.

    Args:
        source: whose study it is; None: the pseudonym, for a row whose images are gone.
        created: with a time zone.
        systems: of the identifiers, as the receiving server knows them.

    Raises:
        InputError: what was built is no valid FHIR, or `created` has no time zone.
    """
    if created.tzinfo is None:
        raise InputError("FHIR's `issued` needs a time zone; give `created` with one")
    return parse(_Writer(row, source, created, systems).bundle())


def write_fhir(
    path: str | Path,
    row: Mapping[str, Any],
    source: Source | None,
    created: datetime,
    systems: FhirSystems = NO_SYSTEMS,
) -> Path:
    """Write `build_fhir(...)` as JSON."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    document = json.loads(build_fhir(row, source, created, systems).model_dump_json())
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return path


def parse(document: Mapping[str, Any]) -> Bundle:
    """A JSON document as a validated bundle.

    Raises:
        InputError: naming the first thing that is wrong.
    """
    try:
        bundle = Bundle.model_validate(dict(document))
    except ValidationError as e:
        first = e.errors()[0]
        raise InputError(f"no valid FHIR: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    _check_codes(document)
    _check_references(document)
    return bundle


def _check_codes(node: Any) -> None:
    if isinstance(node, Mapping):
        kind = str(node.get("resourceType"))
        for field, allowed in BOUND.get(kind, {}).items():
            if node.get(field) not in allowed:
                raise InputError(f"no valid FHIR: {kind}.{field} is {node.get(field)!r}, it may be {sorted(allowed)}")
        for value in node.values():
            _check_codes(value)
    elif isinstance(node, list):
        for value in node:
            _check_codes(value)


def _check_references(document: Mapping[str, Any]) -> None:
    """Every reference inside the bundle must lead to an entry, or to what its own resource contains."""
    entries = list(document.get("entry") or ())
    urls = {e["fullUrl"] for e in entries}
    for e in entries:
        inside = {f"#{r['id']}" for r in e["resource"].get("contained") or ()}
        for reference in _references(e["resource"]):
            if reference not in urls | inside:
                raise InputError(f"no valid FHIR: {reference} refers to nothing in the bundle")


def _references(node: Any) -> list[str]:
    if isinstance(node, Mapping):
        own = [node["reference"]] if isinstance(node.get("reference"), str) else []
        return own + [r for v in node.values() for r in _references(v)]
    return [r for v in node for r in _references(v)] if isinstance(node, list) else []


def percent(p: float | None) -> str:
    """A risk for a person, with a plain space: FHIR's strings hold no other white space."""
    return narrow_percent(p).replace(SPACE, " ")


class _Writer:
    """Builds the resources of one row."""

    def __init__(self, row: Mapping[str, Any], source: Source | None, created: datetime, systems: FhirSystems):
        if not row.get("row_key"):
            raise InputError("the result row has no row_key; a report's ids are made of it")
        self.row, self.created = row, created
        self.form = "identified" if source is not None and source.identified else "pseudonym"
        self.scored = c.is_scored(row)
        self.state = State(row["state"])
        self.systems = systems
        self.subject = self._subject(source)
        accession = str(source.head.get("AccessionNumber") or "") if source is not None and source.identified else ""
        self.accession = accession or None
        self.day = date(row.get("study_date")) if row.get("study_date") else None
        study = row.get("study_uid")
        self.study = _drop(
            type="ImagingStudy", identifier={"system": "urn:dicom:uid", "value": f"urn:oid:{study}"} if study else None
        )

    def bundle(self) -> dict[str, Any]:
        resources = [self._device(), self._risk_observation(), self._gates(), *self._densities()]
        if self.scored:
            resources.append(self._assessment())
        whole = [self._report(), *(r for r in resources if r is not None)]
        return {
            "resourceType": "Bundle",
            "id": self._id("bundle"),
            "type": "transaction",
            "timestamp": self.created.isoformat(timespec="seconds"),
            "entry": [
                {
                    "fullUrl": f"urn:uuid:{r['id']}",
                    "resource": r,
                    "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"},
                }
                for r in whole
            ],
        }

    def _id(self, what: str) -> str:
        key = "|".join(str(self.row.get(k)) for k in ("row_key", "state", "code"))
        # The device is the same in every bundle of one model.
        names = ("device", str(self.row.get("model_sha256"))) if what == "device" else (key, what, self.form)
        return str(uuid.uuid5(uuid.NAMESPACE_OID, "|".join(("osteo-ray fhir", REPORT_VERSION, *names))))

    def _ref(self, what: str) -> dict[str, str]:
        return {"reference": f"urn:uuid:{self._id(what)}"}

    def _subject(self, source: Source | None) -> dict[str, Any] | None:
        """A logical reference: who files the bundle knows the patient; no name is needed for it."""
        if source is not None and source.identified and source.head.PatientID:
            issuer = str(source.head.get("IssuerOfPatientID", ""))
            identifier = _drop(
                system=self.systems.patient,
                value=str(source.head.PatientID),
                assigner={"display": issuer} if issuer else None,
            )
            return {"type": "Patient", "identifier": identifier}
        key = self.row.get("patient_key")
        system = self.systems.pseudonym or PSEUDONYM_SYSTEM
        return {"type": "Patient", "identifier": {"system": system, "value": key}} if key else None

    def _base(self, kind: str, what: str) -> dict[str, Any]:
        return _drop(
            resourceType=kind,
            id=self._id(what),
            identifier=[{"system": ROW_SYSTEM, "value": f"{self.row['row_key']}.{what}"}],
            status="preliminary",
            subject=self.subject,
        )

    def _report(self) -> dict[str, Any]:
        results = [self._ref("risk"), *([self._ref("gates")] if self.row.get("gates") else [])]
        results += [self._ref(f"hu-{v['level']}") for v in self._levels()]
        return self._base("DiagnosticReport", "report") | _drop(
            category=[_concept(("http://terminology.hl7.org/CodeSystem/v2-0074", "RAD", "Radiology"))],
            code=_concept(_own(c.SCREENING)),
            effectiveDateTime=self.day,
            basedOn=self._order(),
            issued=self.created.isoformat(timespec="seconds"),
            imagingStudy=[self.study] if self.study.get("identifier") else None,
            result=results,
            conclusion=self._conclusion(),
        )

    def _order(self) -> list[dict[str, Any]] | None:
        """The radiology order, by its accession number, where identifiers are allowed and there is one."""
        if self.accession is None:
            return None
        kind = _concept(("http://terminology.hl7.org/CodeSystem/v2-0203", "ACSN", "Accession ID"))
        identifier = _drop(type=kind, system=self.systems.accession, value=self.accession)
        return [{"type": "ServiceRequest", "identifier": identifier}]

    def _conclusion(self) -> str:
        row = self.row
        if not self.scored:
            return f"{c.OUTCOMES[self.state]} ({row['code']}). {row.get('message') or ''}".strip() + f" {DISCLAIMER}"
        interval = ""
        if row.get("risk_low") is not None and row.get("risk_high") is not None:
            interval = f", interval {percent(row['risk_low'])} to {percent(row['risk_high'])}"
        where = c.CLASSES[row["risk_class"]][1] + ". " if row.get("risk_class") in c.CLASSES else ""
        return f"Calibrated probability of osteoporosis {percent(row['risk_prob'])}{interval}. {where}{DISCLAIMER}"

    def _risk_observation(self) -> dict[str, Any]:
        row = self.row
        out = self._base("Observation", "risk") | _drop(
            code=_concept(_own(c.RISK)),
            effectiveDateTime=self.day,
            issued=self.created.isoformat(timespec="seconds"),
            device=self._ref("device"),
            bodySite=_concept((SNOMED, *c.LUMBAR_SPINE)),
            derivedFrom=[self.study] if self.study.get("identifier") else None,
            note=[{"text": DISCLAIMER}],
        )
        outcome = {
            "code": _concept(_own(c.OUTCOME)),
            "valueCodeableConcept": _concept(_own((self.state.value, c.OUTCOMES[self.state])), row.get("code")),
        }
        if not self.scored:
            failed = self.state in (State.ERROR, State.QUARANTINED)
            reason = ("error", "Error") if failed else ("not-performed", "Not Performed")
            words = f"{row['code']}: {row.get('message') or c.OUTCOMES[self.state]}"
            return out | {"dataAbsentReason": _concept((ABSENT, *reason), words), "component": [outcome]}
        parts = ((c.RISK_LOW, "risk_low"), (c.RISK_HIGH, "risk_high"), (c.THRESHOLD, "threshold"))
        bounds = [
            {"code": _concept(_own(name)), "valueQuantity": _quantity(row[column], "1")}
            for name, column in parts
            if row.get(column) is not None
        ]
        above = c.CLASSES.get(row.get("risk_class") or "")
        return out | _drop(
            valueQuantity=_quantity(row["risk_prob"], "1"),
            interpretation=[_concept(_own(above), row.get("operating_point"))] if above else None,
            component=[outcome, *bounds],
        )

    def _levels(self) -> Sequence[Mapping[str, Any]]:
        return (self.row.get("hu_by_level") or ()) if self.scored else ()

    def _densities(self) -> list[dict[str, Any]]:
        """Trabecular HU, an Observation for each vertebra."""
        out = []
        for v in self._levels():
            at_120 = v.get("hu_120_kvp")
            component = None
            if at_120 is not None:
                component = [{"code": _concept(_own(c.HU_120_KVP)), "valueQuantity": _hounsfield(at_120)}]
            out.append(
                self._base("Observation", f"hu-{v['level']}")
                | _drop(
                    code=_concept((DCM, *c.ATTENUATION), f"trabecular bone of {v['level']}, mean, as scanned"),
                    effectiveDateTime=self.day,
                    issued=self.created.isoformat(timespec="seconds"),
                    device=self._ref("device"),
                    bodySite=_concept((SNOMED, *c.vertebra(v["level"])), v["level"]),
                    derivedFrom=[self.study] if self.study.get("identifier") else None,
                    valueQuantity=_hounsfield(v["hu"]),
                    component=component,
                )
            )
        return out

    def _gates(self) -> dict[str, Any] | None:
        gates = self.row.get("gates") or ()
        if not gates:
            return None
        return self._base("Observation", "gates") | _drop(
            code=_concept(_own(("GATES", "Quality checks of the series"))),
            effectiveDateTime=self.day,
            device=self._ref("device"),
            component=[
                {
                    "code": _concept(_own((x.code, f"Quality check: {x.name}"))),
                    "valueCodeableConcept": _concept(
                        _own(c.VERDICTS.get(verdict_of(g)) or (g["verdict"], g["verdict"])),
                        f"found {x.found}; allowed {x.allowed}",
                    ),
                }
                for g, x in ((g, check(g, words_in())) for g in gates)
            ],
        )

    def _assessment(self) -> dict[str, Any]:
        row = self.row
        inputs = self._inputs()
        above = c.CLASSES.get(row.get("risk_class") or "")
        return self._base("RiskAssessment", "assessment") | _drop(
            contained=inputs or None,
            method=_concept(_own(c.SCREENING), f"{row.get('model_name')} {row.get('model_version')}"),
            code=_concept(_own(c.RISK)),
            occurrenceDateTime=self.day,
            performer=self._ref("device"),
            basis=[self._ref("risk"), *({"reference": f"#{r['id']}"} for r in inputs)],
            prediction=[
                _drop(
                    outcome=_concept((SNOMED, *c.OSTEOPOROSIS)),
                    # FHIR writes decimal probabilities as percentages.
                    probabilityDecimal=_decimal(100 * row["risk_prob"], 4),
                    qualitativeRisk=_concept(_own(above)) if above else None,
                    rationale=f"Score rests on: {', '.join(row.get('modalities') or ())}",
                )
            ],
            note=[{"text": DISCLAIMER}],
        )

    def _inputs(self) -> list[dict[str, Any]]:
        """What was known of the patient, under the LOINC codes of the record schema."""
        found = [s for s in self.row.get("shap") or () if s["feature"] in _INPUT and s["value"] is not None]
        out = []
        for s in found:
            f = _INPUT[s["feature"]]
            value: dict[str, Any] = {"valueQuantity": _quantity(s["value"], f.unit)}
            if f.name == "sex_male":
                sex = ("male", "Male") if s["value"] >= 0.5 else ("female", "Female")
                value = {"valueCodeableConcept": _concept(("http://hl7.org/fhir/administrative-gender", *sex))}
            elif f.kind == "binary":
                value = {"valueBoolean": s["value"] >= 0.5}
            origin = self.row.get({"age_y": "age_from", "sex_male": "sex_from"}.get(f.name, ""))
            out.append(
                _drop(
                    resourceType="Observation",
                    id=f"in-{f.name.replace('_', '-')}",
                    status="unknown",  # the record does not say
                    code=_concept((LOINC, f.loinc, f.label)),
                    subject=self.subject,
                    note=[{"text": f"from the {_ORIGIN[origin]}"}] if origin in _ORIGIN else None,
                )
                | value
            )
        return out

    def _device(self) -> dict[str, Any]:
        row = self.row
        name = str(row.get("model_name") or "osteo-ray")
        versions = [("model", row.get("model_version")), ("software", __version__)]
        return _drop(
            resourceType="Device",
            id=self._id("device"),
            identifier=[{"system": f"{c.FHIR_SYSTEM}.3", "value": row["model_sha256"]}]
            if row.get("model_sha256")
            else None,
            status="active",
            manufacturer="osteo-ray",
            deviceName=[{"name": name, "type": "model-name"}],
            type=_concept(_own(("ALGORITHM", "Screening algorithm, research use only"))),
            version=[{"type": {"text": k}, "value": str(v)} for k, v in versions if v],
            note=[{"text": DISCLAIMER}],
        )


def _own(code: tuple[str, str]) -> tuple[str, str, str]:
    return c.FHIR_SYSTEM, *code


def _concept(code: tuple[str, str, str], words: str | None = None) -> dict[str, Any]:
    system, value, display = code
    clean = "-".join(str(value).split()) or "unknown"  # a FHIR code holds no stray space
    return _drop(
        coding=[{"system": system, "code": clean, "display": display or clean}], text=(words or "").strip() or None
    )


def _quantity(value: float, unit: str) -> dict[str, Any]:
    return {"value": _decimal(value, 6), "unit": unit, "system": UCUM, "code": unit}


def _hounsfield(hu: float) -> dict[str, Any]:
    return {"value": _decimal(hu, 1), "unit": "HU", "system": UCUM, "code": c.HOUNSFIELD[0]}


def _decimal(value: float, digits: int) -> Decimal:
    return Decimal(str(round(float(value), digits)))


def _drop(**fields: Any) -> dict[str, Any]:
    """Fields that say something: FHIR has no null and no empty list."""
    return {k: v for k, v in fields.items() if v is not None}
