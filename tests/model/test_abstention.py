from dataclasses import replace

import numpy as np
import pytest
from synthetic_bundle import synthetic_bundle

from osteo_ray.catalogue.checks import QualityCheck
from osteo_ray.catalogue.config import QualityChecks
from osteo_ray.model.abstention import LEVEL_MM, MODEL_CODES, ScanView, decide, model_checks
from osteo_ray.model.config import ViewConfig
from osteo_ray.model.embedding import REGIONS, EmbeddingLayout
from osteo_ray.model.patterns import PATTERNS
from osteo_ray.model.selection import Selection
from osteo_ray.outcomes import State
from osteo_ray.patients.schema import NAMES

BUNDLE = synthetic_bundle(patterns=PATTERNS, lumbar_threshold=0.3)
NO_RECORD = np.full(len(NAMES), np.nan)
FULL = "demographics+labs+ct"


def view(regions: list[str], step_mm: float = 20.0, kvp: float | None = 120.0, kept: list[int] | None = None):
    """A scan from the feet up; each slice surely shows the region named, and all are looked at."""
    e = np.zeros((len(regions), BUNDLE.config.encoder.dim), np.float32)
    for i, r in enumerate(regions):
        e[i, EmbeddingLayout.region] = np.eye(len(REGIONS))[REGIONS.index(r)]
    chosen = [i for i, r in enumerate(regions) if r == "lumbar"] if kept is None else kept
    selection = Selection(np.array(chosen, int), np.ones(len(regions), bool), e)
    return ScanView(selection, step_mm * np.arange(len(regions)), kvp)


def code(scan, pattern=FULL, record=NO_RECORD, checks=()):
    return decide(BUNDLE, scan, record, pattern, checks).code


def test_a_lumbar_spine_in_order_is_scored():
    scan = view(["pelvic", *["lumbar"] * 8, "thoracic", "thoracic"])
    checks = model_checks(BUNDLE, scan, FULL, QualityChecks())
    assert [c.verdict for c in checks] == ["pass", "pass"]
    assert decide(BUNDLE, scan, NO_RECORD, FULL, checks).state == State.SCORED


def test_without_a_lumbar_slice_there_is_no_score():
    assert code(view(["thoracic"] * 9, kept=[3, 4])) == "NO_LUMBAR_SEEN"


def test_a_chest_inside_the_lumbar_spine_is_out_of_order():
    apart = ["lumbar"] * 4 + ["thoracic"] + ["lumbar"] * 4
    assert code(view(apart, step_mm=LEVEL_MM / 4 + 1)) == "LEVELS_OUT_OF_ORDER"
    assert code(view(apart, step_mm=LEVEL_MM / 4 - 1)) == "OK", "one doubtful slice near the edge is not enough"


def test_picks_that_no_column_places_in_lumbar_bodies_are_not_scored():
    by_level = replace(BUNDLE, config=BUNDLE.config.model_copy(update={"view": ViewConfig(by_level=True)}))
    scan = view(["pelvic", *["lumbar"] * 8, "thoracic", "thoracic"], kept=[1])
    assert decide(by_level, scan, NO_RECORD, FULL).code == "LEVELS_NOT_KNOWN"
    assert decide(BUNDLE, scan, NO_RECORD, FULL).code != "LEVELS_NOT_KNOWN"


@pytest.mark.parametrize(
    ("kvp", "expected"), [(60.0, "KVP_OUT_OF_RANGE"), (160.0, "KVP_OUT_OF_RANGE"), (70.0, "OK"), (None, "OK")]
)
def test_bone_at_a_tube_voltage_that_can_not_be_corrected_is_not_scored(kvp, expected):
    assert code(view(["lumbar"] * 6, kvp=kvp)) == expected


def test_too_few_levels_and_failing_checks_abstain_and_warnings_are_named():
    two = view(["lumbar", "lumbar", "thoracic"], step_mm=10.0)
    assert code(two, checks=model_checks(BUNDLE, two, FULL, QualityChecks())) == "Q_COVERAGE"
    scan = view(["lumbar"] * 6)
    fail, warn = QualityCheck("Q_METAL", "fail", "1", "0"), QualityCheck("Q_KVP", "warn", "100", "120")
    assert code(scan, checks=[warn, fail]) == "Q_METAL"
    outcome = decide(BUNDLE, scan, NO_RECORD, FULL, [warn])
    assert (outcome.state, outcome.code, outcome.message) == (State.SCORED_WARN, "GATE_WARN", "Q_KVP")


def test_unlike_picks_and_records_abstain_only_where_they_count():
    strict = synthetic_bundle(patterns=PATTERNS, lumbar_threshold=0.3)
    for name, novelty in strict.novelty.items():
        strict.novelty[name] = type(novelty)(novelty.mean, novelty.covariance, 0.0)
    record = np.full(len(NAMES), np.nan)
    record[NAMES.index("age_y")] = 70.0
    scan = view(["lumbar"] * 6)
    assert decide(strict, scan, record, FULL).code == "OOD_IMAGE"
    assert decide(strict, None, record, "demographics").code == "OOD_RECORD"
    assert decide(strict, None, NO_RECORD, "demographics").code == "OK"


def test_a_pattern_without_calibrator_abstains():
    few = synthetic_bundle(patterns=(FULL,))
    assert decide(few, view(["lumbar"] * 6), NO_RECORD, "ct").code == "NO_CALIBRATOR"
    assert len(PATTERNS) == 7


def test_the_codes_that_training_can_foresee_are_those_of_the_model():
    assert set(MODEL_CODES) >= {"NO_LUMBAR_SEEN", "LEVELS_OUT_OF_ORDER", "KVP_OUT_OF_RANGE", "OOD_IMAGE", "OOD_RECORD"}
