"""Every kind of series besides plain CT ends where it should, by its tags, words, geometry or pixels."""

from __future__ import annotations

from unittest.mock import Mock

import pytest
from ct_making import gate, header_rows, series_of, stack
from series_kinds_making import CASES, Case, end_of, enhanced, rows_of

from osteo_ray.catalogue import instances
from osteo_ray.catalogue.contrast import stated
from osteo_ray.catalogue.phrases import compiled, tokens
from osteo_ray.catalogue.pixel_meaning import Stated, explanation, line_of, meaning_of, table


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.group}: {c.name}")
def test_kind(case: Case):
    rows = rows_of(case)
    assert tuple(map(end_of, rows)) == case.ends, [r["message"] for r in rows]
    assert {k: rows[0][k] for k in case.says} == case.says


def test_all_cases_have_names_of_their_own():
    assert len({(c.group, c.name) for c in CASES}) == len(CASES)


def test_every_kind_of_the_table_is_met_by_a_case():
    met = {r["special"] for c in CASES for r in rows_of(c)} - {None}
    assert set(table().kinds) - met == {"filtered statistics"}


def test_every_line_has_a_source_and_matches_its_own_words():
    for line in table().lines:
        assert line.source in table().sources
        assert line.kind in table().kinds


def test_values_near_hu_say_that_they_are_not_comparable():
    assert "near HU, but not comparable" in explanation("virtual mono-energetic")
    assert "near HU, but not comparable" in explanation("direct density")
    assert explanation("effective atomic number", "Z_EFF").endswith("not HU")
    assert "rescale type HU*" in explanation("calcium-suppressed", "HU*")
    assert "rescale type" not in explanation("calcium-suppressed", "HU")


def test_what_converted_frames_repeat_is_read_once(monkeypatch):
    common = Mock(wraps=instances._common)
    monkeypatch.setattr(instances, "_common", common)
    rows = header_rows(enhanced(20, converted={"KVP": 80, "ContrastBolusAgent": "OMNIPAQUE"}))
    assert [(r["frame"], r["kvp"], r["contrast"]) for r in rows] == [(i, 80.0, "contrast") for i in range(20)]
    assert common.call_count == 2  # of the object, and of its frames


def test_unknown_contrast_is_a_warning_of_its_own():
    unknown = series_of(stack(90, ContrastBolusAgent=None))[0]
    assert (gate(unknown, "Q_CONTRAST")["verdict"], gate(unknown, "Q_CONTRAST_UNKNOWN")["verdict"]) == ("pass", "warn")
    given = series_of(stack(90, ContrastBolusAgent="OMNIPAQUE"))[0]
    assert (gate(given, "Q_CONTRAST")["verdict"], gate(given, "Q_CONTRAST_UNKNOWN")["verdict"]) == ("warn", "pass")


def test_a_small_field_of_view_warns():
    small = series_of(stack(90, PixelSpacing=[11.0, 11.0]))[0]
    assert (gate(small, "Q_FOV")["verdict"], gate(small, "Q_FOV")["value"]) == ("warn", "176")
    assert gate(series_of(stack(90))[0], "Q_FOV")["verdict"] == "pass"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("L-SPINE 1.25 MAR", " L SPINE 1.25 MAR "),
        ("DE_Abd M_0.6", " DE ABD M 0.6 "),
        ("venös Mono+", " VENOS MONO+ "),
        ("  ", ""),
        (None, ""),
    ],
)
def test_tokens(text, want):
    assert tokens(text) == want


def test_phrases_match_whole_tokens_and_ends_of_texts():
    assert compiled(["MAR"]).search(tokens("knee mar"))
    assert not compiled(["MAR"]).search(tokens("marrow"))
    assert compiled(["^ IODINE $"]).search(" AXIAL | IODINE ")
    assert not compiled(["^ IODINE $"]).search(tokens("iodine 350"))
    assert compiled(["造影"]).search(tokens("腹部造影3mm"))


def test_words_of_an_empty_header_say_nothing():
    assert stated("") is None
    assert line_of(Stated()) is None
    assert meaning_of(Stated(kvp=True)) is None
