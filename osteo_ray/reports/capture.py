"""Secondary capture: the report page as a DICOM image, for viewers that show no SR.

write_capture("a.sc.dcm", view, read_source(catalogue_row, row), created=datetime.now())
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from highdicom.sc import SCImage
from pydicom.uid import ExplicitVRLittleEndian
from pydicom.valuerep import DA, TM

from osteo_ray import __version__
from osteo_ray.reports.sheet import raster
from osteo_ray.reports.source import Source
from osteo_ray.reports.sr import LONG, MANUFACTURER, one_line, stamp
from osteo_ray.reports.study_view import StudyView
from osteo_ray.screening.config import IN_ENGLISH, ReportText

SERIES_NUMBER = 9002


def build_capture(view: StudyView, source: Source, created: datetime, text: ReportText = IN_ENGLISH) -> SCImage:
    """The page of one result row as an RGB image; the research-use statement is in the pixels, twice."""
    head, created = source.head, source.local(created)
    image = SCImage(
        pixel_array=raster(view, text),
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "F"),  # a page has none; the constructor asks for one, and it is removed below
        study_instance_uid=head.StudyInstanceUID,
        series_instance_uid=source.uid("sc series"),
        series_number=SERIES_NUMBER,
        sop_instance_uid=source.uid("sc"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=one_line(view.row.get("model_name"), LONG) or MANUFACTURER,
        software_versions=__version__,
        series_description="Bone screening, research use only",
        patient_id=head.PatientID,
        patient_name=head.PatientName,
        patient_birth_date=head.PatientBirthDate,
        patient_sex=head.PatientSex,
        accession_number=head.AccessionNumber,
        study_id=head.StudyID,
        study_date=head.StudyDate or None,
        study_time=head.StudyTime or None,
        referring_physician_name=head.ReferringPhysicianName,
        transfer_syntax_uid=ExplicitVRLittleEndian,
        content_date=created.date(),
        content_time=created.time().replace(microsecond=0),
        specific_character_set="ISO_IR 192",
    )
    image["PatientOrientation"].value = ""
    image.BodyPartExamined = "LSPINE"  # not a paired one, so that Laterality stays away
    image.BurnedInAnnotation = "NO"  # the page names a pseudonym, never a patient
    image.DateOfSecondaryCapture = DA(created.date())
    image.TimeOfSecondaryCapture = TM(created.time().replace(microsecond=0))
    for name in ("IssuerOfPatientID", "PatientIdentityRemoved", "DeidentificationMethod"):
        if name in head:
            setattr(image, name, head[name].value)
    stamp(image, created)
    return image


def write_capture(
    path: str | Path, view: StudyView, source: Source, created: datetime, text: ReportText = IN_ENGLISH
) -> Path:
    """Write `build_capture(...)` as a DICOM file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    build_capture(view, source, created, text).save_as(path, enforce_file_format=True)
    return path
