"""Header layouts seen before: neighbouring slices write the same elements at the same places.

A pass from element to element depends only on the elements' heads (tag, VR, length) and on two values (transfer
syntax, modality). Where all those bytes equal the ones of a header parsed before, the pass would go the same way, so
its places are taken over: the same result, by one masked comparison. On real series 97 of 100 headers match one of the
last few.
"""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING

from osteo_ray.dicom.tags import FRAME_GROUPS

if TYPE_CHECKING:
    from osteo_ray.dicom.limits import Limits
    from osteo_ray.dicom.tags import Header

KEPT = 8


class _Layout:
    def __init__(self, data: bytes, h: Header, spans: list[int], places: dict[str, tuple[int, int]], limits: Limits):
        self.limits = limits
        self.end = h.pixel_offset
        mask = bytearray(self.end)
        for a, b in [(128, 132), *zip(spans[::2], spans[1::2], strict=True)]:
            mask[a:b] = b"\xff" * (b - a)
        for name in ("transfer_syntax", "modality"):
            a, b = places[name]
            mask[a:b] = b"\xff" * (b - a)
        self.mask = int.from_bytes(mask, "little")
        self.expected = int.from_bytes(data[: self.end], "little") & self.mask
        self.places = list(places.items())
        self.header = copy(h)
        self.header.values = {}

    def read(self, data: bytes, total: int, limits: Limits) -> Header | None:
        end = self.end
        if limits is not self.limits or len(data) < end:
            return None
        if int.from_bytes(data[:end], "little") & self.mask != self.expected:
            return None
        h = copy(self.header)
        h.values = {name: data[a:b] for name, (a, b) in self.places}
        h.truncated = h.pixel_length >= 0 and end + h.pixel_length > total
        return h


class Layouts:
    """The last few layouts of this process, the most recent first."""

    def __init__(self) -> None:
        self._known: list[_Layout] = []

    def read(self, data: bytes, total: int, limits: Limits) -> Header | None:
        """The header, where its layout is known."""
        for i, layout in enumerate(tuple(self._known)):
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
            self._known = [_Layout(data, h, spans, places, limits), *self._known[: KEPT - 1]]
