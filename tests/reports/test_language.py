"""One catalogue of messages: every language has every key, with the same placeholders; code asks for no other key."""

import ast
import re
import string
from pathlib import Path

import pytest

import osteo_ray
from osteo_ray.outcomes import Phase, State
from osteo_ray.patients.schema import FEATURES
from osteo_ray.reports.language import LANGUAGES, catalogue, preferred, words_in
from osteo_ray.screening.patients import Known

PACKAGE = Path(osteo_ray.__file__).parent
SERIES_CODES = ("dicom", "catalogue", "model", "screening")
"""Packages that end a series or a file with a code."""
CODE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_language_has_every_key_with_the_same_placeholders():
    wrong = [
        key
        for key, texts in catalogue().items()
        if set(texts) != set(LANGUAGES)
        or not all(isinstance(t, str) and t.strip() == t != "" for t in texts.values())
        or len({frozenset(placeholders(t)) for t in texts.values()}) != 1
    ]
    assert wrong == []


def keys_asked_for() -> set[str]:
    """Literal keys in templates, page and code; a key that is put together is tested by what it is put together of."""
    used = set()
    for path in (PACKAGE / "reports").rglob("*.j2"):
        used |= set(re.findall(r"\bw\(\s*[\"']([\w. ]+)[\"']\s*[,)]", path.read_text(encoding="utf-8")))
    for path in (PACKAGE / "reports").rglob("*.py"):
        used |= set(re.findall(r"\bwords\(\s*\"([\w. ]+)\"", path.read_text(encoding="utf-8")))
    for path in (PACKAGE / "service" / "http" / "static").glob("*.js"):
        used |= set(re.findall(r"\bw\(\"([\w. ]+)\"", path.read_text(encoding="utf-8")))
    return used


def test_what_is_asked_for_is_there():
    used = keys_asked_for()
    assert len(used) > 80
    keys = catalogue()
    assert {k for k in used if k not in keys and not (k.endswith(".") and any(x.startswith(k) for x in keys))} == set()


def codes_of_series() -> set[str]:
    """Codes in calls that end a series or a file: a constant beside a `State`, or given to a helper that builds one."""
    trees = [ast.parse(p.read_text()) for name in SERIES_CODES for p in (PACKAGE / name).rglob("*.py")]
    helpers = {"Rejected", "Outcome"}
    for tree in trees:
        for f in ast.walk(tree):
            if isinstance(f, ast.FunctionDef) and "code" in {a.arg for a in f.args.args}:
                helpers.add(f.name)
    found = set()
    for tree in trees:
        for call in ast.walk(tree):
            if not isinstance(call, ast.Call):
                continue
            name = getattr(call.func, "id", getattr(call.func, "attr", ""))
            states = any(isinstance(a, ast.Attribute) and getattr(a.value, "id", "") == "State" for a in call.args)
            if name in helpers or states:
                texts = [a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
                found |= {t for t in texts if CODE.fullmatch(t) and len(t) > 2}
    return found


def test_every_code_has_words():
    texts = [p.read_text() for name in SERIES_CODES for p in (PACKAGE / name).rglob("*.py")]
    gates = {g for text in texts for g in re.findall(r"\"(Q_[A-Z_]+)\"", text)}
    assert len(gates) > 18
    ends = codes_of_series()
    assert {"TRUNCATED", "NO_LUMBAR_SEEN", "NOT_AXIAL", "OUT_OF_MEMORY"} <= ends
    keys = set(catalogue())
    assert {f"code.{c}" for c in gates | ends} <= keys
    assert {f"check.{g}" for g in gates} | {f"allowed.{g}" for g in gates} <= keys
    assert {f"state.{s}" for s in State} | {f"stage.{p}" for p in Phase} <= keys
    assert {f"known.{k}" for k in Known} <= keys
    assert {f"feature.{f.name}" for f in FEATURES} <= keys


def test_english_labels_are_those_of_the_schema():
    english = words_in()
    assert {f.name: english(f"feature.{f.name}") for f in FEATURES if f.name != "sex_male"} == {
        f.name: f.label for f in FEATURES if f.name != "sex_male"
    }


@pytest.mark.parametrize(
    ("header", "language"),
    [
        ("de-AT,de;q=0.9,en;q=0.8", "de"),
        ("fr,en;q=0.5,zh-CN;q=0.7", "zh"),
        ("fr", "en"),
        ("", "en"),
        (None, "en"),
        ("de;q=x, zh", "zh"),
    ],
)
def test_the_language_that_a_browser_asks_for(header, language):
    assert preferred(header) == language


def test_another_language_is_refused():
    with pytest.raises(KeyError, match="there are: en, de, zh"):
        words_in("fr")
