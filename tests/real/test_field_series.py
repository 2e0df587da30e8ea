"""Small series altered as public reports describe, and real series that have to be refused: each ends as it should."""

from __future__ import annotations

import pyarrow as pa
import pytest

from osteo_ray.catalogue.build import assemble_table
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.catalogue.indexing import INDEXED, index_entries
from osteo_ray.dicom.sources import roots

pytestmark = pytest.mark.real


def series_of(path):
    rows = [r for source in roots(path) for ok, r in index_entries(source.list(), IndexConfig()) if ok]
    table, _ = assemble_table(pa.Table.from_pylist(rows, schema=INDEXED), IndexConfig())
    return sorted(table.to_pylist(), key=lambda r: r["state"] is not None)


def ends(path) -> list[tuple[str | None, str | None, int]]:
    return [(r["state"], r["code"], r["n_slices"]) for r in series_of(path)]


def test_calcium_suppression_is_not_hu(real_data):
    (r,) = series_of(real_data / "field" / "philips_calcium_suppression.zip")
    assert (r["state"], r["code"], r["special"]) == ("EXCLUDED", "SPECIAL_RECON", "calcium-suppressed")
    assert "HU*" in r["message"]


def test_cone_beam_is_not_calibrated(real_data):
    (r,) = series_of(real_data / "field" / "cone_beam_linac.zip")
    assert (r["state"], r["code"], r["special"]) == ("EXCLUDED", "SPECIAL_RECON", "cone-beam")
    assert "near HU, but not comparable" in r["message"]


@pytest.mark.parametrize("name", ["enhanced_contrast_sequence", "contrast_in_words_or_volume"])
def test_contrast_is_seen_wherever_it_is_stated(real_data, name):
    (r,) = series_of(real_data / "field" / f"{name}.zip")
    assert (r["state"], r["contrast"]) == (None, "contrast")
    assert {g["gate"]: g["verdict"] for g in r["gates"]}["Q_CONTRAST"] == "warn"


def test_two_phases_that_do_not_collide_are_two_rows(real_data):
    assert ends(real_data / "field" / "multipass_not_colliding.zip") == [
        (None, None, 102),
        ("EXCLUDED", "NOT_CHOSEN", 70),
    ]


def test_the_body_is_chosen_over_a_spine_reconstruction(real_data):
    body, spine = series_of(real_data / "field" / "small_fov_spine_recon.zip")
    assert (body["n_slices"], body["chosen"], spine["code"]) == (72, True, "NOT_CHOSEN")
    assert {g["gate"]: g["verdict"] for g in spine["gates"]}["Q_FOV"] == "warn"


def test_two_patients_under_one_study_are_both_screened(real_data):
    rows = series_of(real_data / "field" / "two_patients_one_study_uid.zip")
    assert [(r["state"], r["chosen"]) for r in rows] == [(None, True), (None, True)]
    assert len({r["patient_key"] for r in rows}) == 2


@pytest.mark.parametrize(
    ("name", "codes"),
    [
        ("acrin_flt_breast_013_trunk_coronal_reformat_wrong_spacing", {"NOT_AXIAL"}),
        ("rider_pilot_0117_lower_chest_ctpa_feet_first", {"SHORT_COVERAGE"}),
        ("plastic_phantom_block_siemens_b60s_and_multiframe_sc", {"Q_AGE", "Q_LOCALIZER"}),
        ("head_ct_perfusion_4d_tiny_toshiba_80kvp", {"SPECIAL_RECON"}),
        ("lungfcp_01_0001_modality_seg_in_ct_storage", {"Q_MODALITY"}),
        ("dcmqi_ct_3slice_with_spine_seg", {"SHORT_COVERAGE"}),
    ],
)
def test_what_is_no_body_scan_is_refused(real_data, name, codes):
    rows = series_of(real_data / "ct" / f"{name}.zip")
    assert {r["state"] for r in rows} == {"EXCLUDED"}
    assert {r["code"] for r in rows} == codes


def test_the_feet_first_angiogram_states_its_contrast(real_data):
    (r,) = series_of(real_data / "ct" / "rider_pilot_0117_lower_chest_ctpa_feet_first.zip")
    assert r["contrast"] != "unknown"
