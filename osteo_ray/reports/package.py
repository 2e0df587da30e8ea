"""All reports of one result in a folder of its own: page, JSON, SR, secondary capture, FHIR, PDF.

    package = write_package(Path("out"), row, catalogue_row, PackageConfig(), datetime.now(UTC))
    package.files, package.problems

Files appear whole or not at all. DICOM and FHIR objects that are there already are left as they are: the same result
has the same UIDs, and a second copy with another creation time would be another object under one UID.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from pydicom import Dataset, dcmread

from osteo_ray.config import narrow
from osteo_ray.io.files import replaced
from osteo_ray.outcomes import InputError
from osteo_ray.reports.background import NOTHING_LOOKED_AT, Background
from osteo_ray.reports.capture import write_capture
from osteo_ray.reports.config import PackageConfig
from osteo_ray.reports.fhir import build_fhir, write_fhir
from osteo_ray.reports.html import write_study
from osteo_ray.reports.result_json import write_result
from osteo_ray.reports.sheet import NO_FONT, printable, write_pdf
from osteo_ray.reports.source import Identity, Source, identity_of, read_source
from osteo_ray.reports.sr import write_sr
from osteo_ray.reports.views import study_view
from osteo_ray.screening.config import ReportText

FILES: dict[str, str] = {
    "html": "report.html",
    "json": "result.json",
    "sr": "sr.dcm",
    "sc": "sc.dcm",
    "fhir": "fhir.json",
    "pdf": "report.pdf",
}


@dataclass(frozen=True)
class Package:
    """What was written for one result. `problems`: why a format is missing."""

    folder: Path
    files: dict[str, Path]
    problems: tuple[str, ...] = ()
    identity: Identity | None = None  # with `identifiers`, where the source could be read


def write_package(
    out: Path,
    row: Mapping[str, Any],
    catalogue_row: Mapping[str, Any] | None,
    cfg: PackageConfig,
    created: datetime,
    earlier: Dataset | None = None,
    background: Background = NOTHING_LOOKED_AT,
) -> Package:
    """Write one result's reports below `out`; a format that can't be made is a problem, the others are written.

    Args:
        catalogue_row: the row's series, for pictures, evidence and identifiers; None: what needs it is left out.
        created: creation time, with a time zone.
        earlier: study, series, SOP instance and SOP class UID of an earlier SR of the study, which this one replaces.
        background: what else is known of the patient, for page and sheet.
    """
    if not row.get("row_key"):
        raise InputError("the result row has no row_key; its reports have no name")
    folder = out / f"{row['row_key']}{'-identified' if cfg.identifiers else ''}"
    folder.mkdir(parents=True, exist_ok=True)
    source: Source | None = None
    problems: list[str] = []
    if {"sr", "sc"} & set(cfg.formats) or cfg.identifiers:
        try:
            if catalogue_row is None:
                raise InputError(f"series {row.get('series_uid')} is not in the catalogue")
            source = read_source(catalogue_row, row, cfg.identifiers, character_set=cfg.character_set)
            if earlier is not None:
                source = source.after(str(earlier.SOPInstanceUID))
        except InputError as e:
            problems.append(f"no SR, no secondary capture{', no FHIR' if cfg.identifiers else ''}: {e}")
    view = study_view(row, catalogue_row, background)
    text = narrow(cfg, ReportText)
    files: dict[str, Path] = {}
    if {"pdf", "sc"} & set(cfg.formats) and printable(text) != text:
        problems.append(NO_FONT)
    for kind in cfg.formats:
        path = folder / FILES[kind]
        # Without its source a report can't carry identifiers, and must not carry others in their place.
        if source is None and (kind in ("sr", "sc") or (kind == "fhir" and cfg.identifiers)):
            continue
        if kind == "sr" and source is not None:
            if not _is(path, source.uid(kind)):
                _whole(path, partial(write_sr, row=row, source=source, created=created, earlier=earlier))
        elif kind == "sc" and source is not None:
            if not _is(path, source.uid(kind)):
                _whole(path, partial(write_capture, view=view, source=source, created=created, text=text))
        elif kind == "fhir":
            if not _is_bundle(path, build_fhir(row, source, created, cfg.fhir).id):
                _whole(path, partial(write_fhir, row=row, source=source, created=created, systems=cfg.fhir))
        elif kind == "html":
            page = partial(write_study, row=row, thumbnails=view.thumbnails, overview=view.overview, text=text)
            _whole(path, partial(page, background=background))
        elif kind == "pdf":
            _whole(path, partial(write_pdf, view=view, text=text))
        else:
            _whole(path, partial(write_result, row=row))
        files[kind] = path
    identity = identity_of(source.head) if cfg.identifiers and source is not None else None
    return Package(folder, files, tuple(problems), identity)


def _whole(path: Path, write: Callable[[Path], object]) -> None:
    with replaced(path) as tmp:
        write(tmp)


def _is(path: Path, sop_uid: str) -> bool:
    """Whether `path` is a whole DICOM file of this SOP instance."""
    try:
        return bool(dcmread(path).SOPInstanceUID == sop_uid)
    except Exception:  # absent, cut short, or anything else: it is written anew
        return False


def _is_bundle(path: Path, bundle_id: object) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["id"] == bundle_id)
    except (OSError, ValueError, KeyError, TypeError):
        return False
