"""The API page shows documented names alone; the site's configuration lists pages that are there."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

import osteo_ray

ROOT = Path(__file__).parents[1]


def resolve(dotted):
    """The object behind a dotted name."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:n]))
        except ModuleNotFoundError:
            continue
        for part in parts[n:]:
            found = getattr(found, part)
        return found
    raise LookupError(dotted)


SHOWN = re.findall(r"^::: (\S+)", (ROOT / "docs/api.md").read_text(), re.M)


def public(thing):
    """(name, object) of what a class or a module makes public itself."""
    if inspect.isclass(thing):
        members = ((k, v) for k, v in vars(thing).items() if not k.startswith("_"))
        return [
            (k, v) for k, v in members if inspect.isroutine(v) or isinstance(v, property | classmethod | staticmethod)
        ]
    return []


@pytest.mark.parametrize("name", SHOWN)
def test_every_name_of_the_api_page_is_documented(name):
    thing = resolve(name)
    assert inspect.getdoc(thing), name
    bare = [k for k, v in public(thing) if not inspect.getdoc(v)]
    assert not bare


def test_every_public_name_of_the_package_is_on_the_page_and_documented():
    page = (ROOT / "docs/api.md").read_text()
    for name in osteo_ray.__all__:
        if name != "__version__":
            assert re.search(rf"\b{name}\b", page), name
            assert inspect.getdoc(getattr(osteo_ray, name)), name


def test_every_page_of_the_site_is_there():
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    for entry in nav:
        page = entry if isinstance(entry, str) else next(iter(entry.values()))
        assert (ROOT / "docs" / page).is_file(), page
