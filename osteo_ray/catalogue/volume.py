"""One volume of a series -> its catalogue row: order, spacing, gaps, tilt, rescale and checks, in that order. Pure.

rows = volume_rows(images, cfg, split=None)      # two where a run of slices beside a gap is left out
"""

from __future__ import annotations

import hashlib
from collections import Counter
from itertools import chain
from math import isfinite
from operator import itemgetter
from typing import Any

import numpy as np

from osteo_ray.catalogue import checks as g
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.contrast import of_images
from osteo_ray.catalogue.people import STATED, Person
from osteo_ray.catalogue.pixel_meaning import OTHER_UNITS, PROJECTION, UNKNOWN_UNITS, explanation
from osteo_ray.catalogue.schema import CATALOGUE, INSTANCE_OF_SERIES
from osteo_ray.dicom.codecs import readable
from osteo_ray.dicom.geometry import alternating, describe, longest_run, normal, valid_iop
from osteo_ray.io.tables import Columns
from osteo_ray.outcomes import Phase, State

Row = dict[str, Any]

_INSTANCE_FIELDS = [f.name for f in INSTANCE_OF_SERIES]
_COPIED = [n for n in _INSTANCE_FIELDS if n not in ("z_mm", "position")]
_JUDGED = (
    "slope",
    "intercept",
    "samples",
    "photometric",
    "bits_allocated",
    "bits_stored",
    "high_bit",
    "transfer_syntax",
)
_SMALLEST_MM, _LARGEST_MM = 0.5, 1500.0  # of a picture's side; beyond, the unit is not mm


def positions(rows: Columns) -> tuple[np.ndarray, np.ndarray] | None:
    """([k, 3] positions, [k] z along the normal), or None where the geometry can't be used."""
    if None in rows.column("ipp") or None in rows.column("iop"):
        return None
    ipp = np.array(rows.column("ipp"), dtype=np.float64)
    iop = np.array(rows.first("iop"), dtype=np.float64)
    if not np.all(np.isfinite(ipp)) or not np.all(np.isfinite(iop)) or not np.linalg.norm(np.cross(iop[:3], iop[3:])):
        return None
    return ipp, ipp @ normal(iop)


def collisions(z: np.ndarray, tolerance: float) -> int:
    """How many slices lie at another's height, within a tolerance; both in mm."""
    return int(np.count_nonzero(np.diff(np.sort(z)) <= tolerance))


def volume_rows(rows: Columns, cfg: IndexConfig, split: str | None, copies: int = 0) -> list[Row]:
    """One group -> its catalogue row; two where a run of slices beside a gap is left out."""
    row = row_of(rows, cfg)
    row["split"], row["n_copies_dropped"] = split, copies
    first = rows[0]
    gates = [g.q_modality(first["modality"], cfg.gates, first["sop_class"])]
    row["gates"] = gates
    if gates[0].verdict == "fail":
        return [_close_row(row, cfg)]
    if what := next(filter(None, rows.column("not_a_patient")), None):
        end(row, State.EXCLUDED, "NOT_A_PATIENT", Phase.GATE, f"by its header no living patient was scanned: {what}")
        return [_close_row(row, cfg)]
    gates.append(g.q_localizer(first["image_type"], first["sop_class"], cfg.gates))
    if gates[-1].verdict == "fail":
        if row["special"] not in (None, OTHER_UNITS, UNKNOWN_UNITS, PROJECTION):  # says more than that it was derived
            end(row, State.EXCLUDED, "SPECIAL_RECON", Phase.GATE, explanation(row["special"], row["rescale_type"]))
        return [_close_row(row, cfg)]
    problem = unusable(rows, cfg)
    got = positions(rows)
    if problem or got is None:
        code, message, state = problem or (
            "NO_GEOMETRY",
            "an image without a finite position or orientation",
            State.QUARANTINED,
        )
        end(row, state, code, Phase.ASSEMBLE, message)
        return [_close_row(row, cfg)]
    ipp, z = got
    order = np.lexsort((np.array(rows.column("sop_uid")), z))
    return _measured(row, rows.take(order.tolist()), ipp[order], z[order], cfg)


def _measured(row: Row, rows: Columns, ipp: np.ndarray, z: np.ndarray, cfg: IndexConfig) -> list[Row]:
    geo, gates = cfg.geometry, row["gates"]
    n = normal(np.array(rows.first("iop")))
    _place(row, rows, z)
    distinct = np.concatenate([[True], np.diff(z) > geo.same_position_mm])
    row["n_duplicate_positions"] = int(np.count_nonzero(~distinct))
    gates.append(g.q_dup_slices(row["n_duplicate_positions"], cfg.gates))
    if np.count_nonzero(distinct) < geo.min_slices:
        end(
            row,
            State.EXCLUDED,
            "TOO_FEW_SLICES",
            Phase.ASSEMBLE,
            f"{np.count_nonzero(distinct)} positions, {geo.min_slices} are needed",
        )
        return [_close_row(row, cfg)]
    s = describe(ipp[distinct], z[distinct], n, geo.spacing_rel, geo.spacing_abs_mm)
    row.update(spacing_z_median_mm=s.spacing_mm, spacing_z_max_dev_mm=s.max_dev_mm, gantry_tilt_deg=s.tilt_deg)
    row["n_missing_slices"] = sum(k for _, k in s.gaps)
    if s.drift_mm > geo.drift_mm:
        end(row, State.QUARANTINED, "DRIFT", Phase.ASSEMBLE, f"positions leave a straight line by {s.drift_mm:.2f} mm")
    elif np.degrees(np.arccos(min(abs(n[2]), 1.0))) > geo.axial_max_deg:
        end(row, State.EXCLUDED, "NOT_AXIAL", Phase.ASSEMBLE, f"slice normal {np.round(n, 3).tolist()}")
    elif s.irregular and (steps := alternating(z[distinct], max(geo.spacing_rel * s.spacing_mm, geo.spacing_abs_mm))):
        message = f"slices of two scans interleave: spacing alternates between {steps[0]:.2f} and {steps[1]:.2f} mm"
        end(row, State.EXCLUDED, "IRREGULAR_SPACING", Phase.ASSEMBLE, message)
    elif s.irregular and geo.variable_spacing == "reject":
        end(
            row,
            State.EXCLUDED,
            "IRREGULAR_SPACING",
            Phase.ASSEMBLE,
            f"spacing off its median by up to {s.max_dev_mm:.2f} mm",
        )
    out = [row]
    hopeless = False
    if s.gaps and row["state"] is None and not row["n_duplicate_positions"]:
        a, b = longest_run(z, s.gaps)
        hopeless = z[b - 1] - z[a] + s.spacing_mm < cfg.choice.min_coverage_mm or b - a < geo.min_slices
        where = ", ".join(f"{k} missing after z {at:.1f} mm" for at, k in s.gaps[:5])
        row["message"] = where
        if not hopeless:
            outside, run = rows.take([*range(a), *range(b, len(z))]), rows.take(range(a, b))
            rest = row_of(outside, cfg)
            rest["split"] = ", ".join(x for x in (row["split"], "outside the longest run") if x)
            _place(rest, outside, np.concatenate([z[:a], z[b:]]))
            rest["gates"] = [gates[0]]
            end(rest, State.EXCLUDED, "Q_MISSING_SLICES", Phase.GATE, f"left out beside a gap: {where}")
            kept = row_of(run, cfg)
            _place(kept, run, z[a:b])
            for name in ("content_hash", "instances", "sop_count", "n_slices", "bytes", "z_min_mm", "z_max_mm"):
                row[name] = kept[name]
            out.append(_close_row(rest, cfg))
    gates.append(g.q_missing_slices(row["n_missing_slices"], cfg.gates, hopeless))
    gates.append(g.q_tilt(s.tilt_deg, cfg.gates))
    gates.append(
        g.q_thickness(row["slice_thickness_mm"], s.spacing_mm + (s.max_dev_mm if s.irregular else 0.0), cfg.gates)
    )
    gates.append(g.q_kernel_sharp(row["convolution_kernel"], cfg.gates))
    gates.append(g.q_kvp(row["kvp"], cfg.gates))
    gates.append(g.q_contrast(row["contrast"], cfg.gates))
    gates.append(g.q_contrast_unknown(row["contrast"], cfg.gates))
    gates.append(g.q_fov(row["field_of_view_mm"], cfg.gates))
    gates.append(g.q_age(row["age_y"], cfg.gates))
    gates.append(row["date_check"])
    gates.append(g.q_lossy(row["lossy"], cfg.gates))
    _close_row(row, cfg)
    return out


def unusable(rows: Columns, cfg: IndexConfig) -> tuple[str, str, State] | None:
    """(code, message, state) of the first thing that makes pixels or geometry unusable; None where all is well."""
    q = State.QUARANTINED
    seen = set()
    placed = None not in rows.column("ipp") and all(map(isfinite, chain.from_iterable(rows.column("ipp"))))
    for r in rows[:1] if placed and rows.is_one(*_JUDGED, "iop", "pixel_spacing") else rows:
        geometry = r["ipp"] is not None and r["iop"] is not None and all(map(isfinite, r["ipp"]))
        key = (geometry, *(r[k] for k in _JUDGED), *(r["iop"] or ()), *(r["pixel_spacing"] or ()))
        if key in seen:
            continue
        seen.add(key)
        if r["slope"] is None or r["intercept"] is None:
            return "NO_RESCALE", "CT without rescale slope and intercept: its HU are unknown", q
        if not np.isfinite(r["slope"]) or not np.isfinite(r["intercept"]) or r["slope"] == 0:
            return "BAD_RESCALE", f"rescale slope {r['slope']}, intercept {r['intercept']}", q
        if (r["samples"] or 1) != 1 or not (r["photometric"] or "MONOCHROME2").startswith("MONOCHROME"):
            return "NOT_GREY", f"{r['samples']} samples a pixel, {r['photometric']}", State.EXCLUDED
        if r["bits_allocated"] not in (8, 16, 32) or not 1 <= r["bits_stored"] <= r["bits_allocated"]:
            return "BAD_BITS", f"{r['bits_stored']} bits stored in {r['bits_allocated']}", q
        if r["high_bit"] is not None and not r["bits_stored"] - 1 <= r["high_bit"] < r["bits_allocated"]:
            return (
                "BAD_BITS",
                f"high bit {r['high_bit']} with {r['bits_stored']} bits stored in {r['bits_allocated']}",
                q,
            )
        ts = r["transfer_syntax"]
        if not readable(ts):
            return "NO_CODEC", f"transfer syntax {ts or 'missing'} can't be decoded here", q
        if not geometry:
            return "NO_GEOMETRY", "an image without a finite position and orientation", q
        if not valid_iop(np.array(r["iop"], dtype=float), cfg.geometry.iop_tolerance):
            return "BAD_ORIENTATION", f"image orientation {r['iop']} is not two unit vectors at right angles", q
        ps = r["pixel_spacing"]
        if ps is None or not all(np.isfinite(v) and v > 0 for v in ps):
            return "BAD_SPACING", f"pixel spacing {ps}", q
        sides = (r["rows"] * ps[0], r["cols"] * ps[1])
        if min(sides) < _SMALLEST_MM or max(sides) > _LARGEST_MM:
            return "BAD_SPACING", f"pixel spacing {ps}: a picture of {sides[0]:g} x {sides[1]:g} mm is no CT", q
    return None


def row_of(rows: Columns, cfg: IndexConfig) -> Row:
    """A catalogue row with what needs no geometry; everything else null."""
    first = rows[0]
    row: Row = dict.fromkeys(CATALOGUE.names)
    for name in (
        "study_uid",
        "series_uid",
        "modality",
        "frame_of_reference_uid",
        "rows",
        "cols",
        "image_type",
        "special",
        "rescale_type",
    ):
        row[name] = first[name]
    for name in (
        "patient_key",
        "site",
        "age_y",
        "sex",
        "study_date",
        "series_number",
        "body_part",
        "convolution_kernel",
    ):
        row[name] = _most(rows.counts(name))
    row["date_check"] = g.q_date(row["study_date"], _most(rows.counts("acquisition_date")), cfg.gates)
    if row["date_check"].verdict != "pass":
        row["study_date"] = None
    voltages = set(rows.counts("kvp")) - {None}
    row["kvp"] = voltages.pop() if len(voltages) == 1 else None  # stations of several: which one the spine had is open
    row["contrast"] = of_images(rows.counts("contrast"))
    for name in ("slice_thickness_mm", "manufacturer", "model", "transfer_syntax", "recon_diameter_mm"):
        row[name] = _most(rows.counts(name))
    ps = first["pixel_spacing"]
    sides = [] if not ps or not first["rows"] or not first["cols"] else [ps[0] * first["rows"], ps[1] * first["cols"]]
    circle = [row["recon_diameter_mm"]] if (row["recon_diameter_mm"] or 0) > 0 else []
    row["field_of_view_mm"] = min(sides + circle) if sides else None
    row.update(
        orientation=first["iop"],
        pixel_spacing_row_mm=ps[0] if ps else None,
        pixel_spacing_col_mm=ps[1] if ps else None,
        lossy=any(rows.counts("lossy")),
        bytes=sum(dict(zip(rows.column("uri"), rows.column("bytes"), strict=True)).values()),
        sop_count=len(set(rows.column("sop_uid"))),
        n_slices=len(rows),
        chosen=False,
        gates=[],
        content_hash=_content_hash(rows),
    )
    _place(row, rows, None)
    row["person"] = stated_person(rows)  # for the choice within a study; no column of the catalogue
    return row


def _place(row: Row, rows: Columns, z: np.ndarray | None) -> None:
    """Set the instances, in order of z."""
    heights = [None] * len(rows) if z is None else z.tolist()
    row["instances"] = rows.select(_COPIED, position=rows.column("ipp"), z_mm=heights)
    if z is not None and len(z):
        row["z_min_mm"], row["z_max_mm"] = float(z[0]), float(z[-1])


def stated_person(rows: Columns) -> Person:
    """What images state together of their person: of each fact the commonest that is stated."""
    return Person(*(_most(rows.counts(name)) for name in STATED))


def _most(count: Counter[Any]) -> Any:
    """The most frequent value that is there; ties by value, so that the order of files doesn't matter."""
    return min((v for v in count if v is not None), key=lambda v: (-count[v], str(v)), default=None)


def _content_hash(rows: Columns) -> str:
    """128 bits over what the files hold (UIDs, sizes, checksums of their beginnings); where they lie is left out."""
    found = zip(*(rows.column(n) for n in ("sop_uid", "frame", "bytes", "digest")), strict=True)
    text = "".join(f"{uid}|{frame}|{size}|{crc}\n" for uid, frame, size, crc in sorted(found, key=itemgetter(0, 1)))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def end(row: Row, state: State, code: str, stage: Phase, message: str) -> None:
    """Write into a catalogue row how it ends."""
    row.update(state=str(state), code=code, stage=str(stage), message=message)


def _close_row(row: Row, cfg: IndexConfig) -> Row:
    """Turn failed checks into the row's end, unless it has ended already, and the checks into rows."""
    gates = row["gates"]
    failed = [x for x in gates if x.verdict == "fail"]
    if row["state"] is None and failed:
        text = "; ".join(f"{x.gate} {x.value} (wanted {x.threshold})" for x in failed)
        extra = f"; {row['message']}" if row["message"] else ""
        end(row, State.EXCLUDED, failed[0].gate, Phase.GATE, text + extra)
    row["gates"] = [x.row() for x in gates]
    return row
