"""Series assembly: header rows -> catalogue rows, by geometry, not by tags that lie. Pure.

    rows, files = assemble(header_rows_of_one_series, cfg, same_pixels)

Grouping and duplicates; what becomes of each volume is in volume.py, the choice between the series of a study in
choice.py. Every header row ends in exactly one place: a catalogue row's instances, or `files`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import numpy as np

from osteo_ray.catalogue import checks as g
from osteo_ray.catalogue.acquisitions import by_acquisition, frames_of_reference_apart, interleaved, speaks_for_scans
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.people import differ, people, person_of, stated_person
from osteo_ray.catalogue.volume import Row, collisions, end, positions, row_of, unusable, volume_rows
from osteo_ray.outcomes import Phase, State

SamePixels = Callable[[Row, Row], bool]


def assemble(rows: Iterable[Row], cfg: IndexConfig, same_pixels: SamePixels) -> tuple[list[Row], list[Row]]:
    """Rows of one (study, series) -> (catalogue rows, rows of files.parquet). Invariant to the order of `rows`.

    Patients are never mixed: where several stand under one series UID each has rows of its own. `same_pixels(a, b)` is
    asked only for two images with one SOP instance UID, or at one position.
    """
    rows = sorted(rows, key=lambda r: (r["sop_uid"], r["frame"], r["uri"]))
    numbers: dict[str | None, list[Row]] = defaultdict(list)
    for r in rows:
        numbers[r["patient_key"]].append(r)
    _give_number(numbers)
    patients: list[tuple[bool, list[Row]]] = []  # whether the number is another person's, too
    for key in sorted(numbers, key=str):
        found = people(numbers[key], person_of, by_name=key is None)
        patients += [(key is not None and len(found) > 1, members) for members in found]
    held = Counter(uid for _, members in patients for uid in {r["sop_uid"] for r in members})
    shared = sorted(uid for uid, n in held.items() if n > 1)
    out: list[Row] = []
    files: list[Row] = []
    for i, (contradicted, members) in enumerate(patients, 1):
        label = f"patient {i} of {len(patients)}" if len(patients) > 1 else ""
        if shared or contradicted:
            row = row_of(members, cfg)
            row["split"] = label
            message = (
                f"the same image under several patients: SOP instance {shared[0]}"
                if shared
                else "one series and one patient number, but several people by birth date, sex or age: whose it is is "
                "not known"
            )
            end(row, State.QUARANTINED, "PATIENT_CLASH", Phase.ASSEMBLE, message)
            out.append(row)
            continue
        got, left = _assemble_one(members, cfg, same_pixels, label)
        out += got
        files += left
    return out, files


def _give_number(numbers: dict[str | None, list[Row]]) -> None:
    """Put images of a series that lack the patient's number beside those that have one, where name and birth date are
    stated, and the same (in place): exports leave it out of some. Of two numbers neither is theirs."""
    if None not in numbers or len(numbers) != 2:
        return
    (key,) = (k for k in numbers if k is not None)
    known = stated_person(numbers[key])
    if known.name is None or known.birth is None:
        return
    rest: list[Row] = []
    for r in numbers.pop(None):
        own = person_of(r)
        theirs = (own.name, own.birth) == (known.name, known.birth) and not differ(own, known, by_name=True)
        (numbers[key] if theirs else rest).append(r)
    if rest:
        numbers[None] = rest


def _assemble_one(
    rows: list[Row], cfg: IndexConfig, same_pixels: SamePixels, label: str
) -> tuple[list[Row], list[Row]]:
    """The rows of one patient's series."""
    kept, files, clash = _duplicates(rows, same_pixels)
    out: list[Row] = []
    if clash:
        row = row_of(kept, cfg)
        row["split"] = label or None
        end(row, State.QUARANTINED, "SOP_UID_CLASH", Phase.ASSEMBLE, f"one SOP instance UID, different pixels: {clash}")
        return [row], files
    groups = _groups(kept, cfg)
    for name, members in groups:
        for sub, part in _volumes(members, cfg):
            part, copies = _without_copies(part, cfg, same_pixels)
            # of images that were there twice those that are kept have the numbers of either
            scans = [("", part)] if copies else _scans(part, cfg)
            for scan, scanned in scans:
                split = ", ".join(x for x in (label, name if len(groups) > 1 else "", sub, scan) if x)
                out.extend(volume_rows(scanned, cfg, split or None, len(copies)))
            used = {r["uri"] for r in part}
            for r in copies:
                if r["uri"] not in used:
                    used.add(r["uri"])
                    message = f"a copy, by position and pixels, of another image of series {r['series_uid']}"
                    files.append(_file(r, State.EXCLUDED, "DUPLICATE_SLICE", message))
    return out, files


def _duplicates(rows: list[Row], same_pixels: SamePixels) -> tuple[list[Row], list[Row], str | None]:
    by_uid: dict[tuple[str, int], Row] = {}
    kept, files, clash = [], [], None
    for r in rows:
        first = by_uid.setdefault((r["sop_uid"], r["frame"]), r)
        if first is r:
            kept.append(r)
        elif r["modality"] != "CT" or same_pixels(first, r):
            if r["frame"] == 0:
                files.append(_file(r, State.EXCLUDED, "DUPLICATE_INSTANCE", f"the same SOP instance as {first['uri']}"))
        else:
            clash = r["sop_uid"]
            kept.append(r)
    return kept, files, clash


_GIVE_UP = 8  # pairs at one position that all differ: these are no copies, and no more pixels are read


def _without_copies(rows: list[Row], cfg: IndexConfig, same_pixels: SamePixels) -> tuple[list[Row], list[Row]]:
    """(images, copies): a copy shares position and pixels with an image that is kept."""
    got = positions(rows) if rows[0]["modality"] == "CT" else None
    tolerance = cfg.geometry.same_position_mm
    if got is None or unusable(rows, cfg) or not collisions(got[1], tolerance):
        return rows, []
    z = got[1]
    order = sorted(range(len(rows)), key=lambda i: (z[i], rows[i]["sop_uid"], rows[i]["frame"]))
    kept: list[dict[str, Any]] = []
    copies: list[dict[str, Any]] = []
    differ = 0
    at: list[int] = []  # kept images of the position in hand
    for i in order:
        if at and z[i] - z[at[0]] > tolerance:
            at = []
        if at and (copies or differ < _GIVE_UP):
            if any(same_pixels(rows[j], rows[i]) for j in at):
                copies.append(rows[i])
                continue
            differ += 1
        at.append(i)
        kept.append(rows[i])
    return kept, copies


def _file(r: Row, state: State, code: str, message: str) -> Row:
    return {
        "uri": r["uri"],
        "state": str(state),
        "code": code,
        "stage": str(Phase.ASSEMBLE),
        "message": message,
        "bytes": r["bytes"],
    }


def _groups(rows: list[Row], cfg: IndexConfig) -> list[tuple[str, list[Row]]]:
    """Split what can't be one volume: exact on tags, within tolerance on orientation and pixel spacing."""
    exact: dict[tuple, list[Row]] = defaultdict(list)
    frames = frames_of_reference_apart([r for r in rows if r["modality"] == "CT"], cfg.geometry.min_slices)
    for r in rows:
        if r["modality"] != "CT":
            exact[(r["modality"],)].append(r)
            continue
        kind = g.no_volume_kind(r["image_type"], r["sop_class"]) or image_kind(r["image_type"])
        exact[
            (
                "CT",
                kind,
                r["frame_of_reference_uid"] if frames else None,
                r["rows"],
                r["cols"],
                r["sop_class"],
                r["signed"],
                r["special"],
            )
        ].append(r)
    names = ("modality", "type", "frame of reference", "rows", "cols", "class", "signed", "reconstruction")
    varying = [i for i in range(len(names)) if len({k[i] if i < len(k) else None for k in exact}) > 1]
    out: list[tuple[str, list[Row]]] = []
    for key in sorted(exact, key=str):
        label = ", ".join(f"{names[i]} {key[i]}" for i in varying if i < len(key))
        clusters: list[tuple[np.ndarray | None, list[Row]]] = []
        for r in exact[key]:
            if (
                clusters
                and r["iop"] == clusters[-1][1][0]["iop"]
                and r["pixel_spacing"] == clusters[-1][1][0]["pixel_spacing"]
            ):
                clusters[-1][1].append(r)
                continue
            v = None if not r["iop"] or not r["pixel_spacing"] else np.array([*r["iop"], *r["pixel_spacing"]])
            for ref, members in clusters:
                same = ref is v if ref is None or v is None else _close(ref, v, cfg.geometry.iop_tolerance)
                if same:
                    members.append(r)
                    break
            else:
                clusters.append((v, [r]))
        for i, (_, members) in enumerate(clusters):
            part = f"orientation {i + 1} of {len(clusters)}" if len(clusters) > 1 else ""
            out.append((", ".join(x for x in (label, part) if x), members))
    return out


def _close(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    return bool(np.all(np.abs(a - b) <= tolerance))


@cache
def image_kind(image_type: str | None) -> str:
    """ORIGINAL AXIAL, DERIVED, ...: the parts of ImageType that separate scans from what was made of them."""
    v = [x.strip().upper() for x in (image_type or "").split("\\")]
    kind = "DERIVED" if v[0] == "DERIVED" else "ORIGINAL"
    made = any(x.startswith(("REFORMAT", "MPR", "PROJECTION", "RESAMPL")) or "MPR" in re.split(r"\W|_", x) for x in v)
    return f"{kind} REFORMATTED" if made else kind


def _volumes(rows: list[Row], cfg: IndexConfig) -> list[tuple[str, list[Row]]]:
    """Split what overlaps in z by what makes it different acquisitions or reconstructions; else leave it whole."""
    got = positions(rows) if rows[0]["modality"] == "CT" else None
    if got is None:
        return [("", rows)]
    parts = by_acquisition(rows, got[1], cfg.geometry.same_position_mm)
    return [(name, [rows[i] for i in members]) for name, members in parts]


def _scans(rows: list[Row], cfg: IndexConfig) -> list[tuple[str, list[Row]]]:
    """Split scans whose slices interleave, where their numbering and one thing more tell them apart."""
    got = positions(rows) if rows[0]["modality"] == "CT" else None
    # Where two images share a position, which of them is wanted is not for the numbering to say: Q_DUP_SLICES.
    if got is None or unusable(rows, cfg) or collisions(got[1], cfg.geometry.same_position_mm):
        return [("", rows)]
    numbers = [r["instance_number"] for r in rows]
    if None in numbers:
        return [("", rows)]
    order = sorted(range(len(rows)), key=lambda i: (numbers[i], rows[i]["frame"], rows[i]["sop_uid"]))
    if len({(numbers[i], rows[i]["frame"]) for i in order}) < len(rows):
        return [("", rows)]
    z = got[1][order]
    parts = interleaved(z, cfg.geometry.min_slices)
    if not parts or not speaks_for_scans([rows[i] for i in order], z, parts):
        return [("", rows)]
    return [(f"scan {k} by numbering", [rows[order[i]] for i in part]) for k, part in enumerate(parts, 1)]
