"""`osteo-ray checklist`: TRIPOD+AI and CLAIM tables, filled in from an evaluation and a bundle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field

from osteo_ray.commands import Command
from osteo_ray.config import Section, need
from osteo_ray.outcomes import InputError


class ChecklistJob(Section):
    """`osteo-ray checklist`."""

    evaluation: str | None = Field(None, description="folder with evaluation.json, or that file; null: without figures")
    bundle: str | None = Field(None, description="the bundle that scored; null: without its facts")
    answers: str | None = Field(None, description="YAML with the site's own answers")
    out: str | None = Field(None, description="Markdown file")


def checklist(job: ChecklistJob) -> list[str]:
    """TRIPOD+AI and CLAIM as Markdown, filled in from an evaluation and a bundle."""
    from osteo_ray.evaluation.checklists import checklists, markdown, read_answers

    ev = None
    if job.evaluation:
        path = Path(job.evaluation)
        path = path / "evaluation.json" if path.is_dir() else path
        if not path.exists():
            raise InputError(f"{path}: no such file; run `osteo-ray evaluate` first")
        ev = json.loads(path.read_text())
    lists = checklists(ev, bundle_manifest(job.bundle), read_answers(job.answers))
    out = Path(need(job, "out"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(markdown(lists), encoding="utf-8")
    counts = [f"{c.title}: " + ", ".join(f"{n} {s}" for s, n in c.counts().items() if n) for c in lists]
    return [*counts, f"written  {out}"]


def bundle_manifest(bundle: str | None) -> dict[str, Any] | None:
    if bundle is None:
        return None
    path = Path(bundle) / "bundle.json"
    if not path.exists():
        raise InputError(f"{path}: no such file; give a bundle's folder, or leave it out")
    return json.loads(path.read_text())


COMMAND = Command(ChecklistJob, checklist, positional="evaluation")
