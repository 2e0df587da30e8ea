"""Header layouts seen before: neighbouring slices write the same elements at the same places, and most of them alike.

A pass from element to element depends only on the elements' heads (tag, VR, length) and on two values (transfer
syntax, modality). Where all those bytes equal the ones of a header parsed before, the pass would go the same way, so
its places are taken over: the same result, by one masked comparison. On real series 97 of 100 headers match one of the
last few.

Within a series most values are equal, too. Where all bytes are those of the series' last header, but for the values of
`OF_SLICE` and of elements that are not kept, every other value is the object that was cut out of that header, and both
headers have one `Common`: who derives something from such values needs to do it once a series.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from osteo_ray.dicom.tags import FRAME_GROUPS, Common, Header, name_digest

if TYPE_CHECKING:
    from osteo_ray.dicom.limits import Limits

KEPT = 8  # layouts of a process, and series of a layout
OF_SLICE = (
    *("sop_uid", "ipp", "instance_number", "acquisition_number"),
    *("acquisition_time", "acquisition_datetime"),
)
"""Kept values that differ from slice to slice of most series."""
_LARGEST = 1 << 16  # bytes of a header that is held
_LESSONS = 32  # times that a layout asks which values that are not kept differ: a few elements do, and always these


class _Series:
    """The last header of one series."""

    def __init__(self, layout: _Layout, data: bytes):
        self.data = data[: layout.end]
        self.fixed = [(a, b, data[a:b]) for a, b in layout.fixed]
        self.values = {name: data[a:b] for name, (a, b) in layout.places.items()}
        if "patient_name" in self.values:
            self.values["patient_name"] = name_digest(self.values["patient_name"])
        self.common = Common()
        self.state = layout.state | {"common": self.common}


class _Layout:
    def __init__(self, data: bytes, h: Header, spans: list[int], places: dict[str, tuple[int, int]], limits: Limits):
        self.limits = limits
        self.end = h.pixel_offset
        compared = [(128, 132), *zip(spans[::2], spans[1::2], strict=True)]
        compared += [places["transfer_syntax"], places["modality"]]
        mask = bytearray(self.end)
        for a, b in compared:
            mask[a:b] = b"\xff" * (b - a)
        self.mask = int.from_bytes(mask, "little")
        self.expected = int.from_bytes(data[: self.end], "little") & self.mask
        self.places = places
        self.of_slice = [(name, *places[name]) for name in OF_SLICE if name in places]
        self.not_kept = _between(compared, self.end) - set(places.values())
        self.free = {(a, b) for _, a, b in self.of_slice if a < b}
        self.lessons = 0
        self.fixed = self._fixed()
        self.series: dict[bytes, _Series] = {}
        self.state = vars(h) | {"values": {}}

    def _fixed(self) -> list[tuple[int, int]]:
        """All that lies between the free places."""
        return sorted(_between(self.free, self.end))

    def read(self, data: bytes, total: int, limits: Limits) -> Header | None:
        if limits is not self.limits or len(data) < self.end:
            return None
        known = self.series.get(self.uid(data))
        if known is not None:
            for a, b, expected in known.fixed:
                if data[a:b] != expected:
                    break
            else:
                return self._header(known, data, total)
        if int.from_bytes(data[: self.end], "little") & self.mask != self.expected:
            return None
        if known is not None and self.lessons < _LESSONS:
            self.lessons += 1
            self.free.update((a, b) for a, b in self.not_kept if data[a:b] != known.data[a:b])
            self.fixed = self._fixed()
        return self._header(self.add(data), data, total)

    def uid(self, data: bytes) -> bytes:
        """Of the series, where the header states it."""
        a, b = self.places.get("series_uid", (0, 0))
        return data[a:b]

    def add(self, data: bytes) -> _Series:
        """Let this be the last header of its series."""
        if self.end > _LARGEST:
            return _Series(self, data)
        uid = self.uid(data)
        self.series.pop(uid, None)
        if len(self.series) >= KEPT:
            del self.series[next(iter(self.series))]
        self.series[uid] = _Series(self, data)
        return self.series[uid]

    def _header(self, known: _Series, data: bytes, total: int) -> Header:
        h = Header.__new__(Header)  # a copy of what its series' last header was, in a fraction of copy()'s time
        h.__dict__.update(known.state)
        h.values = values = known.values.copy()
        for name, a, b in self.of_slice:
            values[name] = data[a:b]
        h.truncated = h.pixel_length >= 0 and self.end + h.pixel_length > total
        return h


def _between(places: Iterable[tuple[int, int]], end: int) -> set[tuple[int, int]]:
    """What lies before, between and after places, which may lie in each other, up to `end`."""
    out = set()
    at = 0
    for a, b in sorted(places):
        if at < a:
            out.add((at, a))
        at = max(at, b)
    return out | ({(at, end)} if at < end else set())


class Layouts:
    """The last few layouts of this process, the most recent first."""

    def __init__(self) -> None:
        self._known: list[_Layout] = []

    def read(self, data: bytes, total: int, limits: Limits) -> Header | None:
        """The header, where its layout is known; of the patient's name a digest."""
        for i, layout in enumerate(self._known):
            h = layout.read(data, total, limits)
            if h is not None:
                if i:
                    self._known = [layout, *(x for x in self._known if x is not layout)]
                return h
        return None

    def learn(
        self, data: bytes, h: Header, spans: list[int], places: dict[str, tuple[int, int]], limits: Limits
    ) -> None:
        """Keep the layout of a plain CT image that was parsed from its preamble to its pixels.

        Args:
            spans: start and end of every element's head, one after the other.
            places: start and end of every value that was kept.
        """
        frames = any(name in h.groups for name in FRAME_GROUPS)
        plain = h.has_pixels and h.pixel_offset > 0 and not frames and data[128:132] == b"DICM"
        if plain and "transfer_syntax" in places and h.text("modality") == "CT":
            layout = _Layout(data, h, spans, places, limits)
            h.common = layout.add(data).common
            self._known = [layout, *self._known[: KEPT - 1]]
