"""HU beside published values, an earlier study and the record: each figure is checked against its source or by hand."""

from datetime import date
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_run import empty_row, scored_row, table

from osteo_ray.evaluation import reference_hu as ref
from osteo_ray.reports.background import NOTHING_LOOKED_AT, Background, backgrounds, hu_change
from osteo_ray.reports.checks_view import check, reason, verdict_of
from osteo_ray.reports.density_view import density
from osteo_ray.reports.language import words_in
from osteo_ray.reports.study_view import StudyView, next_step, page
from osteo_ray.screening.config import NextStep, PatientConfig, ReportText
from osteo_ray.screening.patients import PATIENTS, Change

ENGLISH = words_in()
PEOPLE = PatientConfig()


def said(row, background=NOTHING_LOOKED_AT) -> dict[str, str]:
    return {title: " ".join(lines) for title, lines in density(row, background, ENGLISH).compared}


def levels(**hu) -> list[dict]:
    return [dict(level=k, hu=v, hu_120_kvp=v, slices=1, spread=None) for k, v in hu.items()]


def test_bands_are_the_published_ones():
    women, men = ref.band(57.4, "F"), ref.band(57.4, "M")
    assert women is not None
    assert men is not None
    assert (women.mean, women.sd, men.mean, men.sd) == (166, 38, 166, 39)
    oldest = ref.band(93, "M")
    assert oldest is not None
    assert (oldest.mean, oldest.sd, oldest.last_y) == (89, 38, None)
    for missing in ((None, "F"), (60, None), (60, "O"), (12, "F")):
        assert ref.band(*missing) is None


@pytest.mark.parametrize("sex", ["F", "M"])
def test_beyond_the_table_the_mean_falls_as_published(sex):
    """Jang 2019: linear, by 2.5 HU a year. The line between two of its means has to have about that slope."""
    a, b = ref.band(66, sex), ref.band(86, sex)
    assert a is not None
    assert b is not None
    assert a.line_to_y == 90
    assert (a.mean - b.mean) / 20 == pytest.approx(2.5, abs=0.2)
    means = [x.mean for age in range(18, 100) if (x := ref.band(age, sex))]
    assert len(means) == 82
    assert max(after - before for before, after in pairwise(means)) <= 1.0


def test_a_level_is_placed_in_the_band_of_its_age():
    row = scored_row(1, 0.5) | dict(age_y=52.0, sex="F", hu_by_level=levels(L1=147.0, L2=150.0))
    words = said(row)["Against age and sex"]
    assert "L1: 147 HU at 120 kVp, 1.0 SD below that mean." in words
    assert "women aged 50 to 54 years, mean 188 ± 41 HU" in words
    assert said(row | dict(age_y=None))["Against age and sex"].startswith("Age or sex is not known")
    unknown = [v | dict(hu_120_kvp=None) for v in row["hu_by_level"]]
    assert said(row | dict(hu_by_level=unknown))["Against age and sex"].startswith("HU at 120 kVp are not known")


def test_what_was_not_measured_is_said_with_the_reason():
    row = scored_row(1, 0.5) | dict(hu_by_level=levels(L1=150.0))  # the chosen slices are of L2
    assert said(row)["Levels not measured"] == ("L2: seen only near an endplate. L3, L4: no chosen slice lies in them.")
    assert "Hardware, metal" not in said(row), "not checked: nothing is said"
    metal = dict(gate="Q_METAL", verdict="warn", value="0.0041", threshold="<= 0.002 above 2500 HU")
    assert "0.41 % of the body's voxels" in said(row | dict(gates=[metal]))["Hardware, metal"]


STUDIES = [("1.1", "20230301", 150.0, "none"), ("1.2", "20240301", 160.0, "portal"), ("1.3", "20250301", 120.0, "none")]


@pytest.fixture
def run(tmp_path):
    """One patient with three studies and another with one, and what the record holds of the first."""
    rows = [
        scored_row(i, 0.5)
        | dict(patient_key="p", study_uid=uid, series_uid=f"{uid}.1", study_date=day, contrast=agent, kvp=120.0)
        | dict(hu_by_level=levels(L1=hu, L2=hu - 10))
        for i, (uid, day, hu, agent) in enumerate(STUDIES)
    ]
    rows.append(empty_row(9, "ABSTAINED", "OOD_IMAGE", "score") | dict(patient_key="p", study_date="20241201"))
    rows.append(scored_row(8, 0.2))
    pq.write_table(table(rows), tmp_path / "results.parquet")
    known = {k: [None] for k in PATIENTS.names} | dict(patient_key=["p"], known=["KNOWN_DXA"], suppressed=[False])
    known |= dict(dxa_date=[date(2024, 5, 1)], dxa_t_score=[-2.6], treatment_date=[date(2024, 6, 1)], n_studies=[3])
    pq.write_table(pa.table(known, schema=PATIENTS), tmp_path / "patients.parquet")
    return tmp_path, rows


def test_the_earlier_study_is_the_latest_that_can_be_compared(run):
    folder, rows = run
    found = backgrounds(folder / "results.parquet", rows, PEOPLE, folder / "patients.parquet")
    first, second, third, *_, other = (found[r["row_key"]] for r in rows)
    assert first.prior is None
    assert other.prior is None
    assert second.prior is not None
    assert second.prior["study_uid"] == "1.1"
    assert third.prior is not None
    assert third.prior["study_uid"] == "1.1", "the study between has contrast agent"
    change = hu_change(rows[2], third)
    assert (change.verdict, change.levels, change.then, change.now) == (Change.FALLEN, ("L1", "L2"), 145.0, 115.0)
    assert change.noise == pytest.approx(1.96 * 2**0.5 * 0.065 * 130.0)
    assert hu_change(rows[1], second).verdict == Change.NOT_COMPARABLE
    words = said(rows[2], third)
    assert words["Earlier study"] == (
        "Study of 2023-03-01: mean of L1, L2 145 HU, now 115 HU, −30 HU: a fall beyond repeat error (±23 HU)."
    )
    assert words["DXA and treatment"] == (
        "DXA of 2024-05-01, T-score −2.6. Treated for osteoporosis, recorded 2024-06-01."
    )
    assert said(rows[1], second)["Earlier study"].startswith("Study of 2023-03-01: not comparable")
    assert said(rows[-1], other)["DXA and treatment"] == "No DXA and no treatment on record."


def test_a_change_within_repeat_error_is_none():
    row = scored_row(1, 0.5) | dict(hu_by_level=levels(L1=150.0), kvp=120.0, contrast="none")
    prior = row | dict(study_date="20290101", hu_by_level=levels(L1=160.0, L3=170.0))
    assert hu_change(row, Background(True, prior)).verdict == Change.NONE
    none_shared = Background(True, prior | dict(hu_by_level=levels(L3=170.0)))
    assert "no level was measured both times" in said(row, none_shared)["Earlier study"]


def test_without_records_or_results_nothing_is_claimed(run):
    folder, rows = run
    found = backgrounds(folder / "results.parquet", rows, PEOPLE)
    assert said(rows[2], found[rows[2]["row_key"]])["DXA and treatment"] == "Records were not looked at."
    assert said(rows[2])["Earlier study"] == "Earlier studies were not looked for."
    undated = rows[2] | dict(study_date=None)
    assert backgrounds(folder / "results.parquet", [undated], PEOPLE)[undated["row_key"]].prior is None
    assert said(undated, Background(True))["Earlier study"].startswith("This study has no date")


def test_where_nobody_is_shown_or_named_nothing_is_looked_up(run):
    """A run in which nothing was scored, and a series without a patient's key."""
    folder, _ = run
    assert backgrounds(folder / "results.parquet", [], PEOPLE, folder / "patients.parquet") == {}
    nameless = scored_row(7, 0.3) | {"patient_key": None}
    for results in (folder / "results.parquet", pq.read_table(folder / "results.parquet")):
        found = backgrounds(results, [nameless], PEOPLE, folder / "patients.parquet")[nameless["row_key"]]
        assert found.prior is None
        assert found.known == {}


def test_the_next_step_is_in_the_sites_own_words():
    steps = NextStep(high="DXA within 4 weeks", known="letter to the GP", not_scored="none")
    high, low = (scored_row(1, 0.6), scored_row(2, 0.1))
    assert next_step(high, False, steps) == "DXA within 4 weeks"
    assert next_step(high, True, steps) == "letter to the GP"
    assert next_step(low, False, steps) is None
    assert next_step(empty_row(3, "ABSTAINED", "OOD_IMAGE", "score"), False, steps) == "none"
    assert page(StudyView(high), ReportText(next_step=steps)).next_step == "DXA within 4 weeks"
    assert page(StudyView(high)).next_step == ""


@pytest.mark.parametrize(
    ("gate", "verdict", "value", "threshold", "name", "words"),
    [
        ("Q_KVP", "warn", "100", "120 +- 5", "Tube voltage", "100 kVp, model corrected"),
        ("Q_KVP", "warn", "absent", "120 +- 5", "Tube voltage", "not recorded, nothing corrected"),
        ("Q_TILT", "pass", "absent", "warn > 0.1, fail > 5 deg", "Gantry tilt", "not recorded"),
        ("Q_CONTRAST", "warn", "portal", "unenhanced", "Contrast agent", "portal venous phase; bone reads higher"),
        ("Q_CONTRAST", "pass", "none", "unenhanced", "Contrast agent", "none"),
        ("Q_CONTRAST_UNKNOWN", "warn", "unknown", "stated in the header", "Contrast agent stated",
         "the header does not say"),
        ("Q_MODALITY_MISSING", "warn", "labs,ct", "all present", "What the score could use", "without labs, CT"),
        ("Q_IDENTITY", "fail", "age 49 in the header, 67 in the record; sex F in the header, M in the record",
         "one sex, ages within 2 years", "Header and record agree",
         "age 49 in the header, 67 in the record; sex female in the header, male in the record"),
        ("Q_METAL", "warn", "0.0041", "<= 0.002 above 2500 HU", "Metal, hardware", "0.41 % of the body's voxels"),
        ("Q_AIR_CALIB", "warn", "-912", "-1000 +- 60 HU", "Air calibration", "air reads -912 HU"),
        ("Q_NEW", "warn", "7 of 9", "all", "Q_NEW", "7 of 9"),
    ],
)  # fmt: skip
def test_checks_in_words(gate, verdict, value, threshold, name, words):
    shown = check(dict(gate=gate, verdict=verdict, value=value, threshold=threshold), ENGLISH)
    assert (shown.name, shown.found) == (name, words)


def test_a_check_that_could_not_be_made_is_no_tick():
    gate = dict(gate="Q_TILT", verdict="pass", value="absent", threshold="warn > 0.1, fail > 5 deg")
    assert verdict_of(gate) == "unknown"
    shown = check(gate, ENGLISH)
    assert (shown.mark, shown.verdict, shown.allowed) == ("?", "Not known", "up to 0.1°; not beyond 5°")


def test_why_a_study_ended_so_is_words_first():
    gates = [dict(gate="Q_KVP", verdict="warn", value="100", threshold="120 +- 5")]
    warned = scored_row(1, 0.5) | dict(state="SCORED_WARN", code="GATE_WARN", message="Q_KVP, Q_FOV", gates=gates)
    assert reason(warned, ENGLISH) == ("Tube voltage: 100 kVp, model corrected; field of view too small", "")
    row = empty_row(1, "ABSTAINED", "NO_LUMBAR_SEEN", "select", "best 0.12")
    assert reason(row, ENGLISH) == ("no slice shows the lumbar spine", "best 0.12")
    assert reason(row, words_in("de"))[0] == "keine Schicht zeigt die Lendenwirbelsäule"
