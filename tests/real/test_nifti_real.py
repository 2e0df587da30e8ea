"""Published NIfTI volumes: CT opens and equals nibabel's voxels, label maps are refused."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pyarrow as pa
import pytest

from osteo_ray.catalogue.build import assemble_table
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import index_entries
from osteo_ray.catalogue.instances import INSTANCE
from osteo_ray.dicom.sources import roots
from osteo_ray.dicom.stack import SliceStack

pytestmark = pytest.mark.real


def indexed(path: Path):
    found = [x for s in roots(str(path)) for x in index_entries(s.list(), IndexConfig())]
    series, _ = assemble_table(pa.Table.from_pylist([r for ok, r in found if ok], schema=INSTANCE), IndexConfig())
    return series.to_pylist(), [r for ok, r in found if not ok]


def test_every_volume_opens_as_nibabel_sees_it_and_label_maps_do_not(real_data):
    opened = refused = 0
    for path in sorted((real_data / "ct").glob("*.nii.gz")):
        series, files = indexed(path)
        if "label" in path.name or "vertebra_" in path.name:
            assert ([f["code"] for f in files], series) == (["NOT_HU"], [])
            refused += 1
            continue
        (row,) = series
        assert (row["code"], files) == (None, [])
        img = nib.Nifti1Image.from_filename(path)
        lps = img.as_reoriented(
            nib.orientations.ornt_transform(nib.io_orientation(img.affine), [[0, -1], [1, -1], [2, 1]])
        )
        want = np.asanyarray(lps.dataobj).transpose(2, 1, 0).astype(np.float32)
        with SliceStack.from_row(row) as stack:
            assert stack.n == want.shape[0]
            for i in range(0, stack.n, 40):
                assert np.array_equal(stack.axial(i), want[i])
            z = (lps.affine @ np.array([0, 0, stack.n - 1, 1.0]))[2]
            assert stack.z_mm[-1] == pytest.approx(z, abs=1e-3)
        opened += 1
    assert opened >= 4
    assert refused >= 3
