"""Targets from the labelled real volume, beside what scipy says of the same masks."""

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from ct_making import ROOT, dataset, to_bytes
from scipy import ndimage

from osteo_ray.catalogue.build import build
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.config import load
from osteo_ray.training.targets import write_targets

pytestmark = [pytest.mark.real, pytest.mark.ray]
NAME = "totalseg_example_ct_"
LABELS = {31: "L1", 30: "L2", 29: "L3", 28: "L4"}
BAR_HU = 8.0


@pytest.fixture(scope="module")
def volume(real_data):
    """(HU, labels, bodies, spacing, affine): canonical arrays [x to the right, y to the front, z to the head]."""
    images = [
        nib.as_closest_canonical(nib.load(real_data / "ct" / f"{NAME}{n}.nii.gz"))
        for n in ("t11_to_femur_3mm", "vertebrae_labels", "vertebral_body_label")
    ]
    hu, labels, bodies = (np.rint(np.asanyarray(i.dataobj)).astype(int) for i in images)
    return hu, labels, bodies, images[0].header.get_zooms(), images[0].affine


@pytest.fixture(scope="module")
def catalogue(volume, ray_session, tmp_path_factory):
    """The CT as DICOM files, indexed."""
    hu, _, _, (dx, dy, dz), affine = volume
    root = tmp_path_factory.mktemp("labelled")
    (root / "ct").mkdir()
    far = affine[:3, :3] @ [hu.shape[0] - 1, hu.shape[1] - 1, 0] + affine[:3, 3]
    for i in range(hu.shape[2]):
        image = np.ascontiguousarray(hu[::-1, ::-1, i].T)
        ds = dataset(
            i, px=(np.clip(image, -1024, 3071) + 1024).astype(np.int16), SOPInstanceUID=f"{ROOT}.8.{i + 1}",
            ImagePositionPatient=[round(float(-far[0]), 4), round(float(-far[1]), 4), float(affine[2, 3] + i * dz)],
            PixelSpacing=[float(dy), float(dx)], SliceThickness=float(dz), BodyPartExamined="ABDOMEN",
        )  # fmt: skip
        (root / "ct" / f"{i:04d}.dcm").write_bytes(to_bytes(ds))
    build(root / "ct", root / "index", load(IndexConfig))
    return root / "index" / "catalogue.parquet"


@pytest.mark.parametrize("with_bodies", [True, False])
def test_core_hu_of_the_labelled_volume(real_data, volume, catalogue, tmp_path, with_bodies):
    hu, labels, bodies, (dx, dy, dz), _ = volume
    names = [f"{NAME}vertebrae_labels.nii.gz", *([f"{NAME}vertebral_body_label.nii.gz"] if with_bodies else [])]
    summary = write_targets(catalogue, [real_data / "ct" / n for n in names], tmp_path / "t.parquet", quiet=True)
    assert {r["code"] for r in summary.masks.to_pylist()} <= {None, "BODIES_ONLY"}
    table = pd.read_parquet(tmp_path / "t.parquet")
    for value, level in LABELS.items():
        core = ndimage.distance_transform_edt((labels == value) & (bodies == 1), sampling=(dx, dy, dz)) >= 5
        t = table[table["level"] == level]
        assert t["trabecular_hu"].mean() == pytest.approx(hu[core].mean(), abs=BAR_HU)
        middle = t.loc[t["mid"].idxmax(), "index"]
        centre = ndimage.center_of_mass((labels == value) & (bodies == 1))[2]
        assert abs(middle - centre) * dz <= 4
