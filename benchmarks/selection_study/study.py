"""Which slices are worth keeping: policies and controls, judged by what an image teacher learns from their picks.

    found = compare(train, test, cfg, "study/101", seed=101)     # one training cohort

Every arm keeps the same number of slices of the same scans; a fresh image teacher is fitted on each arm's picks and
scores the same test patients, so that arms differ in their slices alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file

from osteo_ray.config import Section, changed
from osteo_ray.drlis import rivals as controls
from osteo_ray.drlis.config import GumbelConfig, SelectionConfig
from osteo_ray.drlis.reward import fit_scorers
from osteo_ray.drlis.rivals import Picks
from osteo_ray.drlis.rllib import train_policy
from osteo_ray.io.step_cache import digest
from osteo_ray.kdamm.config import ImageFit
from osteo_ray.kdamm.objective import Rows
from osteo_ray.kdamm.teach import fitted
from osteo_ray.kdamm.train import FitJob, fit
from osteo_ray.model.acquisition import Acquisition, extend
from osteo_ray.model.calibration import rest_log_odds
from osteo_ray.model.config import AcquisitionConfig, ModelConfig
from osteo_ray.model.embedding import EmbeddingLayout, Scans
from osteo_ray.model.networks import Batch
from osteo_ray.model.policy import PolicyNet
from osteo_ray.patients.labels import CLASSES

NORMAL, POROTIC = CLASSES.index("normal"), CLASSES.index("osteoporosis")


class StudyConfig(Section):
    """Arms and judges of the comparison."""

    arms: dict[str, dict] = Field(
        {"DRLIS": {}}, description="name -> what differs from `selection`; the first is what the others are set against"
    )
    only_first: tuple[str, ...] = Field((), description="arms trained on the first cohort alone, for they are slow")
    spread: int = Field(0, ge=0, description="further policies of the first arm, from other seeds, on the first cohort")
    selection: SelectionConfig = SelectionConfig()
    gumbel: GumbelConfig = GumbelConfig()
    model: ModelConfig = ModelConfig()
    image: ImageFit = ImageFit()
    acquisition: AcquisitionConfig = AcquisitionConfig()
    repeats: int = Field(3, ge=1, description="image teachers an arm and cohort")
    curve: tuple[int, ...] = Field((1, 2, 4), description="also judged from each arm's first so many picks")
    boots: int = Field(2000, ge=100)

    def policy_of(self, arm: str) -> SelectionConfig:
        """The config of an arm's policy."""
        return changed(self.selection, self.arms[arm])


@dataclass(frozen=True)
class StudySet:
    """Embedded scans, one a patient, and what is known of them. Arrays share the axis [n]."""

    scans: Scans
    scanned: Acquisition
    t_score: np.ndarray  # float32, NaN unknown
    slice_bytes: np.ndarray  # float, stored bytes of one slice; NaN unknown
    level: np.ndarray  # int [n, T], 1-4 where the slice shows L1-L4, 0 elsewhere, by the truth
    mid: np.ndarray  # float [n, T], 1 at mid-vertebra, 0 at its endplates and outside, by the truth

    def take(self, rows: np.ndarray) -> StudySet:
        """The scans at `rows`."""
        rest = (getattr(self, f)[rows] for f in ("t_score", "slice_bytes", "level", "mid"))
        return StudySet(self.scans.take(rows), self.scanned.take(rows), *rest)


@dataclass
class Found:
    """What one arm came to on one training cohort."""

    log_odds: dict[int, np.ndarray]  # slices kept -> [repeats, n, 2]: against normal, against the rest
    test: Picks
    curve: list[dict[str, float]]  # of its policy's training


def compare(
    train: StudySet,
    test: StudySet,
    cfg: StudyConfig,
    layout: EmbeddingLayout,
    folder: Path,
    seed: int,
    first: bool,
    quiet: bool,
    more: Mapping[str, Callable[[StudySet], Picks]] = MappingProxyType({}),
    rivals: Sequence[str] | None = None,
) -> dict[str, Found]:
    """Every arm on one training cohort.

    Args:
        layout: of the slices' embeddings (`EncoderConfig.layout`).
        folder: of this encoder and cohort, where policies and verdicts are kept; what is there already is used.
        first: whether this is the first cohort, on which `only_first` and `spread` are run too.
        more: selectors that learn nothing from this cohort; without `arms` the first of them is what others are set
            against.
        rivals: names of the controls that are judged; None: all.
    """
    sel, keep = cfg.selection, cfg.selection.view.keep
    learnt_from, judged_on = (digest(s.scans.series.tolist(), s.scans.label.tolist()) for s in (train, test))
    scorers = fit_scorers(train.scans, sel.scorer, keep, seed, quiet)
    choose: dict[str, Callable[[StudySet], Picks]] = {}
    curves: dict[str, list[dict[str, float]]] = {}

    def learn(label: str, how: SelectionConfig, policy_seed: int) -> None:
        at = folder / digest(how.model_dump(mode="json"), policy_seed, learnt_from)
        policy, curves[label] = _policy(train.scans, test.scans, scorers, how, at, policy_seed, quiet)
        choose[label] = lambda s: controls.by_policy(s.scans, policy, scorers, how.view)

    for arm in cfg.arms:
        if first or arm not in cfg.only_first:
            learn(arm, cfg.policy_of(arm), seed)
    main = next(iter(cfg.arms), "")
    for r in range(cfg.spread if first and main else 0):
        learn(f"{main}, seed {r + 1}", cfg.policy_of(main), seed + r + 1)
    choose |= more

    @cache
    def gumbel() -> torch.nn.Module:
        return controls.fit_gumbel(train.scans, keep, cfg.gumbel, seed, quiet)

    others: dict[str, Callable[[StudySet], Picks]] = {
        "random": lambda s: controls.at_random(s.scans, keep, np.random.default_rng(seed)),
        "uniform": lambda s: controls.uniform(s.scans, keep),
        "central": lambda s: controls.central(s.scans, keep),
        "belief rule": lambda s: controls.by_rule(s.scans, sel.view),
        "coarse looks and a line": lambda s: controls.interpolated(s.scans, keep, sel.view.coarse),
        "top confidence": lambda s: controls.top_confidence(s.scans, scorers, keep, train.scans),
        "top belief": lambda s: controls.top_belief(s.scans, keep),
        "Gumbel top-k": lambda s: controls.by_scores(s.scans, gumbel(), keep),
        "oracle mid-vertebra": lambda s: controls.oracle(s.scans, s.level > 0, s.mid, keep),
        "all slices, attention": lambda s: controls.everything(s.scans),
        "all slices, mean": lambda s: controls.everything(s.scans),
    }
    choose |= {name: pick for name, pick in others.items() if rivals is None or name in rivals}
    found = {}
    for arm, pick in choose.items():
        which = digest(arm, cfg.model_dump(mode="json", exclude={"boots", "only_first", "spread", "arms"}),
                       cfg.arms.get(arm), seed, learnt_from, judged_on)  # fmt: skip
        at = folder / f"judged-{which}.npz"
        if not at.exists():
            _judge_arm(arm, pick, train, test, cfg, layout, seed, at)
        kept = dict(np.load(at))
        log_odds = {int(k): v for k, v in kept.items() if k.isdigit()}
        found[arm] = Found(log_odds, Picks(kept["kept"], kept["decoded_not_kept"]), curves.get(arm, []))
    return found


def _judge_arm(
    arm: str,
    pick: Callable[[StudySet], Picks],
    train: StudySet,
    test: StudySet,
    cfg: StudyConfig,
    layout: EmbeddingLayout,
    seed: int,
    at: Path,
) -> None:
    """Fit image teachers on an arm's picks and keep what they say of the test patients in the file `at`."""
    keep, of_train, of_test = cfg.selection.view.keep, pick(train), pick(test)
    whole = of_train.kept.shape[1] > keep  # an arm that reads as many slices as it likes
    log_odds: dict[str, Any] = {}
    for k in (keep, *(() if whole else [k for k in cfg.curve if k < keep])):
        repeats = cfg.repeats if k == keep else 1
        a, b = (_rows(s, p if whole else p.first(k), cfg, layout, arm.endswith("mean"))
                for s, p in ((train, of_train), (test, of_test)))  # fmt: skip
        log_odds[str(k)] = np.stack([_judge(a, b, cfg, seed * 100 + r) for r in range(repeats)])
    at.parent.mkdir(parents=True, exist_ok=True)
    unfinished = at.with_suffix(".tmp.npz")
    np.savez_compressed(unfinished, kept=of_test.kept, decoded_not_kept=of_test.decoded_not_kept, **log_odds)
    unfinished.replace(at)


def _policy(train: Scans, test: Scans, scorers, how: SelectionConfig, at: Path, seed: int, quiet: bool):
    """A trained policy and its learning curve; kept in `at`."""
    dim, kept = train.embedding.shape[-1], at / "policy.safetensors"
    if kept.exists():
        policy = PolicyNet(dim, how.policy.hidden)
        policy.load_state_dict(load_file(kept))
        return policy.eval(), json.loads((at / "curve.json").read_text())
    # Looked at while it learns, never learnt from; a hundred are enough for a curve.
    policy, curve = train_policy(train, scorers, how, at, seed, quiet, test.take(np.arange(min(100, len(test)))))
    (at / "curve.json").write_text(json.dumps(curve))
    save_file({k: v.contiguous() for k, v in policy.state_dict().items()}, kept)
    return policy, curve


def _rows(s: StudySet, picks: Picks, cfg: StudyConfig, layout: EmbeddingLayout, mean: bool) -> Rows:
    bag, mask = controls.bags(s.scans, picks)
    if mean:
        bag = bag.sum(1, keepdims=True) / np.maximum(mask.sum(1), 1)[:, None, None]
        mask = mask[:, :1]
    bag = extend(bag, layout, s.scanned, cfg.acquisition)
    bag[~mask] = 0.0
    none = torch.zeros(len(bag), 1)
    batch = Batch(none, none.bool(), torch.from_numpy(bag), torch.from_numpy(mask))
    return Rows(batch, torch.from_numpy(s.scans.label), torch.from_numpy(s.t_score))


def _judge(train: Rows, test: Rows, cfg: StudyConfig, seed: int) -> np.ndarray:
    """Log-odds [n, 2] of the test patients by a fresh image teacher."""
    labelled = train.take(torch.where(train.label >= 0)[0])
    net = fitted(
        FitJob("image", labelled, test.take(torch.arange(0)), ["demographics"], cfg.model, cfg.image, seed), fit
    )
    with torch.no_grad():
        p = net(test.batch).double().numpy()
    return np.stack([p[:, POROTIC] - p[:, NORMAL], rest_log_odds(p)], 1)
