"""Labels by path: patient numbers meet by the index's rules, whatever the table; a record set labels as its table."""

import pandas as pd
import pytest

from osteo_ray.evaluation.labels import is_plain_labels, open_labels, pair_labels, read_labels
from osteo_ray.evaluation.tables import read_results
from osteo_ray.outcomes import InputError
from osteo_ray.patients.config import IdentityConfig, SitePatientKeys, TimelineConfig
from osteo_ray.patients.findings import RecordsError
from osteo_ray.patients.identity import patient_key
from osteo_ray.patients.record_set import write_record_set
from osteo_ray.patients.table import RecordTable

KEYS = SitePatientKeys(pseudonym_key="k", site="north", identity=IdentityConfig(case="upper", blanks="remove"))


def key(number: str, keys: SitePatientKeys = KEYS) -> str:
    return patient_key(number, keys.pseudonym_key, keys.identity, keys.site)


def test_numbers_of_results_and_labels_are_normalised_as_in_the_index(tmp_path):
    (tmp_path / "s.csv").write_text("patient_id,score\n p 1 ,3\nP2,2\n007.0,1\n,4\n")
    (tmp_path / "l.csv").write_text("patient_id;t_score;label\nP1;;normal\np2;-2,7;osteoporosis\n007;;osteopenia\n")
    rows = read_results(tmp_path / "s.csv", KEYS)
    assert rows["patient_key"].tolist() == [key("P1"), key("P2"), key("007"), None]
    assert key("P1") != patient_key("P1", "k")
    assert is_plain_labels(tmp_path / "l.csv"), "the delimiter is that of the header"
    with pytest.raises(InputError, match="'-2,7' is no finite number"):
        open_labels(str(tmp_path / "l.csv"), None, KEYS)
    text = (tmp_path / "l.csv").read_text().replace("-2,7", "-2.7")
    (tmp_path / "l.csv").write_text(text)
    labels = open_labels(str(tmp_path / "l.csv"), None, KEYS)
    paired = pair_labels(rows, labels, TimelineConfig(), [])
    assert paired["label"].fillna("").tolist() == ["normal", "osteoporosis", "osteopenia", ""]


def test_a_workbook_is_read_as_text_is(tmp_path):
    table = {"patient_id": ["0007", "0008"], "label": ["normal", "osteoporosis"], "dxa_date": ["2024-01-05", None]}
    pd.DataFrame(table).to_excel(tmp_path / "l.xlsx", index=False)
    labels = open_labels(str(tmp_path / "l.xlsx"), None, KEYS)
    assert labels["patient_key"].tolist() == [key("0007"), key("0008")]
    assert labels["dxa_date"].dt.strftime("%Y-%m-%d").fillna("").tolist() == ["2024-01-05", ""]


def test_dates_beside_empty_cells_stay_dates(tmp_path):
    (tmp_path / "l.csv").write_text("patient_key,label,dxa_date\na,normal,20240105\nb,osteopenia,\n")
    labels = read_labels(tmp_path / "l.csv")
    assert labels["dxa_date"].dt.strftime("%Y%m%d").fillna("").tolist() == ["20240105", ""]


def test_none_is_a_contrast_phase_not_a_missing_cell(tmp_path):
    (tmp_path / "s.csv").write_text("patient_key,score,contrast\na,1,none\nb,2,NA\n")
    assert read_results(tmp_path / "s.csv")["contrast"].tolist() == ["none", None]


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("patient_id,label\n1.23457E+11,normal\n", InputError, "lost its last digits"),
        ("patient_key,label\na,normal,3\n", RecordsError, "line 2: 3 fields"),
        ("patient_key,label\na,perhaps\n", InputError, "unknown label 'perhaps'"),
        ("patient_key,label,dxa_date\na,normal,05.01.2024\n", InputError, "row 1, column dxa_date: '05.01.2024' is no"),
        (
            "patient_key,label,record_date\na,normal,45296\n",
            InputError,
            "column record_date: '45296' is no date; write",
        ),
    ],
)
def test_labels_that_cannot_be_used_are_named(tmp_path, text, error, words):
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(error, match=words):
        open_labels(str(tmp_path / "l.csv"), None, KEYS)


def test_records_of_a_site_go_through_their_mapping(tmp_path):
    (tmp_path / "r.csv").write_text("patient_id,age_y,sex,t_score\np1,61,F,-2.7\n")
    labels = open_labels(str(tmp_path / "r.csv"), None, KEYS)
    assert labels[["patient_key", "label"]].to_numpy().tolist() == [[key("P1"), "osteoporosis"]]


def test_a_record_set_gives_the_labels_of_its_table(tmp_path):
    frame = pd.DataFrame(
        {
            "patient_key": ["a", "a", "b", "c", "d"],
            "record_date": pd.to_datetime(["2024-01-05", "2022-03-01", None, "2024-02-01", "2023-01-01"]),
            "t_score": [-2.6, -1.2, 0.4, None, None],
            "dxa_date": pd.to_datetime(["2024-01-04", None, None, None, None]),
            "osteoporosis_treatment": [None, 0.0, None, 1.0, None],
            "site": ["north"] * 5,
        }
    )
    table = RecordTable.of(frame)
    write_record_set(table, str(tmp_path / "set"), partitions=3)
    found = open_labels(str(tmp_path / "set"), None, KEYS)
    order = ["patient_key", "record_date"]
    wanted = read_labels(table).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(found.sort_values(order, ignore_index=True)[list(wanted)], wanted, check_dtype=False)
    assert set(found["patient_key"]) == {"a", "b", "c"}, "a row without T-score and treatment labels nothing"


def test_nothing_there_is_named(tmp_path):
    with pytest.raises(InputError, match=r"nowhere: no such file"):
        open_labels(str(tmp_path / "nowhere"), None, KEYS)


def test_study_dates_that_are_none_are_refused_and_one_among_others_is_not(tmp_path):
    (tmp_path / "s.csv").write_text("patient_key,score,study_date\na,1,05.01.2024\nb,2,06.01.2024\n")
    with pytest.raises(InputError, match=r"row 1, column study_date: '05.01.2024' is no date"):
        read_results(tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("patient_key,score,study_date\na,1,2024-1-5\nb,2,20240106\nc,3,x\n")
    assert read_results(tmp_path / "s.csv")["study_date"].tolist() == ["2024-01-05", "20240106", "x"]
    (tmp_path / "s.csv").write_text("patient_key,score,study_date\na,1,2024-1-5\nb,2,\n")
    assert read_results(tmp_path / "s.csv")["study_date"].tolist() == ["2024-01-05", None]


@pytest.mark.parametrize("date", ["00000000", "19000000", "0000-00-00"])
def test_a_study_date_of_zeros_is_none(tmp_path, date):
    (tmp_path / "s.csv").write_text(f"patient_key,score,study_date\na,1,{date}\nb,2,{date}\n")
    assert read_results(tmp_path / "s.csv")["study_date"].isna().all()
