"""What distillation and incomplete samples bring: every arm on the same patients, against the same test set.

    python benchmarks/ablation.py --config configs/ablation.yaml

Renders its made cohorts once (stages; a rerun goes on), embeds them with one encoder that saw none of them, fits every
arm for every setting, cohort seed and repeat, and writes ablation.md and ablation.parquet. Arms differ in who and what
teaches; networks, picks, optimiser and epochs are the same, and nothing was tuned on the test patients.
"""

from __future__ import annotations

import argparse
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from itertools import combinations
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from pydantic import Field
from safetensors.torch import load_file, save_file
from scipy.stats import rankdata
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from osteo_ray.cohort import fast
from osteo_ray.cohort.config import CohortConfig, MissingnessConfig
from osteo_ray.cohort.missing import decide
from osteo_ray.cohort.slice_set import write_slice_set
from osteo_ray.config import Section, load
from osteo_ray.kdamm.acquisition import EXTRA, Acquisition, AcquisitionConfig, extend
from osteo_ray.kdamm.calibrate import fit_calibrator, rest_log_odds
from osteo_ray.kdamm.crops import CropConfig
from osteo_ray.kdamm.encoder import EncoderConfig, PretrainConfig, SliceEncoder
from osteo_ray.kdamm.models import MODALITIES, Batch
from osteo_ray.kdamm.objective import DistillConfig, Rows
from osteo_ray.kdamm.pretrain import SliceData, pretrain
from osteo_ray.kdamm.tabular import Standardiser, fit_standardiser
from osteo_ray.kdamm.teach import fit_student, fit_teachers, present
from osteo_ray.kdamm.train import KdammConfig
from osteo_ray.records.labels import class_index
from osteo_ray.records.schema import FEATURES, NAMES
from osteo_ray.selection.data import p_lumbar, p_mid
from osteo_ray.stages import Stages, digest
from osteo_ray.training import slices as sl
from osteo_ray.training.patients import hide

GROUPS = [str(f.group) for f in FEATURES]
LABS = np.array([g == "labs" for g in GROUPS])
PATTERNS = ["+".join(s) for n in (1, 2, 3) for s in combinations(MODALITIES, n)]


class Setting(Section):
    """One population: `complete` of the rendered people keep everything, the others lose CT, some lose labs."""

    name: str
    complete: int
    extra: int = Field(0, description="further people who never had a CT: records only")
    t_score: bool = Field(True, description="whether the T-scores behind the classes teach as well")
    repeats: int = 5


class Ablation(Section):
    """The whole benchmark."""

    out: str = "runs/ablation"
    seeds: tuple[int, ...] = (101, 102, 103)
    people: int = 1000
    test_seed: int = 900
    test_people: int = 1200
    encoder_seed: int = 500
    encoder_people: int = 300
    keep: int = Field(6, description="slices a scan, by the encoder's belief in lumbar and mid-vertebra")
    val: float = 0.2
    positions: int = 64
    processes: int = 2
    settings: tuple[Setting, ...] = ()
    crop: CropConfig = CropConfig()
    encoder: EncoderConfig = EncoderConfig()
    pretrain: PretrainConfig = PretrainConfig(steps=1500)
    kdamm: KdammConfig = KdammConfig()


def cohort(seed: int, people: int) -> CohortConfig:
    """Everybody complete: what is missing is decided later."""
    whole = MissingnessConfig(complete_share=1.0, ct_only_share=0, no_labs_share=0)
    return CohortConfig(seed=seed, persons=people, missing=whole)


@dataclass
class Population:
    """People with everything; arrays share the axis [n]."""

    specs: list
    values: np.ndarray  # float64 [n, F]
    label: np.ndarray
    t_score: np.ndarray
    bag: np.ndarray  # float32 [n, K, D]
    mask: np.ndarray
    bayes: np.ndarray  # [n, 2], posterior of osteoporosis against normal and against the rest


def load_population(cfg: Ablation, seed: int, people: int) -> Population:
    """Records from the cohort, picks from the embedded slices; kept on disk, for drawing takes a while."""
    at = Path(cfg.out) / f"embedded-{seed}"
    c = cohort(seed, people)
    specs = fast.people(c)
    frame = fast.records_of(specs, c).frame
    truth = pq.read_table(Path(cfg.out) / f"slices-{seed}" / "truth" / "patients.parquet").to_pandas()
    bayes = truth.set_index("patient_key").loc[frame["patient_key"], ["p_bayes", "p_bayes_rest"]].to_numpy()
    e = pq.read_table(at / "embedded.parquet")
    embedding = e["embedding"].combine_chunks().flatten().to_numpy().reshape(e.num_rows, -1)
    of = {k: i for i, k in enumerate(frame["patient_key"])}
    who = np.array([of[k] for k in e["patient_key"].to_pylist()])
    worth = p_lumbar(embedding) * (p_mid(embedding) + 0.05)
    order = np.lexsort((-worth, who))
    bag = np.zeros((len(specs), cfg.keep, embedding.shape[1]), np.float32)
    mask = np.zeros(bag.shape[:2], bool)
    kvp, contrast = np.full(len(specs), np.nan), np.full(len(specs), np.nan)
    first = np.searchsorted(who[order], np.arange(len(specs) + 1))
    for i in range(len(specs)):
        rows = order[first[i] : first[i + 1]][: cfg.keep]
        bag[i, : len(rows)], mask[i, : len(rows)] = embedding[rows], True
        kvp[i], contrast[i] = e["kvp"][int(rows[0])].as_py(), e["contrast"][int(rows[0])].as_py()
    bag = extend(bag, cfg.encoder.n_learned, Acquisition(kvp, contrast), AcquisitionConfig())
    label = np.array([class_index(x) for x in frame["label"]])
    t = frame["t_score"].to_numpy(np.float32)
    return Population(specs, frame[list(NAMES)].to_numpy(float), label, t, bag, mask, bayes)


def arrays(specs: list) -> dict[str, np.ndarray]:
    """What missingness depends on."""
    return {"t_score": np.array([p.t_score for p in specs]), "age": np.array([p.age_y for p in specs])}


def lose(values: np.ndarray, missing: dict[str, np.ndarray]) -> np.ndarray:
    """Records without what was not asked for."""
    out = values.copy()
    out[:, LABS] = np.where(missing["labs"], out[:, LABS], np.nan)
    out[~missing["demographics"]] = np.nan
    return out


def draw(pool: Population, s: Setting, seed: int, repeat: int, val: float) -> tuple[Rows, Rows, Standardiser]:
    """Training and validation rows of one repeat: missingness and split are drawn anew, the people stay."""
    n, total = len(pool.specs), len(pool.specs) + s.extra
    values, bag, mask, label, t = pool.values, pool.bag, pool.mask, pool.label, pool.t_score
    if s.complete < n:
        share = s.complete / n
        gone = MissingnessConfig(complete_share=share, ct_only_share=0.03 * total / n * min(1, 1 - share))
        missing = decide(np.random.default_rng([seed, 2, repeat]), arrays(pool.specs), gone)
        values = lose(values, missing)
        mask = mask & missing["ct"][:, None]
    if s.extra:
        c = cohort(seed * 100 + repeat, s.extra)
        others = fast.people(c)
        frame = fast.records_of(others, c).frame
        none = MissingnessConfig(complete_share=1e-9, ct_only_share=0, no_labs_share=0.07)
        missing = decide(np.random.default_rng([seed, 3, repeat]), arrays(others), none)
        values = np.r_[values, lose(frame[list(NAMES)].to_numpy(float), missing)]
        label = np.r_[label, [class_index(x) for x in frame["label"]]]
        t = np.r_[t, frame["t_score"].to_numpy(np.float32)]
        bag = np.r_[bag, np.zeros((s.extra, *bag.shape[1:]), np.float32)]
        mask = np.r_[mask, np.zeros((s.extra, mask.shape[1]), bool)]
    judged = np.random.default_rng([seed, 4, repeat]).random(total) < val
    std = fit_standardiser(values[~judged], list(NAMES), GROUPS)
    t = t if s.t_score else np.full_like(t, np.nan)
    train, held = (rows_of(std, values[r], bag[r], mask[r], label[r], t[r]) for r in (~judged, judged))
    return train, held, std


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
    began = time.perf_counter()
    pool, test = load_population(cfg, seed, cfg.people), load_population(cfg, cfg.test_seed, cfg.test_people)
    train, val, std = draw(pool, s, seed, repeat, cfg.val)
    t = rows_of(std, test.values, test.bag, test.mask, test.label, test.t_score).batch
    k = cfg.kdamm
    said: dict[str, np.ndarray] = {}

    def student(teachers, **distill):
        how = k.model_copy(update={"distill": DistillConfig(**distill)})
        net = fit_student(train, val, teachers, GROUPS, how, repeat)
        with torch.no_grad():
            return net, net(t).numpy()

    seen = fit_teachers(train, val, GROUPS, k, repeat)
    few = fit_teachers(train, val, GROUPS, k, repeat, on="complete")
    published = {"on": "complete", "modality_dropout": 0.0}
    quiet = {"alpha_tabular": 0.0, "alpha_image": 0.0, "view": 0.0}
    _, said["(i) no KD"] = student({}, **published, **quiet)
    _, said["(ii) KD, teachers on complete"] = student(few, **published)
    _, said["(iii) KD, teachers on everyone"] = student(seen, **published)
    _, said["(iv) start from unimodal training"] = student({}, **published, **quiet, start="teachers")
    _, said["everyone, no KD"] = student({}, **(k.distill.model_dump() | quiet))
    whole, said["everyone, KD (shipped)"] = student(seen, **k.distill.model_dump())
    with torch.no_grad():
        said["tabular teacher"] = seen["tabular"](t).numpy()
        said["image teacher"] = seen["image"](t).numpy()
        said["(v) late fusion"] = np.log((np.exp(said["tabular teacher"]) + np.exp(said["image teacher"])) / 2)
        patterns = {}
        for p in PATTERNS:
            only = {m: m in p.split("+") for m in MODALITIES}
            x = whole(hide(t, only, tuple(GROUPS))).numpy()
            rows = present(val.batch, GROUPS)[:, [MODALITIES.index(m) for m in p.split("+")]].all(1)
            seen_val = whole(hide(val.batch.take(torch.where(rows)[0]), only, tuple(GROUPS))).numpy()
            c = fit_calibrator(p, rest_log_odds(seen_val), val.label[rows].numpy(), 0, resamples=1)
            patterns[f"pattern {p}"] = x
            if c is not None:
                patterns[f"risk {p}"] = c.slope * rest_log_odds(x) + c.intercept
    said |= rivals(train, t, cfg)
    np.savez(to, seconds=time.perf_counter() - began, **said, **patterns)
    return to


def rivals(train: Rows, test: Batch, cfg: Ablation) -> dict[str, np.ndarray]:
    """Methods without deep networks, on records and the regions' HU means and spreads; log-probabilities [n, 3]."""
    d = cfg.encoder.n_learned
    columns = [*range(d, d + 2 * cfg.encoder.n_rois), *range(cfg.encoder.dim, cfg.encoder.dim + EXTRA)]

    def table(b: Batch) -> np.ndarray:
        n = b.bag_mask.sum(1, keepdim=True).clamp_min(1)
        mean = ((b.bag * b.bag_mask[..., None]).sum(1) / n).numpy()[:, columns]
        mean = np.where(b.bag_mask.any(1).numpy()[:, None], mean, np.nan)
        return np.c_[np.where(b.known.numpy(), b.values.numpy(), np.nan), mean]

    x, y, to = table(train.batch), train.label.numpy(), table(test)
    complete = present(train.batch, GROUPS).all(1).numpy()

    def logistic():
        impute = SimpleImputer(strategy="mean", add_indicator=True, keep_empty_features=True)
        return make_pipeline(impute, StandardScaler(), LogisticRegression(C=0.03, max_iter=2000))

    boosting = HistGradientBoostingClassifier(
        learning_rate=0.04, max_iter=120, max_leaf_nodes=6, min_samples_leaf=20, l2_regularization=5.0, random_state=0
    )
    fits = {
        "(vi) mean-imputation with mask, logistic, everyone": logistic().fit(x, y),
        "(vi) logistic, complete": logistic().fit(x[complete], y[complete]),
        "(vi) gradient boosting, everyone": boosting.fit(x, y),
    }
    return {name: np.log(np.maximum(m.predict_proba(to), 1e-9)) for name, m in fits.items()}


# ---- tables


def auc(score: np.ndarray, case: np.ndarray) -> float:
    """Area under the curve by ranks."""
    n1 = case.sum()
    return float((rankdata(score)[case].sum() - n1 * (n1 + 1) / 2) / (n1 * (len(case) - n1)))


def measures(logits: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """AUC against normal, AUC against the rest, accuracy of osteoporosis against normal at even odds."""
    ends = y != 1
    s = logits[:, 2] - logits[:, 0]
    return auc(s[ends], y[ends] == 2), auc(rest_log_odds(logits), y == 2), float(((s > 0) == (y == 2))[ends].mean())


def table(cfg: Ablation, s: Setting, runs: dict[tuple[int, int], dict], test: Population) -> tuple[list[str], list]:
    """One setting's lines and rows. Intervals: bootstrap over test patients, cohort seeds and repeats together."""
    y = test.label
    ends = y != 1
    bayes = auc(test.bayes[ends, 0], y[ends] == 2), auc(test.bayes[:, 1], y == 2)
    arms = [a for a in next(iter(runs.values())) if a != "seconds" and not a.startswith(("pattern", "risk"))]
    point = {a: np.array([measures(r[a], y) for r in runs.values()]) for a in arms}
    rng, boot = np.random.default_rng(0), {a: [] for a in arms}
    keys = list(runs)
    for _ in range(200):
        who = rng.integers(0, len(y), len(y))
        seeds = rng.choice(cfg.seeds, len(cfg.seeds))
        picked = [keys[rng.choice([i for i, k in enumerate(keys) if k[0] == x])] for x in seeds]
        for a in arms:
            boot[a].append(np.mean([measures(runs[k][a][who], y[who]) for k in picked], axis=0))
    spread = {a: np.array(b) for a, b in boot.items()}
    base = "(i) no KD"
    lines = [
        f"\n## {s.name}: {len(keys)} runs, labels {'with T-scores' if s.t_score else 'as classes only'}\n",
        f"Bayes-optimal AUC {bayes[0]:.4f} against normal, {bayes[1]:.4f} against the rest.\n",
        "| arm | AUC vs normal | of Bayes | vs rest | accuracy | AUC minus (i) | accuracy minus (i) |",
        "|---|---|---|---|---|---|---|",
    ]
    rows = []
    for a in arms:
        m = point[a].mean(0)
        low, high = np.quantile(spread[a], [0.025, 0.975], axis=0)
        d = m - point[base].mean(0)
        dl, dh = np.quantile(spread[a] - spread[base], [0.025, 0.975], axis=0)
        lines.append(
            f"| {a} | {m[0]:.4f} ({low[0]:.3f}-{high[0]:.3f}) | {m[0] / bayes[0]:.3f} | {m[1]:.4f} | {m[2]:.4f} | "
            f"{d[0]:+.4f} ({dl[0]:+.4f} to {dh[0]:+.4f}) | "
            f"{100 * d[2]:+.2f} ({100 * dl[2]:+.2f} to {100 * dh[2]:+.2f}) |"
        )
        row = {"setting": s.name, "t_score": s.t_score, "arm": a, "runs": len(keys), "bayes": bayes[0]}
        names = ("auc", "auc_rest", "accuracy")
        for i, n in enumerate(names):
            row |= {n: m[i], f"{n}_low": low[i], f"{n}_high": high[i]}
            row |= {f"{n}_gain": d[i], f"{n}_gain_low": dl[i], f"{n}_gain_high": dh[i]}
        rows.append(row)
    lines += ["", "| the shipped student sees | AUC vs normal | its teacher | calibration slope |", "|---|---|---|---|"]
    for p in PATTERNS:
        m = np.mean([measures(r[f"pattern {p}"], y)[0] for r in runs.values()])
        rival = {"ct": "image teacher", "demographics+labs": "tabular teacher"}.get(p)
        slopes = [slope(r[f"risk {p}"], y == 2) for r in runs.values() if f"risk {p}" in r]
        beside = f"{point[rival].mean(0)[0]:.4f}" if rival else "-"
        lines.append(f"| {p} | {m:.4f} | {beside} | {np.mean(slopes):.2f} (SD {np.std(slopes):.2f}) |")
    return lines, rows


def slope(log_odds: np.ndarray, case: np.ndarray) -> float:
    """Calibration slope: logistic regression of the outcome on the calibrated log-odds."""
    return float(LogisticRegression(C=1e6).fit(log_odds[:, None], case).coef_[0, 0])


# ---- stages


def prepare(cfg: Ablation, run: Stages) -> None:
    """Slice sets, encoder, embeddings: each once."""
    sizes = {cfg.encoder_seed: cfg.encoder_people, cfg.test_seed: cfg.test_people} | dict.fromkeys(
        cfg.seeds, cfg.people
    )
    made = {}
    for seed, n in sizes.items():
        c = cohort(seed, n)
        key = digest(c.model_dump(mode="json"), cfg.crop.model_dump(), cfg.positions)
        made[seed] = run.run(
            f"slices-{seed}", key, lambda f, c=c: write_slice_set(f, c, cfg.crop, cfg.positions) and None
        )

    def fit_encoder(folder: Path) -> None:
        t = sl.load_table([made[cfg.encoder_seed] / "slices"])
        names, who = np.unique(t["patient_key"].to_pylist(), return_inverse=True)
        data = SliceData(
            crops=sl.decode_crops(t["crop"], cfg.crop.size),
            patient=who,
            region=t["region"].to_numpy().astype(np.int64),
            vertebra=t["vertebra"].to_numpy(),
            mid=t["mid"].to_numpy(),
            trabecular_hu=t["trabecular_hu"].to_numpy(),
            label=np.full(len(names), -1),
        )
        enc, _ = pretrain(data, cfg.encoder, cfg.pretrain, 0)
        save_file(enc.state_dict(), folder / "encoder.safetensors")

    key = digest(cfg.encoder.model_dump(), cfg.pretrain.model_dump(), cfg.encoder_seed, cfg.encoder_people)
    folder = run.run("encoder", key, fit_encoder)
    encoder = SliceEncoder(cfg.encoder)
    encoder.load_state_dict(load_file(folder / "encoder.safetensors"))
    encoder.eval()
    for seed in (cfg.test_seed, *cfg.seeds):

        def embed(to: Path, seed=seed) -> None:
            table = sl.embed_slice_sets([made[seed] / "slices"], encoder, cfg.crop.size, 2, lambda _: None)
            pq.write_table(table, to / "embedded.parquet")

        run.run(f"embedded-{seed}", digest(key, seed, sizes[seed]), embed)


def main() -> None:
    """Run what is missing and write the tables."""
    p = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    p.add_argument("--config", required=True)
    p.add_argument("--set", nargs="+", action="extend", default=[])
    args = p.parse_args()
    cfg = load(Ablation, args.config, args.set)
    out = Path(cfg.out).absolute()
    cfg = cfg.model_copy(update={"out": str(out)})
    began = time.perf_counter()
    prepare(cfg, Stages(out))
    prepared = time.perf_counter() - began
    # A run is named by everything that it depends on, so a rerun does what is missing.
    tag = digest(cfg.kdamm.model_dump(), cfg.encoder.model_dump(), cfg.pretrain.model_dump(), cfg.keep, cfg.val)[:6]
    (out / "runs").mkdir(exist_ok=True)
    todo = {
        (i, seed, r): out / "runs" / f"{digest(s.model_dump(exclude={'repeats'}))[:6]}-{tag}-{seed}-{r}.npz"
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
    fitted = time.perf_counter() - began - prepared
    test = load_population(cfg, cfg.test_seed, cfg.test_people)
    lines, rows = ["# Ablation"], []
    for i, s in enumerate(cfg.settings):
        runs = {(seed, r): dict(np.load(f)) for (j, seed, r), f in todo.items() if j == i}
        more, found = table(cfg, s, runs, test)
        lines, rows = lines + more, rows + found
    core = sum(float(np.load(f)["seconds"]) for f in todo.values())
    lines.append(
        f"\n{len(todo)} runs, {core:.0f} s of one core; this time: {prepared:.0f} s to prepare, {fitted:.0f} s to fit."
    )
    (out / "ablation.md").write_text("\n".join(lines) + "\n")
    pd.DataFrame(rows).to_parquet(out / "ablation.parquet")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
