"""TRIPOD+AI and CLAIM as tables: each item, whether it is answered, and where or with what.

    lists = checklists(evaluation=json.loads(...), bundle=json.loads(...), answers={"tripod": {"6a": "One hospital"}})
    Path("tripod.md").write_text(markdown(lists))

The items, in this project's words, and the standing answers are in `checklists.yaml`. Figures come from
`evaluation.json` and `bundle.json`; what only the people who run a study can say is `site` until they say it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from osteo_ray.outcomes import InputError

STATES = ("answered", "partly", "site", "not done", "not applicable")
WORDS = {"site": "for the site to say"}
TITLES = {
    "tripod": "TRIPOD+AI (Collins et al., BMJ 2024;385:e078378)",
    "claim": "CLAIM, 2024 update (Tejani et al., Radiol Artif Intell 2024;6:e240300)",
}


@dataclass(frozen=True)
class Item:
    """One item: its number, what it asks in our words, the state of the answer, the answer."""

    id: str
    about: str
    state: str
    text: str


@dataclass(frozen=True)
class Checklist:
    """One reporting guideline."""

    title: str
    items: tuple[Item, ...]

    def counts(self) -> dict[str, int]:
        """How many items are in each state."""
        return {WORDS.get(s, s): sum(i.state == s for i in self.items) for s in STATES}


def checklists(
    evaluation: Mapping[str, Any] | None = None,
    bundle: Mapping[str, Any] | None = None,
    answers: Mapping[str, Any] | None = None,
) -> tuple[Checklist, ...]:
    """Fill in both lists.

    Args:
        evaluation, bundle: content of evaluation.json and bundle.json; items that need an absent one are open.
        answers: `{"tripod": {"6a": "..."}, "claim": {...}}`: the site's own answers; they win over the standing ones.

    Raises:
        InputError: an answer for a list or an item that does not exist.
    """
    facts = {"evaluation": _evaluation_facts(evaluation), "bundle": _bundle_facts(bundle)}
    known = {k: v for f in facts.values() if f is not None for k, v in f.items()}
    given = {k: {str(i): str(t) for i, t in (v or {}).items()} for k, v in (answers or {}).items()}
    _check_answers(given)
    out = []
    for name, items in _items().items():
        own = given.get(name, {})
        filled = []
        for item in items:
            need = item.get("needs")
            if item["id"] in own:
                state, text = "answered", own[item["id"]]
            elif need is not None and facts[need] is None:
                state, text = "site", f"Open: made without {'an evaluation' if need == 'evaluation' else 'a bundle'}."
            else:
                state, text = item["state"], item["text"].format_map(known)
            filled.append(Item(item["id"], item["about"], state, text))
        out.append(Checklist(TITLES[name], tuple(filled)))
    return tuple(out)


def markdown(lists: tuple[Checklist, ...]) -> str:
    """Both lists as Markdown tables."""
    out = [
        "# Reporting checklists",
        "",
        "Made by `osteo-ray checklist`; the items are in our own words, the guidelines themselves are cited.",
        "Research use only; an aid, not a diagnosis; it cannot rule out low bone density.",
    ]
    for c in lists:
        counts = ", ".join(f"{n} {s}" for s, n in c.counts().items() if n)
        out += ["", f"## {c.title}", "", f"{len(c.items)} items: {counts}.", ""]
        out += ["| item | asks for | state | answer |", "|---|---|---|---|"]
        cells = ((i.id, i.about, WORDS.get(i.state, i.state), i.text) for i in c.items)
        out += ["| " + " | ".join(v.replace("|", "\\|") for v in row) + " |" for row in cells]
    return "\n".join(out) + "\n"


def read_answers(path: str | Path | None) -> Mapping[str, Any]:
    """The site's answers from YAML.

    Raises:
        InputError: no such file, or not keys and values.
    """
    if path is None:
        return {}
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
    except OSError as e:
        raise InputError(f"answers {path}: {e.strerror}") from None
    except yaml.YAMLError as e:
        raise InputError(f"answers {path} is not YAML: {e}") from None
    if not isinstance(data, Mapping) or not all(isinstance(v, Mapping | None) for v in data.values()):
        raise InputError(f"answers {path}: write `tripod:` and `claim:`, and below each `item: answer`")
    return data


@cache
def _items() -> dict[str, list[dict[str, str]]]:
    return yaml.safe_load(Path(__file__).with_name("checklists.yaml").read_text(encoding="utf-8"))


def _check_answers(given: Mapping[str, Mapping[str, str]]) -> None:
    for name, own in given.items():
        if name not in TITLES:
            raise InputError(f"answers: no checklist {name!r}; there are: {', '.join(TITLES)}")
        there = [i["id"] for i in _items()[name]]
        wrong = [i for i in own if i not in there]
        if wrong:
            raise InputError(f"answers: {name} has no item {wrong[0]!r}; it has: {', '.join(there)}")


def _evaluation_facts(ev: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if ev is None:
        return None
    tasks = {t["name"]: t for t in ev["tasks"]}
    at = tasks["vs_rest"]["at_threshold"]
    return {
        "series": ev["series"],
        "states": ", ".join(f"{k} {n}" for k, n in ev["by_state"].items()),
        "patients": ev["patients"],
        "n_scored": ev["patients_scored"],
        "n_labelled": ev["patients_labelled"],
        "labels": ", ".join(f"{k} {n}" for k, n in ev["label_counts"].items()),
        "n_events": ev["label_counts"]["osteoporosis"],
        "auc_normal": _estimate(tasks["vs_normal"]["auc"]),
        "auc_rest": _estimate(tasks["vs_rest"]["auc"]),
        "sensitivity": _estimate(at["sensitivity"]),
        "specificity": _estimate(at["specificity"]),
        "subgroups": ", ".join(dict.fromkeys(g["by"] for g in ev["subgroups"])) or "none",
    }


def _bundle_facts(bundle: Mapping[str, Any] | None) -> dict[str, Any] | None:
    if bundle is None:
        return None
    m = bundle["metrics"]
    by: dict[str, list[str]] = {}
    for pattern, model in bundle["scored_by"].items():
        by.setdefault(model, []).append(pattern)
    return {
        "model": f"{bundle['name']} {bundle['version']}",
        "n_train": m.get("n_train", "an unknown number"),
        "n_complete": m.get("n_train_complete", "an unknown number"),
        "n_val": m.get("n_val", "an unknown number"),
        "threshold": f"{bundle['threshold']:.3f}",
        "operating_point": bundle["operating_point"],
        "scored_by": "; ".join(f"the {model} model: {', '.join(p)}" for model, p in by.items()),
    }


def _estimate(e: Mapping[str, Any]) -> str:
    if e["value"] is None:
        return f"not defined ({e['note']})" if e["note"] else "not defined"
    span = "" if e["low"] is None else f" ({e['low']:.3f} to {e['high']:.3f})"
    return f"{e['value']:.3f}{span}"
