"""DICOM SR: one result as a Comprehensive 3D SR, TID 1500 "Measurement Report".

    write_sr("a.sr.dcm", row, read_source(catalogue_row, row), created=datetime.now())

A series that was not scored has a report too, which says why and holds no number. Checks are coded evaluations; what
has no code (messages, the research-use statement) is a comment. highdicom builds and checks the tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import (
    AlgorithmIdentification,
    CodedConcept,
    Comprehensive3DSR,
    DeviceObserverIdentifyingAttributes,
    FindingSite,
    Measurement,
    MeasurementReport,
    MeasurementsAndQualitativeEvaluations,
    ObservationContext,
    ObserverContext,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    TextContentItem,
    TrackingIdentifier,
)
from pydicom import Dataset
from pydicom.sr.codedict import codes

from osteo_ray import __version__
from osteo_ray.outcomes import State
from osteo_ray.reports import codes as c
from osteo_ray.reports.checks_view import check, reason, verdict_of
from osteo_ray.reports.language import DISCLAIMER, words_in
from osteo_ray.reports.source import Source, derived_uid, unique
from osteo_ray.reports.study_view import origin

SERIES_NUMBER = 9001
MANUFACTURER = "osteo-ray"
REPLACES = "This report replaces an earlier one: the study, or the patient's record, has changed since."
LONG = 64  # of a Long String, and of a code's meaning


def build_sr(
    row: Mapping[str, Any], source: Source, created: datetime, earlier: Dataset | None = None
) -> Comprehensive3DSR:
    """The SR document of one result row; deterministic but for `created`, which becomes its content time.

    Args:
        earlier: study, series, SOP instance and SOP class UID of the SR that this one replaces.
    """
    created = source.local(created)
    evidence = unique(source.evidence)
    document = Comprehensive3DSR(
        evidence=evidence,
        content=MeasurementReport(
            observation_context=_observer(row),
            procedure_reported=[CodedConcept(*code) for code in source.procedures] or CodedConcept(*_ln(c.CT_STUDY)),
            imaging_measurements=[_group(row, source, earlier is not None), *_level_groups(row, source)],
            title=codes.DCM.ImagingMeasurementReport,
        )[0],
        performed_procedure_codes=[CodedConcept(*code) for code in source.procedures] or None,
        series_instance_uid=source.uid("sr series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=source.uid("sr"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=one_line(row.get("model_name"), LONG) or MANUFACTURER,
        software_versions=__version__,
        series_description="Bone screening, research use only",
        device_serial_number=one_line(row.get("model_sha256"), LONG) or "none",
        is_complete=True,
        is_final=False,
        is_verified=False,
        content_date=created.date(),
        content_time=created.time().replace(microsecond=0),
        specific_character_set="ISO_IR 192",
        previous_versions=None if earlier is None else [earlier],
        coding_schemes=_schemes(),
    )
    stamp(document, created)
    return document


def _schemes() -> list[CodingSchemeIdentificationItem]:
    """The coding schemes of the document, each with its UID."""
    own = CodingSchemeIdentificationItem(c.SCHEME, name=c.SCHEME_NAME, responsible_organization=MANUFACTURER)
    own.CodingSchemeUID = c.SCHEME_UID  # highdicom writes UIDs of registered schemes alone
    standard = [
        CodingSchemeIdentificationItem(scheme, name=name, registry="HL7", uid=uid)
        for scheme, (uid, name) in c.STANDARD_SCHEMES.items()
    ]
    return [own, *standard]


def write_sr(
    path: str | Path, row: Mapping[str, Any], source: Source, created: datetime, earlier: Dataset | None = None
) -> Path:
    """Write `build_sr(...)` as a DICOM file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    build_sr(row, source, created, earlier).save_as(path, enforce_file_format=True)
    return path


def stamp(document: Any, created: datetime) -> None:
    """Set the creation time that highdicom takes from the clock, so that the same call gives the same bytes, and the
    zone of all its times."""
    if created.tzinfo is not None:
        document.TimezoneOffsetFromUTC = f"{created:%z}"
    document.InstanceCreationDate = created.date()
    document.InstanceCreationTime = created.time().replace(microsecond=0)
    for item in document.get("ContributingEquipmentSequence") or ():
        item.ContributionDateTime = created.replace(microsecond=0)


def _observer(row: Mapping[str, Any]) -> ObservationContext:
    device = DeviceObserverIdentifyingAttributes(
        uid=derived_uid("device", str(row.get("model_sha256"))),
        name=MANUFACTURER,
        manufacturer_name=MANUFACTURER,
        model_name=one_line(row.get("model_name")) or None,
        serial_number=one_line(row.get("model_sha256")) or None,
    )
    return ObservationContext(ObserverContext(codes.DCM.Device, device))


def _group(row: Mapping[str, Any], source: Source, replaces: bool) -> MeasurementsAndQualitativeEvaluations:
    state = State(row["state"])
    spine = FindingSite(anatomic_location=CodedConcept(c.LUMBAR_SPINE[0], "SCT", c.LUMBAR_SPINE[1]))
    evaluations = [
        _says(c.OUTCOME, (c.short(state.value), c.OUTCOMES[state])),
        _says(c.REASON, (c.short(one_line(row["code"])), one_line(row["code"], LONG))),
    ]
    if c.is_scored(row) and row.get("risk_class") in c.CLASSES:
        evaluations.append(_says(c.CLASS, c.CLASSES[row["risk_class"]]))
    for gate in row.get("gates") or ():
        shown = check(gate, words_in())
        verdict = c.VERDICTS.get(verdict_of(gate)) or (
            c.short(one_line(gate["verdict"])),
            one_line(gate["verdict"], LONG),
        )
        evaluations.append(
            _says(
                (c.short(one_line(gate["gate"])), one_line(f"Quality check: {shown.name}", LONG)),
                verdict,
            )
        )
    pictures = [
        SourceImageForMeasurementGroup(e.SOPClassUID, e.SOPInstanceUID, None if f is None else [f])
        for e, f in zip(source.evidence, source.frames, strict=True)
    ]
    group = MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(uid=source.uid("tracking"), identifier="osteo-ray result"),
        finding_sites=[spine],
        method=CodedConcept(c.SCREENING[0], c.SCHEME, c.SCREENING[1]),
        algorithm_id=_algorithm(row),
        measurements=_measurements(row),
        qualitative_evaluations=evaluations,
        source_images=pictures,
    )
    for text in [*comments(row), *([REPLACES] if replaces else [])]:
        item = TextContentItem(
            name=codes.DCM.Comment,
            value=text,
            relationship_type=RelationshipTypeValues.CONTAINS,
        )
        group[0].ContentSequence.append(item)
    return group


def _level_groups(row: Mapping[str, Any], source: Source) -> list[MeasurementsAndQualitativeEvaluations]:
    """Trabecular HU by vertebra, each with its finding site; none for a row without a score."""
    if not c.is_scored(row):
        return []
    mean = CodedConcept("373098007", "SCT", "Mean")
    out = []
    for v in row.get("hu_by_level") or ():
        found = [(CodedConcept(c.ATTENUATION[0], "DCM", c.ATTENUATION[1]), v["hu"])]
        if v.get("hu_120_kvp") is not None:
            found.append((CodedConcept(c.HU_120_KVP[0], c.SCHEME, c.HU_120_KVP[1]), v["hu_120_kvp"]))
        code, meaning = c.vertebra(v["level"])
        out.append(
            MeasurementsAndQualitativeEvaluations(
                tracking_identifier=TrackingIdentifier(
                    uid=source.uid(f"tracking {v['level']}"), identifier=f"osteo-ray trabecular HU {v['level']}"
                ),
                finding_sites=[FindingSite(anatomic_location=CodedConcept(code, "SCT", meaning))],
                method=CodedConcept(c.SCREENING[0], c.SCHEME, c.SCREENING[1]),
                measurements=[
                    Measurement(name, round(float(hu), 1), codes.UCUM.HounsfieldUnit, derivation=mean)
                    for name, hu in found
                ],
            )
        )
    return out


def comments(row: Mapping[str, Any]) -> list[str]:
    """What the report says in words: the research-use statement first."""
    out = [DISCLAIMER]
    if why := ": ".join(t for t in reason(row, words_in()) if t):
        out.append(why)
    if known := demographics(row):
        out.append(known)
    if c.is_scored(row):
        out.append(f"Operating point: {row.get('operating_point')}")
        out.append("Score rests on: " + ", ".join(row.get("modalities") or ()))
    fired = [g for g in row.get("gates") or () if g["verdict"] != "pass"]
    english = words_in()
    shown = (check(g, english) for g in fired)
    out += [f"{s.name}: found {s.found}; allowed {s.allowed} ({s.code})" for s in shown]
    return [one_line(text) for text in out]


def demographics(row: Mapping[str, Any]) -> str:
    """Age and sex that the score rests on, and where they come from, in a sentence; "" where neither is known."""
    known = [f"age {row['age_y']:.0f} y{origin(row, 'age_from')}"] if row.get("age_y") is not None else []
    known += [f"sex {row['sex']}{origin(row, 'sex_from')}"] if row.get("sex") else []
    return "Patient as scored: " + ", ".join(known) if known else ""


def _measurements(row: Mapping[str, Any]) -> list[Measurement] | None:
    if not c.is_scored(row):
        return None
    found = ((c.RISK, "risk_prob"), (c.RISK_LOW, "risk_low"), (c.RISK_HIGH, "risk_high"), (c.THRESHOLD, "threshold"))
    return [
        Measurement(CodedConcept(name[0], c.SCHEME, name[1]), round(float(row[column]), 6), codes.UCUM.NoUnits)
        for name, column in found
        if row.get(column) is not None
    ]


def _algorithm(row: Mapping[str, Any]) -> AlgorithmIdentification:
    parameters = {
        "model_sha256": row.get("model_sha256"),
        "calibrator": row.get("calibrator"),
        "row_key": row.get("row_key"),
        "osteo-ray": __version__,
    }
    return AlgorithmIdentification(
        name=one_line(row.get("model_name")) or "none: the series was closed before a model saw it",
        version=one_line(row.get("model_version")) or "none",
        parameters=[f"{k}={v}" for k, v in parameters.items() if v],
        family=codes.DCM.ArtificialIntelligence,
    )


def _says(name: tuple[str, str], value: tuple[str, str]) -> QualitativeEvaluation:
    return QualitativeEvaluation(CodedConcept(name[0], c.SCHEME, name[1]), CodedConcept(value[0], c.SCHEME, value[1]))


def _ln(code: tuple[str, str]) -> tuple[str, str, str]:
    return code[0], "LN", code[1]


def one_line(value: object, most: int | None = None) -> str:
    """Text as DICOM takes it: one line, no control characters, no backslash, at most so many bytes of UTF-8.

    The standard counts characters; validators and old systems count bytes, so both are kept.
    """
    words = "" if value is None else str(value)
    clean = "".join(" " if ch == "\\" or not ch.isprintable() else ch for ch in words).strip()
    return clean if most is None else clean.encode()[:most].decode(errors="ignore").strip()
