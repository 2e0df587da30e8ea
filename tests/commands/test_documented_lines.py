"""Every `osteo-ray ...` that the documentation shows is a command line that the program takes."""

import re
import runpy
import shlex
from pathlib import Path

import pytest

from osteo_ray.commands import REGISTRY, load_command
from osteo_ray.commands.options import command_parser, given, keys

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md")), ROOT / "Makefile"]
PAGES += sorted((ROOT / "configs").rglob("*.yaml"))
LINE = re.compile(r"(?:osteo-ray|python jobs/|osteo_ray\.cli) ?(" + "|".join(REGISTRY) + r")(?:\.py)? ([^\n`]*)")
ELIDED = re.compile(r"\.\.\.|[<>{}\[\]$|]|COMMAND")


def lines(page):
    text = re.sub(r"\\\n\s*", " ", page.read_text(encoding="utf-8"))
    for found in LINE.finditer(text):
        rest = re.split(r" {2,}| #|; | && ", found[2])[0]
        if "--" in rest and not ELIDED.search(rest):
            yield found[1], rest.strip().rstrip(".,:)")


CASES = sorted({(name, rest) for page in PAGES if page.exists() for name, rest in lines(page)})


def test_there_are_such_lines():
    assert len(CASES) > 10


@pytest.mark.parametrize(("name", "rest"), CASES, ids=lambda c: c[:60])
def test_a_documented_line_parses(name, rest):
    argv = shlex.split(rest)
    command = load_command(name)
    parser = command_parser(name, command)
    if len(argv) == 1 and argv[0].startswith("--"):  # an option is named, not used
        assert argv[0] in {s for a in parser._actions for s in a.option_strings}
        return
    values = given(parser, command, argv)
    known = [k.path for k in keys(command.job)]
    for item in values.overrides:
        key = item.partition("=")[0]
        assert any(k == key or k.startswith(f"{key}.") or key.startswith(f"{k}.") for k in known), key


def test_the_demo_runs_the_commands_that_its_page_lists():
    page = (ROOT / "docs" / "getting-started.md").read_text()
    listed = re.findall(r"^\d\. `osteo-ray ([^`]*)`", page, re.MULTILINE)
    assert tuple(listed) == runpy.run_path(str(ROOT / "configs" / "demo" / "run.py"))["DEMO"]
