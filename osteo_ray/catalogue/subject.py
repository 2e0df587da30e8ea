"""Is it a living patient that was scanned? Animals, test objects and the dead stand in hospital archives, too. Pure.

    not_a_patient(SubjectTags(species="Canis lupus familiaris"))        # "animal"

The word phantom in a description is no sign of one: patients are scanned on top of a calibration phantom.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from osteo_ray.catalogue.phrases import compiled, tokens
from osteo_ray.dicom.tags import Header, text_of, words_of
from osteo_ray.patients.identity import says_none

ANIMAL, TEST_OBJECT, DEAD = "animal", "test object", "post mortem"


@dataclass(frozen=True)
class SubjectTags:
    """What one image states of who or what was scanned; None where a tag is absent or empty."""

    species: str | None = None  # PatientSpeciesDescription (0010,2201), else the code's meaning in (0010,2202)
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
        items = h.groups.get("species_sequence", ())
        codes = [text_of(item.get("code_value")) for item in items]
        meanings = [words_of(m, h.values.get("character_set")) for i in items if (m := i.get("code_meaning"))]
        return cls(
            species=h.words("species") or next((m for m in meanings if m), None),
            species_code=next((c for c in codes if c), None),
            neutered=h.text("neutered"),
            breed=h.text("breed"),
            quality_control=h.text("quality_control"),
            body_part=h.text("body_part"),
            description=h.words("series_description"),
            study=h.words("study_description"),
            protocol=h.words("protocol"),
        )


# PS3.16 CID 7454: homo sapiens in SNOMED CT and SRT, and in NCBI's taxonomy
_HUMAN_CODES = frozenset(("337915000", "L-85B00", "L-85003", "9606"))
# The animals of the same list. A code of neither says nothing by itself: archives write codes of their own.
_ANIMAL_CODES = frozenset(
    (
        *("36855005", "371565004", "448169003", "388490000", "34618005", "36571002", "388249000", "449310008"),
        *("35354009", "78678003", "388445009", "388254009", "107007004", "388168008", "406733009", "125076001"),
        *("388626009", "388393002", "448771007", "371564000", "447482001", "125099002", "447612001"),
        *("125097000", "L-88121", "L-877FC", "L-00376", "L-881FC", "L-8B941", "L-86B02", "L-8C3FB", "L-88423"),
        *("L-8A102", "L-8B100", "L-000A9", "L-8C3FD", "L-8B9F9", "L-8BA18", "L-001DE", "L-87A02", "L-000F9"),
        *("L-8B1FB", "L-88124", "L-877FB", "L-87830", "L-8C336", "L-87831", "L-8C306"),
    )
)
_HUMAN = compiled(("(HOMO|SAPIENS|HUMAN[AEOS]?|MENSCH(LICH)?|HUMAINE?|UMAN[AO]|MENS|PERSON)", "(人|ヒト)"))
_NO_HUMAN = compiled(("NON HUMAN[AEOS]?", "非人"))
_NEUTERED = frozenset(("ALTERED", "UNALTERED"))  # the values of PatientSexNeutered; else a de-identifier wrote there
_TEST_OBJECT = compiled(
    (
        r"CATPHAN\d*",
        "(DAILY|WEEKLY|MONTHLY|ANNUAL) (QA|QC|QUALITY (ASSURANCE|CONTROL))",
        "(QA|QC|QUALITY (ASSURANCE|CONTROL)) (DAILY|WEEKLY|MONTHLY|ANNUAL)",
        r"(KONSTANZPRUFUNG\S*|CONSTANCY TEST)",
    )
)
_PHANTOM = compiled((r"(WATER|WASSER|ACR|AAPM) PHANTOM\S*", r"(QA|QC|QUALITY (ASSURANCE|CONTROL)) PHANTOM\S*", "水模"))
# patients lie on a phantom where bone density is measured
_DENSITOMETRY = compiled((r"(L?SPINE|BMD|\S*QCT\S*|LUMBAR)", "(腰椎|骨密度)"))
_DEAD = compiled(("PMCTA?", r"POST ?MORTEM\S*", "(VIRTOPSY|AUTOPSY|AUTOPSIE)", "(尸检|死後|부검)"))
_CADAVER = compiled((r"(CADAVER\S*|KADAVER|CADAVRE)",))
# who lives with an organ of the dead
_TRANSPLANT = compiled((r"(\S*TRANSPLANT\S*|TX|DONOR\S*|KIDNEYS?|\S*GRAFT\S*)",))


@lru_cache(maxsize=4096)
def not_a_patient(t: SubjectTags) -> str | None:
    """`ANIMAL`, `TEST_OBJECT` or `DEAD` where a header says so; None for all else."""
    if _animal(t):
        return ANIMAL
    if (t.quality_control or "").upper() == "YES" or "PHANTOM" in tokens(t.body_part).split():
        return TEST_OBJECT
    # each text alone: what takes a word's meaning away stands beside it
    texts = [tokens(text) for text in (t.description, t.study, t.protocol)]
    if any(_TEST_OBJECT.search(x) or (_PHANTOM.search(x) and not _DENSITOMETRY.search(x)) for x in texts):
        return TEST_OBJECT
    dead = any(_DEAD.search(x) or (_CADAVER.search(x) and not _TRANSPLANT.search(x)) for x in texts)
    return DEAD if dead else None


def _animal(t: SubjectTags) -> bool:
    code = (t.species_code or "").upper()
    if code in _HUMAN_CODES or code in _ANIMAL_CODES:
        return code in _ANIMAL_CODES
    if _stated(t.species):
        species = tokens(t.species)
        return bool(_NO_HUMAN.search(species)) or not _HUMAN.search(species)
    return (t.neutered or "").upper() in _NEUTERED or _stated(t.breed)


def _stated(text: str | None) -> bool:
    """Whether a text says anything: there are words, and they are not those of de-identifiers."""
    words = tokens(text).split()
    return bool(words) and not says_none(text or "") and not all(says_none(w) for w in words)
