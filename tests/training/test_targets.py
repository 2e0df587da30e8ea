"""Masks in every form that is read -> slice targets; what is wrong with a mask is said, and nothing of it is used."""

import numpy as np
import pandas as pd
import pytest
from labelled_spine import (
    CORES,
    FIRST,
    HEIGHT,
    PITCH,
    SLICES,
    STEP,
    TOTAL,
    VERSE,
    numbered,
    spine,
    write_dicom,
    write_nifti,
    write_seg,
)

from osteo_ray.catalogue.build import build
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.cli import main
from osteo_ray.config import load
from osteo_ray.outcomes import InputError
from osteo_ray.training.slices import _read_targets
from osteo_ray.training.targets import TARGETS, write_targets

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def scanned(ray_session, tmp_path_factory):
    root = tmp_path_factory.mktemp("targets")
    s = spine()
    write_dicom(s, root / "archive" / "a")
    other = spine(1, uid=f"{s.uid}.7", frame=f"{s.frame}.7", patient="P-2", origin=(-70.0, -60.0, -500.0))
    write_dicom(other, root / "archive" / "b")
    build(root / "archive", root / "index", load(IndexConfig))
    return s, other, root / "index" / "catalogue.parquet"


def check(table: pd.DataFrame, uid: str) -> None:
    """The targets of the spine as it was made."""
    t = table[table["series_uid"] == uid].set_index("index")
    assert len(t) == SLICES
    z = np.arange(SLICES) * STEP
    for k, name in enumerate(("L4", "L3", "L2")):
        low = FIRST + k * PITCH
        middle = int(np.argmin(np.abs(z - low - HEIGHT / 2)))
        assert t.loc[middle, "level"] == name
        assert t.loc[middle, "mid"] > 0.85
        assert t.loc[middle, "trabecular_hu"] == pytest.approx(CORES[name], abs=4)
        inside = t[t["level"] == name]
        assert len(inside) == pytest.approx(HEIGHT / STEP, abs=2)
        core = inside["trabecular_hu"].dropna()
        assert len(core) >= 4
        assert core.mean() == pytest.approx(CORES[name], abs=4)
    assert t.loc[int((FIRST + HEIGHT + 4) / STEP), "level"] == "disc"
    assert pd.isna(t.loc[0, "level"])
    cut = t[t["level"] == "L1"]  # known as L1, its middle is not
    assert len(cut) > 2
    assert cut["mid"].isna().all()


FORMS = ("total", "verse", "one file a label", "with bodies", "seg")


@pytest.mark.parametrize("form", FORMS)
def test_each_form(scanned, tmp_path, form):
    s, _, catalogue = scanned
    masks = tmp_path / "masks"
    if form == "one file a label":
        for name, value in TOTAL.items():
            write_nifti(s, numbered(s, TOTAL) == value, masks / f"vertebrae_{name}.nii.gz")
    elif form == "seg":
        write_seg(s, masks / "seg.dcm")
    else:
        write_nifti(s, numbered(s, VERSE if form == "verse" else TOTAL), masks / "x.nii.gz")
        if form == "with bodies":
            write_nifti(s, s.body, masks / "y.nii.gz")
    summary = write_targets(catalogue, [masks], tmp_path / "targets.parquet", quiet=True)
    table = pd.read_parquet(tmp_path / "targets.parquet")
    assert table.columns.tolist() == TARGETS.names
    assert set(table["series_uid"]) == {s.uid}
    check(table, s.uid)
    used = [r for r in summary.masks.to_pylist() if r["code"] is None]
    assert [r["levels"] for r in used] == ["L2 L3 L4"]
    assert used[0]["left_out"] == "L1 cut"
    known = _read_targets(tmp_path / "targets.parquet", [s.uid])[s.uid]  # as training reads it
    assert known[int((FIRST + HEIGHT / 2) / STEP)].level == "L4"


def test_masks_that_contradict_the_ct_are_left_out(scanned, tmp_path):
    s, other, catalogue = scanned
    masks = tmp_path / "masks"
    labels = numbered(s, TOTAL)
    write_nifti(other, numbered(other, TOTAL), masks / "good.nii.gz")
    write_nifti(s, labels, masks / "elsewhere.nii.gz", shift=(0, 0, 40))
    swapped = labels.copy()
    swapped[labels == 29], swapped[labels == 30] = 30, 29
    write_nifti(s, swapped, masks / "swapped.nii.gz")
    skipped = labels.copy()
    skipped[labels == 30], skipped[labels == 31] = 31, 32  # L1 where L2 is: a level between that has no room
    write_nifti(s, skipped, masks / "skipped.nii.gz")
    write_nifti(s, np.roll(labels, 7, 1), masks / "moved.nii.gz")
    write_nifti(s, np.where(labels == 28, 28, 0), masks / "which.nii.gz")
    write_nifti(s, np.zeros_like(labels), masks / "empty.nii.gz")
    (masks / "broken.nii.gz").write_bytes(b"not gzip")
    summary = write_targets(catalogue, [masks], tmp_path / "targets.parquet", quiet=True)
    codes = {r["source"].rsplit("/", 1)[1].split(".")[0]: r["code"] for r in summary.masks.to_pylist()}
    assert codes == {
        "good": None,
        "elsewhere": "MASK_UNMATCHED",
        "swapped": "MASK_ORDER",
        "skipped": "MASK_NUMBERING",
        "moved": "MASK_SHIFTED",
        "which": "MASK_UNREADABLE",
        "empty": "MASK_UNREADABLE",
        "broken": "MASK_UNREADABLE",
    }
    assert set(pd.read_parquet(tmp_path / "targets.parquet")["series_uid"]) == {other.uid}
    assert "numbering" in next(r["message"] for r in summary.masks.to_pylist() if "which" in r["source"])


def test_a_mask_with_a_missing_level_is_used(scanned, tmp_path):
    s, _, catalogue = scanned
    labels = numbered(s, TOTAL)
    write_nifti(s, np.where(labels == 29, 0, labels), tmp_path / "m.nii.gz")
    write_targets(catalogue, [tmp_path / "m.nii.gz"], tmp_path / "t.parquet", quiet=True)
    t = pd.read_parquet(tmp_path / "t.parquet").set_index("index")
    assert set(t["level"].dropna()) == {"L4", "L2", "L1", "disc"}
    assert pd.isna(t.loc[int((FIRST + PITCH + HEIGHT / 2) / STEP), "level"])


def test_command(scanned, tmp_path, capsys):
    s, _, catalogue = scanned
    write_nifti(s, np.where(numbered(s, TOTAL) == 28, 28, 0), tmp_path / "masks" / "m.nii.gz")
    argv = ["targets", "--catalogue", str(catalogue), "--masks", str(tmp_path / "masks")]
    argv += ["--out", str(tmp_path / "t.parquet")]
    assert main(argv) == 3
    assert "--numbering" in capsys.readouterr().err
    assert main([*argv, "--numbering", "totalsegmentator"]) == 0
    assert "1 used" in capsys.readouterr().out


def test_nothing_usable_is_an_error(scanned, tmp_path):
    _, _, catalogue = scanned
    (tmp_path / "notes.txt").write_text("no mask")
    with pytest.raises(InputError, match="no mask"):
        write_targets(catalogue, [tmp_path], tmp_path / "t.parquet", quiet=True)
