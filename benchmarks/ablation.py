"""What distillation and incomplete samples bring: every arm on the same patients, against the same test set.

    python benchmarks/ablation.py --config configs/ablation.yaml

Renders its synthetic cohorts once (steps, shared with `osteo-ray evaluate selection`; a rerun goes on), embeds them
with one encoder that saw none of them, fits every arm for every setting, cohort seed and repeat, and writes
ablation.md, ablation.parquet and ablation.png. Arms differ in who and what teaches; architecture, picks and patients
are the same, and nothing was tuned on the test patients.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Literal

import ablation_tables as tables
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from ablation_rivals import rivals, texture
from plain_rule import l1_l2_hu
from pydantic import Field
from selection_study.job import slice_encoder, slice_set, study_set, whole_cohort
from selection_study.study import StudySet

from osteo_ray.config import Section, load
from osteo_ray.drlis import rivals as controls
from osteo_ray.drlis.config import PolicyConfig, ScorerConfig, SelectionConfig
from osteo_ray.drlis.reward import fit_scorers
from osteo_ray.drlis.rllib import train_policy
from osteo_ray.evaluation.reference_hu import cut_offs
from osteo_ray.io.step_cache import StepCache, digest
from osteo_ray.kdamm.config import DistillConfig, KdammConfig, StudentFit
from osteo_ray.kdamm.objective import Rows
from osteo_ray.kdamm.teach import cross_fitted, fit_student, fit_teachers, present
from osteo_ray.model.acquisition import extend
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import Calibrator, fit_calibrator, rest_log_odds
from osteo_ray.model.config import EXTRA, AcquisitionConfig, CropConfig, EncoderConfig, ViewConfig
from osteo_ray.model.encoder import SliceEncoder
from osteo_ray.model.networks import Batch, Student, members, show_only
from osteo_ray.model.patterns import PATTERNS, modalities_of
from osteo_ray.model.standardise import Standardiser, fit_standardiser
from osteo_ray.patients.labels import class_index
from osteo_ray.patients.schema import FEATURES, NAMES
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import MissingnessConfig
from osteo_ray.synthetic.missing import decide
from osteo_ray.synthetic.truth import seen_hu
from osteo_ray.training import slices as sl
from osteo_ray.training.config import PretrainConfig

GROUPS = [str(f.group) for f in FEATURES]
LABS = np.array([g == "labs" for g in GROUPS])
Picks = Literal["belief", "policy", "looked", "rule", "uniform", "random", "confidence", "oracle"]
BY_POLICY = ("policy", "looked")
PUBLISHED = {"on": "complete", "modality_dropout": 0.0}
"""Distillation as published: labels of complete patients alone, nothing hidden."""
QUIET = {"alpha_tabular": 0.0, "alpha_image": 0.0, "view": 0.0}
"""No teacher is heard."""
NOBODY = -20.0
"""Log-probability of a class that a rule never names."""


class Setting(Section):
    """One population: `complete` of the rendered people keep everything, the others lose CT, some lose labs."""

    name: str
    complete: int
    extra: int = Field(0, description="further people who never had a CT: records only")
    t_score: bool = Field(True, description="whether the T-scores behind the classes teach as well")
    picks: Picks = Field(
        "belief",
        description="which slices of a scan are read, as in `osteo-ray evaluate selection`; looked: all that the "
        "policy decodes",
    )
    reading: Literal["encoder", "perfect"] = Field(
        "encoder", description="perfect: in place of the encoder's reading of the slices, what can be read at best"
    )
    arms: Literal["all", "students", "no_kd"] = Field(
        "all", description="students: (i), (iii) and the shipped arm alone; no_kd: (i) alone"
    )
    repeats: int = 5


class Arms(Section):
    """Optimisation of arms other than the shipped one: epochs and decay were tuned for each on cohort 101 alone."""

    no_kd: StudentFit = StudentFit(epochs=15, batch=64, weight_decay=3.0)
    published: StudentFit = StudentFit(epochs=30, batch=64, weight_decay=3.0)
    everyone_no_kd: StudentFit = StudentFit(weight_decay=3.0)


class Ablation(Section):
    """The whole benchmark."""

    out: str = "runs/ablation"
    seeds: tuple[int, ...] = (101, 102, 103)
    people: int = 1000
    test_seed: int = 900
    test_people: int = 1200
    encoder_seed: int = 500
    encoder_people: int = 300
    bundle: str | None = Field(
        None, description="a bundle whose encoder and policy are used; null: both learn from the encoder's people"
    )
    keep: int = Field(6, description="slices a scan")
    val: float = 0.2
    folds: int = Field(4, description="of the cross-fitted calibration")
    cross_fitted: int = Field(
        1, description="repeats of a setting that are cross-fitted too, for it costs as much again"
    )
    positions: int = 64
    processes: int = 2
    settings: tuple[Setting, ...] = ()
    crop: CropConfig = CropConfig()
    encoder: EncoderConfig = EncoderConfig()
    pretrain: PretrainConfig = PretrainConfig(steps=3000)
    acquisition: AcquisitionConfig = AcquisitionConfig()
    # When the arms were named, teachers were not cross-fitted where nothing else was said.
    kdamm: KdammConfig = KdammConfig(distill=DistillConfig(teacher_folds=0))
    arms: Arms = Arms()


# ---- people


@dataclass
class Population:
    """People with everything; arrays share the axis [n]."""

    values: np.ndarray  # float64 [n, F]
    label: np.ndarray
    t_score: np.ndarray
    age_y: np.ndarray
    bayes: np.ndarray  # [n, 2], posterior of osteoporosis against normal and against the rest
    bag: np.ndarray  # float32 [n, K, D], the picks
    mask: np.ndarray
    texture: np.ndarray  # [n, features], of the picks by belief
    hu: np.ndarray  # [n], mean of L1 and L2 in the policy's picks at 120 kVp; NaN not measured


def write_population(
    to: Path, seed: int, people: int, s: StudySet, scorers: list, fitted_on: StudySet, cohort: Path, enc: SliceEncoder,
    cfg: Ablation,
) -> None:  # fmt: skip
    """Everything a run reads of one cohort, as one file: records, truth, every selector's picks, texture."""
    c = whole_cohort(seed, people)
    specs = fast.people(c)
    frame = fast.records_of(specs, c).frame
    truth = pq.read_table(cohort / "truth" / "patients.parquet").to_pandas().set_index("patient_key")
    truth = truth.loc[frame["patient_key"]]
    of = {k: i for i, k in enumerate(s.scans.patient)}
    rows = np.array([of[k] for k in frame["patient_key"]])
    s = s.take(rows)
    picks = {
        "belief": controls.top_belief(s.scans, cfg.keep),
        "uniform": controls.uniform(s.scans, cfg.keep),
        "random": controls.at_random(s.scans, cfg.keep, np.random.default_rng(seed)),
        "confidence": controls.top_confidence(s.scans, scorers, cfg.keep, fitted_on.scans),
        "oracle": controls.oracle(s.scans, s.level > 0, s.mid, cfg.keep),
        "rule": controls.by_rule(s.scans, ViewConfig(keep=cfg.keep)),
    }
    out = {}
    for name, p in picks.items():
        bag, mask = controls.bags(s.scans, p)
        out[f"bag_{name}"] = extend(bag, cfg.encoder.layout, s.scanned, cfg.acquisition)
        out[f"mask_{name}"] = mask
    best = np.array([seen_hu(stack.anatomy, stack.scan) for stack in (fast.stack_of(p, c) for p in specs)])
    perfect = np.stack([(best - 150) / 50, truth["degeneration"].to_numpy(), np.log(best)], axis=1)
    np.savez(
        to / "population.npz",
        values=frame[list(NAMES)].to_numpy(float),
        label=np.array([class_index(x) for x in frame["label"]]),
        t_score=frame["t_score"].to_numpy(np.float32),
        age_y=np.array([p.age_y for p in specs]),
        bayes=truth[["p_bayes", "p_bayes_rest"]].to_numpy(),
        perfect=perfect.astype(np.float32),
        texture=texture_of(cohort, s, picks["belief"].kept, enc, cfg),
        **out,  # type: ignore[arg-type]  # numpy's stubs read any keyword as `allow_pickle`
    )


def texture_of(cohort: Path, s: StudySet, kept: np.ndarray, enc: SliceEncoder, cfg: Ablation) -> np.ndarray:
    """Mean texture [n, features] of each scan's picks; NaN where there is none."""
    t = sl.load_table([cohort / "slices"], ["series_uid", "z_mm", "crop"])
    t = t.sort_by([("series_uid", "ascending"), ("z_mm", "ascending")])
    series, first = np.unique(np.array(t["series_uid"].to_pylist(), dtype=str), return_index=True)
    begin = first[np.searchsorted(series, s.scans.series)]
    rows = (begin[:, None] + kept)[kept >= 0]
    crops = sl.decode_crops(t["crop"].take(rows), cfg.crop.size)
    found = [texture(crops[i : i + 128], enc) for i in range(0, len(crops), 128)]
    each = np.full((*kept.shape, found[0].shape[1]), np.nan)
    each[kept >= 0] = np.concatenate(found)
    return np.nanmean(each, axis=1)


def prepare(cfg: Ablation, run: StepCache) -> None:
    """Slice sets, encoder, embeddings, populations: each once."""
    given = Bundle.load(cfg.bundle) if cfg.bundle else None
    seen = sizes(cfg) if given else {cfg.encoder_seed: cfg.encoder_people, **sizes(cfg)}
    cohorts = {seed: slice_set(run, whole_cohort(seed, n), cfg.crop, cfg.positions) for seed, n in seen.items()}
    enc = given.encoder if given else slice_encoder(run, cohorts[cfg.encoder_seed], cfg.encoder, cfg.pretrain, cfg.crop)
    assert isinstance(enc, SliceEncoder)
    encoder: SliceEncoder = enc
    sets: dict[int, StudySet] = {}

    def embedded(seed: int) -> StudySet:
        if seed not in sets:
            sets[seed] = study_set(run, cohorts[seed], encoder, cfg.crop, cfg.positions)
        return sets[seed]

    for seed, n in sizes(cfg).items():

        def work(to: Path, seed=seed, n=n) -> None:
            fitted_on = embedded(cfg.seeds[0])
            scorers = fit_scorers(fitted_on.scans, ScorerConfig(), cfg.keep, 0, True)
            write_population(to, seed, n, embedded(seed), scorers, fitted_on, cohorts[seed], encoder, cfg)

        run.run(f"population-{seed}", digest(data_key(cfg), seed, n, cfg.keep, cfg.seeds[0]), work)
    if any(s.picks in BY_POLICY for s in cfg.settings):
        policy_picks(cfg, run, embedded, given)


def policy_picks(cfg: Ablation, run: StepCache, embedded: Callable[[int], StudySet], given: Bundle | None) -> None:
    """What one trained policy keeps of every cohort's scans, and the HU there: the bundle's, or one that learnt on the
    encoder's people. No arm sees whom it learnt on."""
    how = SelectionConfig(view=ViewConfig(keep=cfg.keep), policy=PolicyConfig(env_runners=0))
    key = digest(data_key(cfg), how.model_dump(mode="json"))

    def learn(to: Path) -> None:
        scans = embedded(cfg.encoder_seed).scans
        scorers = fit_scorers(scans, how.scorer, cfg.keep, 0, True)
        torch.save((train_policy(scans, scorers, how, to, 0)[0], scorers), to / "policy.pt")

    if given:
        policy, scorers, view = given.policy, given.reward_classifiers, given.config.view
    else:
        policy, scorers = torch.load(run.run("policy", key, learn) / "policy.pt", weights_only=False)
        view = how.view
    for seed in sizes(cfg):

        def keep(to: Path, seed=seed) -> None:
            s = of_people(embedded(seed), seed, sizes(cfg)[seed])
            picks = controls.by_policy(s.scans, policy, scorers, view)
            bag, mask = controls.bags(s.scans, picks)
            bag = extend(bag, cfg.encoder.layout, s.scanned, cfg.acquisition)
            hu = l1_l2_hu(s.scans, s.scanned, picks.kept, picks.looked, cfg.encoder.layout, cfg.acquisition)
            np.savez(to / "population.npz", bag_policy=bag, mask_policy=mask, hu=hu)

        def look(to: Path, seed=seed) -> None:
            s = of_people(embedded(seed), seed, sizes(cfg)[seed])
            bag, mask = controls.bags(s.scans, all_looked(controls.by_policy(s.scans, policy, scorers, view)))
            bag = extend(bag, cfg.encoder.layout, s.scanned, cfg.acquisition)
            np.savez(to / "population.npz", bag_looked=bag, mask_looked=mask)

        which = digest(key, seed, sizes(cfg)[seed])
        run.run(f"policy-{seed}", which, keep)
        if any(x.picks == "looked" for x in cfg.settings):
            run.run(f"looked-{seed}", which, look)


def all_looked(picks: controls.Picks) -> controls.Picks:
    """Picks that keep every slice that was decoded, those that were kept first."""
    out = np.full(picks.looked.shape, -1)
    for row, kept, looked in zip(out, picks.kept, picks.looked, strict=True):
        first = kept[kept >= 0]
        each = [*first, *np.setdiff1d(np.flatnonzero(looked), first)]
        row[: len(each)] = each
    used = int((out >= 0).any(0).sum())
    return controls.Picks(out[:, :used], picks.decoded_not_kept)


def of_people(s: StudySet, seed: int, people: int) -> StudySet:
    """A cohort's scans in the order of its people."""
    of = {k: i for i, k in enumerate(s.scans.patient)}
    c = whole_cohort(seed, people)
    return s.take(np.array([of[fast.key_of(p, c)] for p in fast.people(c)]))


def sizes(cfg: Ablation) -> dict[int, int]:
    """People of each cohort that is trained or tested on."""
    return {cfg.test_seed: cfg.test_people} | dict.fromkeys(cfg.seeds, cfg.people)


def data_key(cfg: Ablation) -> str:
    """What the populations depend on beside their seed."""
    how = cfg.model_dump(mode="json", include={"crop", "encoder", "pretrain", "acquisition"})
    who = Bundle.load(cfg.bundle).sha256 if cfg.bundle else [cfg.encoder_seed, cfg.encoder_people]
    return digest(how, who, cfg.positions)


@lru_cache(maxsize=4)
def _arrays(path: str) -> dict[str, np.ndarray]:
    return dict(np.load(path))


def population(cfg: Ablation, seed: int, s: Setting) -> Population:
    """A cohort as a setting sees it."""
    a = _arrays(str(Path(cfg.out) / f"population-{seed}" / "population.npz"))
    if s.picks in BY_POLICY:
        a = a | _arrays(str(Path(cfg.out) / f"{s.picks}-{seed}" / "population.npz"))
    bag, mask = a[f"bag_{s.picks}"], a[f"mask_{s.picks}"]
    if s.reading == "perfect":
        # Padded to the bag's shape, so that architecture and number of weights stay.
        bag = np.zeros_like(bag)
        bag[..., : a["perfect"].shape[1]] = a["perfect"][:, None]
    same = {k: a[k] for k in ("values", "label", "t_score", "age_y", "bayes", "texture")}
    return Population(**same, bag=bag, mask=mask, hu=a.get("hu", np.full(len(bag), np.nan)))


def lose(values: np.ndarray, missing: dict[str, np.ndarray]) -> np.ndarray:
    """Records without what was not asked for."""
    out = values.copy()
    out[:, LABS] = np.where(missing["labs"], out[:, LABS], np.nan)
    out[~missing["demographics"]] = np.nan
    return out


@dataclass
class Drawn:
    """Training and validation rows of one repeat."""

    train: Rows
    val: Rows
    standardiser: Standardiser
    texture: np.ndarray  # of the training rows


def draw(pool: Population, s: Setting, seed: int, repeat: int, val: float) -> Drawn:
    """Missingness and split of one repeat are drawn anew, the people with CT stay."""
    n, total = len(pool.label), len(pool.label) + s.extra
    values, bag, mask, label, t, texture = pool.values, pool.bag, pool.mask, pool.label, pool.t_score, pool.texture
    if s.complete < n:
        share = s.complete / n
        gone = MissingnessConfig(complete_share=share, ct_only_share=0.03 * total / n * min(1, 1 - share))
        traits = {"t_score": pool.t_score.astype(float), "age": pool.age_y}
        missing = decide(np.random.default_rng([seed, 2, repeat]), traits, gone)
        values = lose(values, missing)
        mask = mask & missing["ct"][:, None]
    if s.extra:
        c = whole_cohort(seed * 100 + repeat, s.extra)
        others = fast.people(c)
        frame = fast.records_of(others, c).frame
        none = MissingnessConfig(complete_share=1e-9, ct_only_share=0, no_labs_share=0.07)
        traits = {"t_score": np.array([p.t_score for p in others]), "age": np.array([p.age_y for p in others])}
        missing = decide(np.random.default_rng([seed, 3, repeat]), traits, none)
        values = np.r_[values, lose(frame[list(NAMES)].to_numpy(float), missing)]
        label = np.r_[label, [class_index(x) for x in frame["label"]]]
        t = np.r_[t, frame["t_score"].to_numpy(np.float32)]
        bag = np.r_[bag, np.zeros((s.extra, *bag.shape[1:]), np.float32)]
        mask = np.r_[mask, np.zeros((s.extra, mask.shape[1]), bool)]
        texture = np.r_[texture, np.full((s.extra, texture.shape[1]), np.nan)]
    judged = np.random.default_rng([seed, 4, repeat]).random(total) < val
    std = fit_standardiser(values[~judged], list(NAMES), GROUPS)
    t = t if s.t_score else np.full_like(t, np.nan)
    train, held = (rows_of(std, values[r], bag[r], mask[r], label[r], t[r]) for r in (~judged, judged))
    return Drawn(train, held, std, texture[~judged])


def rows_of(std: Standardiser, values, bag, mask, label, t) -> Rows:
    """Arrays as what trains."""
    z, known = std(values)
    bag = np.where(mask[..., None], bag, 0).astype(np.float32)
    tensors = (torch.from_numpy(a) for a in (z, known, bag, mask))
    return Rows(Batch(*tensors), torch.from_numpy(label.astype(np.int64)), torch.from_numpy(t.astype(np.float32)))


# ---- arms


def one_run(cfg: Ablation, s: Setting, seed: int, repeat: int, to: Path) -> Path:
    """Fit every arm and keep what each says of the test patients."""
    torch.set_num_threads(1)
    began = time.process_time()
    pool, test = population(cfg, seed, s), population(cfg, cfg.test_seed, s)
    d = draw(pool, s, seed, repeat, cfg.val)
    train, val = d.train, d.val
    t = rows_of(d.standardiser, test.values, test.bag, test.mask, test.label, test.t_score).batch
    k = cfg.kdamm
    scores: dict[str, np.ndarray] = {}

    def student(teachers, fit: StudentFit, **distill):
        how = k.model_copy(update={"student": fit, "distill": DistillConfig(**(k.distill.model_dump() | distill))})
        net = fit_student(train, val, teachers, GROUPS, how, repeat)
        with torch.no_grad():
            return net, net(t).numpy()

    _, scores["(i) no KD"] = student({}, cfg.arms.no_kd, **PUBLISHED, **QUIET)
    patterns: dict[str, np.ndarray] = {}
    if s.arms != "no_kd":
        seen = fit_teachers(train, val, GROUPS, k, repeat)
        _, scores["(iii) KD, teachers on everyone"] = student(seen, cfg.arms.published, **PUBLISHED)
        whole, scores[tables.MAIN] = student(seen, k.student)
        with torch.no_grad():
            scores["tabular teacher"] = seen["tabular"](t).numpy()
            scores["image teacher"] = seen["image"](t).numpy()
        fused = (np.exp(scores["tabular teacher"]) + np.exp(scores["image teacher"])) / 2
        scores["(v) late fusion"] = np.log(fused)
        folds = 0 if s.arms == "students" or repeat >= cfg.cross_fitted else cfg.folds
        apart = [(rows, m.student) for rows, m in cross_fitted(train, GROUPS, k, repeat, folds)]
        patterns = by_pattern(t, whole, seen, val, apart)
    if s.arms == "all":
        few = fit_teachers(train, val, GROUPS, k, repeat, on="complete")
        _, scores["(ii) KD, teachers on complete"] = student(few, cfg.arms.published, **PUBLISHED)
        _, scores["(iv) start from unimodal training"] = student(
            {}, cfg.arms.no_kd, **PUBLISHED, **QUIET, start="teachers"
        )
        _, scores["everyone, no KD"] = student({}, cfg.arms.everyone_no_kd, **QUIET)
        _, scores["as shipped, teachers cross-fitted"] = student(seen, k.student, teacher_folds=3)
        first = cfg.encoder.n_learned
        hand = [*range(first, first + 2 * cfg.encoder.n_rois), *range(cfg.encoder.dim, cfg.encoder.dim + EXTRA)]
        complete = present(train.batch, GROUPS).all(1).numpy()
        scores |= rivals(train, complete, d.texture, t, test.texture, hand)
        if np.isfinite(test.hu).all():
            scores["(vi) mean HU of L1-L2, published cut-off"] = by_hu(test.hu)
    half: dict[str, Any] = {n: a.astype(np.float32) for n, a in (scores | patterns).items()}
    np.savez(to, seconds=time.process_time() - began, **half)
    return to


def by_pattern(
    t: Batch, whole: Student, seen: dict, val: Rows, apart: list[tuple[Rows, Student]]
) -> dict[str, np.ndarray]:
    """What the student, its teacher and the calibrated student say of the test patients, by what is shown of them."""
    out = {}
    with torch.no_grad():
        for p in PATTERNS:
            hidden = show_only(t, p, tuple(GROUPS))
            out[f"pattern {p}"] = x = whole(hidden).numpy()
            out[f"teacher {p}"] = seen["image" if "ct" in modalities_of(p) else "tabular"](hidden).numpy()
            for name, more in (("risk", []), ("cross", apart)):
                c = calibrator_of(p, [(val, whole), *more]) if more or name == "risk" else None
                if c is not None:
                    out[f"{name} {p}"] = c.slope * rest_log_odds(x) + c.intercept
    return out


def by_hu(hu: np.ndarray) -> np.ndarray:
    """Class log-probabilities [n, 3] whose log-odds are the HU below the published sensitive cut-off, in tens."""
    below = torch.from_numpy((cut_offs().sensitive - hu) / 10)
    never = torch.full_like(below, NOBODY)
    return torch.stack([-below / 2, never, below / 2], 1).log_softmax(1).numpy()


def calibrator_of(pattern: str, judged: list[tuple[Rows, Student]]) -> Calibrator | None:
    """Of a pattern, from patients whom the student beside them was not trained on; what they have more is hidden."""
    x, y = [], []
    for rows, net in judged:
        holders = members(pattern, present(rows.batch, GROUPS))
        shown = show_only(rows.batch.take(holders), pattern, tuple(GROUPS))
        x.append(rest_log_odds(net(shown).numpy().astype(float)))
        y.append(rows.label[holders].numpy())
    return fit_calibrator(pattern, np.concatenate(x), np.concatenate(y), 0, resamples=1)


def fit_missing(cfg: Ablation) -> dict[tuple[int, int, int], Path]:
    """Prepare and fit what is missing; the file of each run, by (setting, seed, repeat)."""
    out = Path(cfg.out)
    began = time.perf_counter()
    prepare(cfg, StepCache(out))
    # A run is named by everything that it depends on, so a rerun does what is missing.
    how = (cfg.kdamm.model_dump(), cfg.arms.model_dump(), data_key(cfg), cfg.keep, cfg.val, cfg.folds)
    tag = digest(*how, cfg.test_seed, cfg.test_people)[:6]
    (out / "runs").mkdir(exist_ok=True)
    todo = {
        (i, seed, r): out / "runs" / f"{digest(s.model_dump(exclude={'repeats', 'name'}))[:6]}-{tag}-{seed}-{r}.npz"
        for i, s in enumerate(cfg.settings)
        for seed in cfg.seeds
        for r in range(s.repeats)
    }
    with ProcessPoolExecutor(cfg.processes, get_context("spawn")) as pool:
        jobs = [
            pool.submit(one_run, cfg, cfg.settings[i], seed, r, to)
            for (i, seed, r), to in todo.items()
            if not to.exists()
        ]
        for n, job in enumerate(as_completed(jobs), 1):
            job.result()
            print(f"{n}/{len(jobs)} runs, {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return todo


def runs_of(todo: dict[tuple[int, int, int], Path], setting: int) -> dict[tuple[int, int], dict[str, np.ndarray]]:
    """A setting's runs by (seed, repeat)."""
    return {(seed, r): dict(np.load(f)) for (i, seed, r), f in todo.items() if i == setting}


def main() -> None:
    """Run what is missing and write the tables."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--config", required=True)
    p.add_argument("--set", nargs="+", action="extend", default=[])
    args = p.parse_args()
    cfg = load(Ablation, args.config, args.set)
    out = Path(cfg.out).absolute()
    cfg = cfg.model_copy(update={"out": str(out)})
    todo = fit_missing(cfg)
    lines, rows = ["# Ablation"], []
    for i, s in enumerate(cfg.settings):
        test = population(cfg, cfg.test_seed, s)
        more, found = tables.one_setting(s.name, runs_of(todo, i), test.label, test.bayes, PATTERNS)
        share = s.complete / (cfg.people + s.extra)
        lines += more
        rows += [r | {"complete_share": share, **s.model_dump(exclude={"name", "repeats"})} for r in found]
    core = sum(float(np.load(f)["seconds"]) for f in todo.values())
    lines.append(f"\n{len(todo)} runs, {core:.0f} s of one core.")
    (out / "ablation.md").write_text("\n".join(lines) + "\n")
    frame = pd.DataFrame(rows)
    frame.to_parquet(out / "ablation.parquet")
    tables.picture(frame, out / "ablation.png")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
