"""Images of several people under one patient number, or none, are told apart by what else headers state."""

from __future__ import annotations

import numpy as np
import pytest
from ct_making import file_bytes, series_of

from osteo_ray.catalogue.acquisitions import interleaved, speaks_for_scans
from osteo_ray.catalogue.people import Person, birth_mark, differ, name_mark, people
from osteo_ray.catalogue.subject import SubjectTags, not_a_patient
from osteo_ray.dicom.tags import name_digest

A = Person(name=1, birth=2, sex="F", age_y=60.0)


@pytest.mark.parametrize(
    ("other", "by_number", "without"),
    [
        (A, False, False),
        (A._replace(name=9), False, True),  # who has a number may have two names
        (A._replace(birth=9), True, True),
        (A._replace(sex="M"), True, True),
        (A._replace(age_y=30.0), True, True),  # two birth dates of one mark
        (A._replace(birth=None, age_y=30.0), True, True),
        (A._replace(birth=None, age_y=61.0), False, False),
        (Person(None, None, None, None), False, False),
    ],
)
def test_who_can_be_one_person(other, by_number, without):
    assert differ(A, other, by_name=False) == differ(other, A, by_name=False) == by_number
    assert differ(A, other, by_name=True) == differ(other, A, by_name=True) == without


def test_silent_images_stay_with_the_others_where_those_are_one_person():
    rows = [{"of": A}, {"of": A._replace(birth=None, age_y=None)}, {"of": A._replace(sex=None)}]
    assert people(rows, lambda r: r["of"], by_name=True) == [rows]


def test_people_come_in_an_order_of_their_own():
    rows = [{"of": A._replace(sex=s)} for s in "MFFM"]
    found = people(rows, lambda r: r["of"], by_name=False)
    assert [[r["of"].sex for r in members] for members in found] == [["F", "F"], ["M", "M"]]
    assert [len(m) for m in people(rows[::-1], lambda r: r["of"], by_name=False)] == [2, 2]


def test_marks_are_keyed_and_short():
    names = (b"Doe^Jane", b"DOE^JANE ^^=\x1b$B", b"Roe^Jane")
    one, same, other = (name_digest(n) for n in names)
    assert one == same != other
    assert name_digest(b"Doe^Jane^^Dr.") == name_digest(b"Doe^Jane^Ann") == one
    assert b"DOE" not in one.upper()
    assert name_mark(one, "k") == name_mark(same, "k") != name_mark(other, "k")
    assert name_mark(one, "k") != name_mark(one, "other")
    assert birth_mark("19550301", None) != birth_mark("19550302", None)
    assert name_mark(name_digest(b" ^^"), None) is name_mark(None, None) is birth_mark(None, None) is None
    days = [birth_mark(f"1955{m:02}{d:02}", "k") for m in range(1, 13) for d in range(1, 29)]
    assert set(days) == set(range(32))  # beside an age of one year a dozen dates share a mark
    assert birth_mark("1950.01.01", "k") == birth_mark("19500101", "k") is not None
    assert all(birth_mark(d, "k") is None for d in ("00000000", "00010101", "1950.0101", "19501301", "REMOVED", ""))


@pytest.mark.parametrize(
    "tags",
    [
        *(
            SubjectTags(species=s)
            for s in ("Homo sapiens (human)", "H. sapiens", "UNKNOWN", "N/A", "ANONYMIZED", "人类")
        ),
        SubjectTags(species_code="9606"),
        SubjectTags(species_code="99-LOCAL"),
        SubjectTags(species_code="99-LOCAL", species="Human"),
        SubjectTags(neutered="REMOVED", breed="REMOVED"),
        SubjectTags(study="CADAVERIC RENAL TRANSPLANT"),
        SubjectTags(study="cadaver kidney tx"),
        SubjectTags(protocol="QCT spine water phantom"),
        SubjectTags(description="QA PHANTOM SPINE BMD"),
        SubjectTags(study="Lung screening quality control"),
        SubjectTags(study="胸部CT质控"),
        SubjectTags(study="腰椎QCT水模"),
    ],
)
def test_who_lives_is_a_patient(tags):
    assert not_a_patient(tags) is None


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        (SubjectTags(species="Non-human primate"), "animal"),
        (SubjectTags(species="Vulpes vulpes"), "animal"),
        (SubjectTags(species_code="99-LOCAL", species="Canine"), "animal"),
        (SubjectTags(species_code="448169003"), "animal"),
        (SubjectTags(species="UNKNOWN", neutered="UNALTERED"), "animal"),
        (SubjectTags(breed="Beagle"), "animal"),
        (SubjectTags(study="ACR phantom"), "test object"),
        (SubjectTags(study="Weekly quality control"), "test object"),
        (SubjectTags(study="水模"), "test object"),
        (SubjectTags(study="Cadaver study, spine"), "post mortem"),
        (SubjectTags(study="Cadaver", description="Transplant"), "post mortem"),
    ],
)
def test_who_or_what_is_none(tags, what):
    assert not_a_patient(tags) == what


STEPS = 2.0 * np.arange(40)


@pytest.mark.parametrize(
    ("z", "sizes"),
    [
        (STEPS, []),
        (STEPS[::-1], []),
        (np.r_[STEPS, STEPS + 1], [40, 40]),
        (np.r_[STEPS, (STEPS + 1)[::-1]], [40, 40]),
        (np.r_[STEPS, (STEPS - 1)[::-1]], [40, 40]),
        (np.r_[STEPS, STEPS + 0.6, STEPS + 1.2], [40, 40, 40]),
        (np.r_[STEPS, STEPS + 80], []),  # stations end to end
        (np.r_[STEPS + 80, STEPS], []),
        (np.r_[STEPS, (STEPS + 80)[::-1]], []),
        (np.random.default_rng(0).permutation(STEPS), []),
        (np.r_[STEPS[:11], STEPS[20:], STEPS[11:20] + 1], []),  # numbered anew: no even steps
    ],
)
def test_scans_that_interleave_are_told_apart_by_their_numbering(z, sizes):
    assert [len(r) for r in interleaved(z, 3)] == sizes


def said(z, **stated) -> list[dict]:
    """Header rows of slices, with what is stated of all, or (a function of the place in the numbering) of each."""
    silent = {"acquisition_time": None, "stated_spacing_mm": None, "slice_thickness_mm": None}
    return [{**silent, **{k: v(i) if callable(v) else v for k, v in stated.items()}} for i in range(len(z))]


def half_a_minute_later(i: int) -> str:
    """Acquisition time of the i-th image: the second forty were scanned apart."""
    return f"1015{10 + i // 40 * 30}"


HALF_A_STEP = np.r_[STEPS, STEPS + 1]
UP_AND_DOWN = np.r_[STEPS, (STEPS + 1)[::-1]]


@pytest.mark.parametrize("z", [HALF_A_STEP, UP_AND_DOWN], ids=["odd, even", "up, down"])
@pytest.mark.parametrize(
    ("stated", "several"),
    [
        ({}, False),
        ({"slice_thickness_mm": 1.0}, False),  # one thin volume
        ({"slice_thickness_mm": 2.0}, True),  # each fills its steps
        ({"slice_thickness_mm": 2.0, "stated_spacing_mm": 1.0}, False),  # one volume of slices that overlap
        ({"slice_thickness_mm": 1.0, "stated_spacing_mm": 2.0}, True),
        ({"slice_thickness_mm": 1.0, "acquisition_time": half_a_minute_later}, True),
        ({"slice_thickness_mm": 2.0, "acquisition_time": "101523.437"}, False),  # reconstructed at half a step
        ({"slice_thickness_mm": 2.0, "acquisition_time": "000000"}, True),  # a de-identifier's
        ({"slice_thickness_mm": 2.0, "acquisition_time": ""}, True),
    ],
    ids=lambda v: str({k: getattr(x, "__name__", x) for k, x in v.items()}) if isinstance(v, dict) else str(v),
)
def test_numbering_alone_makes_no_two_scans(z, stated, several):
    assert speaks_for_scans(said(z, **stated), z, interleaved(z, 3)) == several


def test_times_that_follow_the_slices_are_of_one_scan():
    z = HALF_A_STEP
    rows = said(z, slice_thickness_mm=2.0, acquisition_time=lambda i: f"1015{z[i] / 2:09.6f}")
    assert not speaks_for_scans(rows, z, interleaved(z, 3))


def test_uneven_steps_of_all_slices_are_of_several_scans():
    z = np.r_[STEPS, STEPS + 0.7]
    assert speaks_for_scans(said(z), z, interleaved(z, 3))


@pytest.mark.parametrize(("thickness", "slices"), [(1.0, [160]), (2.0, [80, 80])])
def test_a_thin_volume_numbered_odd_then_even_stays_whole(thickness, slices):
    files = [file_bytes(i, 2.0 * (i % 80) + i // 80, SliceThickness=thickness) for i in range(160)]
    assert [r["n_slices"] for r in series_of(files)] == slices
