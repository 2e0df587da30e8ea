"""One stated rule says which ways of writing a number are one patient."""

import pytest

from osteo_ray.patients.config import IdentityConfig
from osteo_ray.patients.identity import normalised, patient_key


@pytest.mark.parametrize(
    ("written", "plain"),
    [
        (" 123 ", "123"),
        ("123\x00", "123"),
        ("\ufeff123", "123"),
        ("１２３", "123"),
        ("123.0", "123"),
        ("123.00", "123"),
        ("123,0", "123"),
        ("12,000", "12,000"),  # a group of thousands is no decimal tail
        ("1.000", "1.000"),
        ("１２３．０００", "123.000"),
        ("1234.000", "1234"),
        ("12.0000", "12"),
        ("\t123\r\n", "123"),
        ("123.5", "123.5"),
        ("00123", "00123"),
        ("00123.0", "00123"),
        ("p1", "p1"),
        ("P 1", "P 1"),
        ("A.0", "A.0"),
        (" \x00", ""),
        ("ANONYMOUS", ""),
        ("Anonymous_0", "Anonymous_0"),  # a word with a number of its own is one
        ("no id", ""),
        ("N/A", ""),
        ("un-known", ""),
        ("匿名", ""),
        ("0", "0"),
    ],
)
def test_the_default_joins_only_what_can_hardly_be_two_patients(written, plain):
    assert normalised(written) == plain


@pytest.mark.parametrize(
    ("rule", "one", "other"),
    [
        ({"leading_zeros": "drop"}, "00123", "123.0"),
        ({"leading_zeros": "drop"}, "000", "0"),
        ({"case": "upper"}, "p1", "P1"),
        ({"blanks": "remove"}, "P 1", "P1"),
    ],
)
def test_a_looser_rule_joins_more(rule, one, other):
    assert patient_key(one, "k") != patient_key(other, "k")
    loose = IdentityConfig(**rule)
    assert patient_key(one, "k", loose) == patient_key(other, "k", loose)


def test_decimal_tails_can_be_kept():
    assert normalised("123.0", IdentityConfig(decimal_tail="keep")) == "123.0"


def test_equal_numbers_of_two_sites_are_two_patients():
    a, b = (patient_key("123", "k", site=s) for s in ("north", "south"))
    assert len({a, b, patient_key("123", "k")}) == 3
    one = IdentityConfig(site_in_key=False)
    assert patient_key("123", "k", one, "north") == patient_key("123", "k", one, "south")


def test_words_for_no_number_make_no_patient_unless_kept():
    with pytest.raises(ValueError, match="empty"):
        patient_key("UNKNOWN", "k")
    assert normalised("UNKNOWN", IdentityConfig(placeholders="keep")) == "UNKNOWN"
