"""Why series of a catalogue go on to screening or not: all of them grouped by code, or everything known about one."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow.compute as pc

from osteo_ray.io.parquet_set import open_set
from osteo_ray.io.uris import join
from osteo_ray.outcomes import InputError

WIDTH = 160  # of an example's message
_REASON = ("state", "code", "series_uid", "split", "message")
_LEFT_OUT = ("instances", "gates", "orientation")  # shown in a form of their own


def reasons(out: str) -> list[str]:
    """Excluded and quarantined series of the catalogue in folder `out`, grouped by code, with one example each."""
    batches = open_set(join(out, "catalogue.parquet")).batches(_REASON)
    return grouped(r for b in batches for r in b.to_pylist() if r["state"] is not None)


def grouped(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lines of `reasons`: the commonest code first, its example the series with the lowest UID."""
    count: Counter[str] = Counter()
    example: dict[str, Mapping[str, Any]] = {}
    for r in rows:
        end = f"{r['state']} {r['code']}"
        count[end] += 1
        if end not in example or _place(r) < _place(example[end]):
            example[end] = r
    if not count:
        return []
    lines = ["why series are not screened, with one example each:"]
    for end, n in sorted(count.items(), key=lambda x: (-x[1], x[0])):
        r = example[end]
        message = textwrap.shorten(r["message"] or "", WIDTH, placeholder=" ...")
        split = f" ({r['split']})" if r["split"] else ""
        lines.append(f"  {n:7d}  {end}: e.g. {r['series_uid']}{split}: {message}")
    return lines


def _place(r: Mapping[str, Any]) -> tuple[str, str]:
    return r["series_uid"], r["split"] or ""


def one_series(out: str, series_uid: str) -> list[str]:
    """Everything that the catalogue in folder `out` knows of a series: each of its parts, checks and files.

    Raises:
        InputError: no series of that UID in the catalogue.
    """
    uri = join(out, "catalogue.parquet")
    rows = open_set(uri).read(filters=pc.field("series_uid") == series_uid).to_pylist()
    if not rows:
        raise InputError(f"{uri} has no series {series_uid}; its UIDs stand in the column series_uid")
    return [line for r in rows for line in described(r)]


def described(r: Mapping[str, Any]) -> list[str]:
    """Lines on one catalogue row."""
    end = "goes on to screening" if r["state"] is None else f"{r['state']} {r['code']} (stage {r['stage']})"
    lines = [f"series {r['series_uid']}{': ' + r['split'] if r['split'] else ''}", f"  {end}"]
    known = {k: v for k, v in r.items() if k not in (*_LEFT_OUT, "series_uid", "split", "state", "code", "stage")}
    lines += [f"  {k:24s} {_text(v)}" for k, v in known.items() if v is not None]
    silent = [k for k, v in known.items() if v is None]
    if silent:
        lines.append(f"  {'not known':24s} {', '.join(silent)}")
    for g in r["gates"] or ():
        lines.append(f"  {g['verdict']:5s} {g['gate']:20s} {g['value']} (wanted: {g['threshold']})")
    items = r["instances"] or []
    if items:
        lines.append(f"  {len(items)} images, first {items[0]['uri']}, last {items[-1]['uri']}")
    return lines


def _text(v: Any) -> str:
    return f"{v:g}" if isinstance(v, float) else str(v)
