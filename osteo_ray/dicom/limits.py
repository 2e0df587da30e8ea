"""Bounds on what one DICOM file may cost (typed config)."""

from __future__ import annotations

from pydantic import Field

from osteo_ray.config import Section


class Limits(Section):
    """Bounds on what one file may cost; beyond them the file ends with a code."""

    header_read_bytes: int = Field(16384, ge=1024, description="first read of a file; most headers fit")
    max_header_bytes: int = Field(8 << 20, ge=16384, description="a header longer than this is HEADER_TOO_LARGE")
    max_elements: int = Field(50_000, ge=100, description="elements read in one header")
    max_depth: int = Field(24, ge=1, le=200, description="nesting of sequences")
    max_frames: int = Field(20_000, ge=1, description="frames of one multi-frame object; more end the file with a code")
    max_side: int = Field(8192, ge=1, description="rows or columns; more is VOXEL_CAP before any allocation")
    max_instance_bytes: int = Field(2 << 30, ge=1, description="uncompressed size of one instance")
    decode_memory_mb: int = Field(1024, ge=128, description="what a guarded decoder may allocate")
    decode_timeout_s: float = Field(20.0, gt=0, description="wall time of one frame in a guarded decoder")
    max_members: int = Field(2_000_000, ge=1, description="members of one zip or tar")
