"""docs/configuration.md is what the configs say, and every key says something."""

from pathlib import Path

import pytest

from osteo_ray.commands import REGISTRY, load_command
from osteo_ray.commands.options import keys
from osteo_ray.commands.reference import page
from osteo_ray.patients.mapping import Column, Mapping

ROOT = Path(__file__).parents[2]


def test_the_configuration_page_is_current():
    written = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert written == page(), "run `make docs`, or python -m osteo_ray.commands.reference docs/configuration.md"


@pytest.mark.parametrize("command", REGISTRY)
def test_every_key_has_a_description(command):
    bare = [k.path for k in keys(load_command(command).job) if len(k.text.split()) < 2]
    assert not bare


@pytest.mark.parametrize("model", [Mapping, Column])
def test_every_key_of_a_mapping_has_a_description(model):
    assert not [k.path for k in keys(model) if len(k.text.split()) < 2]


@pytest.mark.parametrize("command", REGISTRY)
def test_every_section_has_a_text(command):
    assert not [k.section.__name__ for k in keys(load_command(command).job) if not k.section.__doc__]
