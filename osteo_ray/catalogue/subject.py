"""Is it a living patient that was scanned? Animals, test objects and the dead stand in hospital archives, too. Pure.

    not_a_patient(SubjectTags(species="Canis lupus familiaris"))        # "animal"

The word phantom in a description is no sign of one: patients are scanned on top of a calibration phantom.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from osteo_ray.catalogue.phrases import compiled, joined, tokens
from osteo_ray.dicom.tags import Header, text_of

ANIMAL, TEST_OBJECT, DEAD = "animal", "test object", "post mortem"


@dataclass(frozen=True)
class SubjectTags:
    """What one image states of who or what was scanned; None where a tag is absent or empty."""

    species: str | None = None  # PatientSpeciesDescription (0010,2201)
    species_code: str | None = None  # the code value in (0010,2202)
    neutered: str | None = None  # PatientSexNeutered (0010,2203), of animals alone
    breed: str | None = None  # PatientBreedDescription (0010,2292), of animals alone
    quality_control: str | None = None  # QualityControlImage (0028,0300): YES or NO
    body_part: str | None = None
    description: str | None = None  # SeriesDescription
    study: str | None = None  # StudyDescription
    protocol: str | None = None  # ProtocolName

    @classmethod
    def of(cls, h: Header) -> SubjectTags:
        """The tags of a header."""
        codes = [text_of(item.get("code_value")) for item in h.groups.get("species_sequence", ())]
        return cls(
            species=h.words("species"),
            species_code=next((c for c in codes if c), None),
            neutered=h.text("neutered"),
            breed=h.text("breed"),
            quality_control=h.text("quality_control"),
            body_part=h.text("body_part"),
            description=h.words("series_description"),
            study=h.words("study_description"),
            protocol=h.words("protocol"),
        )


_HUMAN_CODES = frozenset(("337915000", "L-85B00"))  # PS3.16 CID 7454: homo sapiens in SNOMED CT and SRT
_HUMAN = re.compile(r" (HOMO( SAPIENS)?( SAPIENS)?|HUMAN\S*|MENSCH|HUMAIN|HUMANO|UMANO|MENS|人|人类|ヒト) ")
_TEST_OBJECT = compiled(
    (
        "CATPHAN\\d*",
        "(WATER|WASSER|ACR|AAPM) PHANTOM\\S*",
        "(DAILY|WEEKLY|MONTHLY|ANNUAL) (QA|QC)",
        "(QA|QC) (DAILY|WEEKLY|MONTHLY|ANNUAL|PHANTOM)",
        "QUALITY (ASSURANCE|CONTROL)",
        "(KONSTANZPRUFUNG\\S*|CONSTANCY TEST)",
        "(水模|质控)",
    )
)
_DEAD = compiled(
    ("PMCTA?", "POST ?MORTEM\\S*", "(CADAVER\\S*|KADAVER|CADAVRE|VIRTOPSY|AUTOPSY|AUTOPSIE)", "(尸检|死後|부검)")
)


@lru_cache(maxsize=4096)
def not_a_patient(t: SubjectTags) -> str | None:
    """`ANIMAL`, `TEST_OBJECT` or `DEAD` where a header says so; None for all else."""
    if _animal(t):
        return ANIMAL
    if (t.quality_control or "").upper() == "YES" or "PHANTOM" in tokens(t.body_part).split():
        return TEST_OBJECT
    text = joined(t.description, t.study, t.protocol)
    if _TEST_OBJECT.search(text):
        return TEST_OBJECT
    return DEAD if _DEAD.search(text) else None


def _animal(t: SubjectTags) -> bool:
    if t.species_code:
        return t.species_code not in _HUMAN_CODES
    if species := tokens(t.species):
        return not _HUMAN.fullmatch(species)
    return bool(t.neutered or t.breed)
