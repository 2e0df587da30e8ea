"""Train a bundle from a catalogue and records: every step, in order, each done once.

    summary = train(Sources("catalogue.parquet", records), "run/", cfg)      # -> run/bundle/

slices -> encoder -> embeddings -> selection (DRLIS) -> teachers and student (KDAMM) -> calibration -> bundle.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from osteo_ray.io.step_cache import digest
from osteo_ray.training.config import TrainConfig
from osteo_ray.training.finish import finish
from osteo_ray.training.picks import picked
from osteo_ray.training.prepare import Sources, prepare, selection
from osteo_ray.training.reference_distributions import headers_of


@dataclass(frozen=True)
class TrainSummary:
    """What a training run made, for printing."""

    bundle: str  # path or URI
    seconds: dict[str, float]
    reused: list[str]
    patients: dict[str, int]
    metrics: dict[str, float]
    failed: dict[str, str]
    pairing: tuple[str, ...] = ()  # what met what

    def lines(self) -> list[str]:
        """A few lines for a terminal."""
        out = [
            f"{name:12s} {s:7.1f} s{'  (reused)' if name in self.reused else ''}" for name, s in self.seconds.items()
        ]
        out += self.pairing
        out.append("patients     " + ", ".join(f"{k} {v}" for k, v in self.patients.items()))
        out += [f"{k:28s} {v:.3f}" for k, v in self.metrics.items()]
        if self.failed:
            codes = sorted(set(self.failed.values()))
            out.append(f"{len(self.failed)} series could not be read and were left out: {', '.join(codes)}")
        out.append(f"bundle       {self.bundle}")
        return out


def train(src: Sources, out: str | Path, cfg: TrainConfig, quiet: bool = False) -> TrainSummary:
    """Train everything and write `<out>/bundle`. Steps whose inputs have not changed are reused.

    Args:
        out: path or URI; in an object store a training that was cut short is carried on by any machine.

    Raises:
        InputError: where there is too little to train from; the text says what.
    """
    p = prepare(src, out, cfg, quiet)
    policy, scorers, key = selection(p, cfg, quiet)
    picks = picked(p, policy, scorers, key, cfg.selection.view, quiet)
    people, storage = p.people.patients, p.stages.store.path("ray")
    judged = [] if p.heldout is None else [p.heldout.scans.series.tolist(), p.heldout.patients.values.tolist()]
    parts = (cfg.kdamm, cfg.acquisition, cfg.calibration, cfg.novelty)
    key = digest(key, [s.model_dump() for s in parts], cfg.background, cfg.name, cfg.version, cfg.origin,
                 people.values.tolist(), people.t_score.tolist(), judged)  # fmt: skip
    headers = None if src.catalogue is None else headers_of(src.catalogue)
    folder = p.stages.run("bundle", key, lambda f: finish(f, p, picks, policy, scorers, cfg, storage, quiet, headers))
    p.stages.save("tensorboard")
    manifest = json.loads((folder / "bundle.json").read_text())
    complete = (people.scan >= 0) & np.isfinite(people.values).any(1)

    def persons(rows: np.ndarray) -> int:
        return len(np.unique(people.key[rows]))

    counts = {
        "all": persons(np.ones(len(people.key), bool)),
        "with CT": persons(people.scan >= 0),
        "complete": persons(complete),
        **{part: persons(people.part == part) for part in ("train", "val", "test")},
    }
    shown = ("val_", "heldout_auc")
    metrics = {k: v for k, v in manifest["metrics"].items() if k.startswith(shown) and v is not None}
    at = p.stages.store.path("bundle")
    return TrainSummary(at, p.stages.seconds, p.stages.reused, counts, metrics, p.failed, people.pairing)
