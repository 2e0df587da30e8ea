"""The cohort's config: the shipped file loads, and bad keys are named."""

from pathlib import Path

import pytest

from osteo_ray.config import ConfigError, load
from osteo_ray.synthetic.config import CohortConfig

SHIPPED = Path(__file__).parents[2] / "configs" / "cohort.yaml"


def test_the_shipped_config_is_the_calibrated_cohort():
    cfg = load(CohortConfig, SHIPPED)
    assert cfg.persons == 2210
    assert cfg.model_copy(update={"persons": 440, "seed": 0}) == CohortConfig()


def test_a_difficulty_out_of_the_published_range_is_refused():
    with pytest.raises(ConfigError, match=r"scan\.repeat_cv"):
        load(CohortConfig, SHIPPED, ["scan.repeat_cv=0.5"])
    with pytest.raises(ConfigError, match=r"scan\.kvp_share: no such key"):
        load(CohortConfig, SHIPPED, ["scan.kvp_share=1"])


def test_nhanes_needs_its_file():
    from osteo_ray.synthetic.fast import people

    with pytest.raises(ConfigError, match=r"population\.nhanes_path"):
        people(CohortConfig.model_validate({"population": {"source": "nhanes"}}), 3)
