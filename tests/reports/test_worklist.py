import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_run import many_rows, odd_rows, scored_row, table

from osteo_ray.reports.language import DISCLAIMER
from osteo_ray.reports.worklist import COLUMNS, head, write_worklist
from osteo_ray.screening.config import NextStep, ReportText
from osteo_ray.screening.patients import PATIENTS


def read(written) -> pd.DataFrame:
    return pd.read_csv(written.path, dtype={"patient_key": str})


def test_only_scored_series_by_falling_risk(tmp_path):
    rows = many_rows()
    frame = read(write_worklist(tmp_path / "w.csv", table(rows)))
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == sum(r["risk_prob"] is not None for r in rows)
    assert frame["risk_prob"].is_monotonic_decreasing
    assert frame["rank"].tolist() == list(range(1, len(frame) + 1))
    assert frame["week"].isna().all()
    assert set(frame["notice"]) == {DISCLAIMER}
    warned = frame[frame["patient_key"] == odd_rows()[0]["patient_key"]].iloc[0]
    assert warned["warning"] == "tube voltage: tube voltage is 140 kVp; the score was trained at 120 kVp"
    assert warned["codes"].startswith("Q_KVP: tube voltage")


def test_weekly_capacity_counts_patients(tmp_path):
    rows = [scored_row(i, 0.9 - 0.1 * i) for i in range(6)]
    rows.append(scored_row(7, 0.05) | dict(patient_key=rows[0]["patient_key"]))
    frame = read(write_worklist(tmp_path / "w.csv", table(rows), top_n_per_week=2))
    assert frame["rank"].tolist() == [1, 1, 2, 3, 4, 5, 6]
    assert frame["week"].tolist() == [1, 1, 1, 2, 2, 3, 3]


def test_a_risk_that_is_no_number_comes_last():
    rows = [scored_row(0, float("nan")), scored_row(1, 0.2), scored_row(2, 0.7)]
    assert [x["series_uid"] for _, x in head(table(rows), 3)] == [rows[i]["series_uid"] for i in (2, 1, 0)]


@settings(max_examples=40)  # each example is a database
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.floats(0.01, 0.99)), max_size=20), st.randoms())
def test_the_order_does_not_depend_on_the_rows_order(pairs, random):
    rows = [scored_row(i, r) | dict(patient_key=k) for i, (k, r) in enumerate(pairs)]
    ranked = head(table(rows), len(rows))
    assert head(table(random.sample(rows, len(rows))), len(rows)) == ranked
    best: dict[int, float] = {}
    for rank, row in ranked:
        best.setdefault(rank, row["risk_prob"])
    assert list(best) == list(range(1, len({k for k, _ in pairs}) + 1))
    assert list(best.values()) == sorted(best.values(), reverse=True)


def test_text_that_a_spreadsheet_would_run_is_quoted(tmp_path):
    row = scored_row(1, 0.5) | dict(patient_key="=1+1", operating_point="@sum(a1)")
    frame = read(write_worklist(tmp_path / "w.csv", table([row])))
    assert frame.loc[0, "patient_key"] == "'=1+1"
    assert frame.loc[0, "operating_point"] == "'@sum(a1)"


def test_nothing_scored_gives_a_header_only(tmp_path):
    assert read(write_worklist(tmp_path / "new" / "w.csv", table(odd_rows()[6:]))).empty


def test_a_capacity_below_one_is_refused(tmp_path):
    with pytest.raises(ValueError, match="top_n_per_week: 0"):
        write_worklist(tmp_path / "w.csv", table([]), top_n_per_week=0)


@settings(max_examples=40)  # each example is a database
@given(
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", None]), st.floats(0.01, 0.99)), max_size=15), st.integers(1, 9)
)
def test_the_head_is_the_beginning_of_the_whole(pairs, top):
    rows = [scored_row(i, r) | dict(patient_key=k) for i, (k, r) in enumerate(pairs)]
    assert head(table(rows), top) == head(table(rows), len(rows))[:top]


def test_notes_are_words_in_the_sites_language(tmp_path):
    row = scored_row(1, 0.6) | dict(
        state="SCORED_WARN", code="GATE_WARN", message="Q_KVP, Q_CONTRAST", contrast="portal"
    )
    row |= dict(kvp=100.0)
    known = {k: [None] for k in PATIENTS.names} | dict(patient_key=[row["patient_key"]], known=["DXA_OLD"])
    known |= dict(hu_change=[-31.0], hu_verdict=["FALLEN"], suppressed=[False], n_studies=[2])
    viewer = "https://viewer.example/{study_uid}"
    text = ReportText(language="de", viewer=viewer, next_step=NextStep(high="DXA anmelden", known="Hausarzt anrufen"))
    patients = pa.table(known, schema=PATIENTS)
    line = read(write_worklist(tmp_path / "w.csv", table([row]), patients=patients, text=text)).iloc[0]
    assert line["warning"] == (
        "Röhrenspannung: 100 kVp, vom Modell korrigiert; Kontrastmittel: portalvenöse Phase; Knochen liest sich höher"
    )
    assert line["note"].endswith("ältere DXA; HU um 31 gefallen, über den Wiederholungsfehler hinaus")
    assert line["next_step"] == "DXA anmelden", "an old DXA does not stand in the way"
    assert line["codes"] == "GATE_WARN: Q_KVP, Q_CONTRAST"
    assert line["viewer"] == f"https://viewer.example/{row['study_uid']}"
