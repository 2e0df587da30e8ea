"""Calibrations of the student by pattern, and other ways to teach it, on cohorts with a known posterior.

    python benchmarks/calibration.py            # half an hour of one core; a rerun fits what is missing
    python benchmarks/calibration.py --saved    # figures and page of the runs that are there
    python benchmarks/calibration.py --page     # the page alone, of the figures that are there

Readings of a scan are drawn from the truth, with the error that the encoder has; nothing is rendered. Each of the
cohorts (2,210 people, 11 % complete, who gets a CT chosen by frailty as in `osteo-ray cohort`) is split,
fitted, cross-fitted and calibrated as `osteo-ray train` does it, five times. Test people are whole, and each pattern
hides from them what it lacks. The slope is that of the exact posterior on the calibrated log-odds, which has the same
expectation as that of drawn labels and a third of its noise; the squared error is to the posterior of everything known
(a constant per pattern above that to the pattern's own posterior, so that differences are the same).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import expit, logit
from sklearn.metrics import roc_auc_score

from osteo_ray.io.step_cache import digest
from osteo_ray.kdamm.config import DistillConfig, KdammConfig
from osteo_ray.kdamm.objective import Rows
from osteo_ray.kdamm.teach import cross_fitted, fit_all, present, shares
from osteo_ray.model.calibration import normal_log_odds
from osteo_ray.model.networks import Batch, members, show_only
from osteo_ray.model.ordinal import Latent
from osteo_ray.model.patterns import PATTERNS, modalities_of
from osteo_ray.model.scoring_bundle import AnyCalibrator
from osteo_ray.model.standardise import fit_standardiser
from osteo_ray.patients.labels import OSTEOPENIA, OSTEOPOROSIS, class_index
from osteo_ray.patients.schema import FEATURES, NAMES
from osteo_ray.synthetic import fast
from osteo_ray.synthetic.config import CohortConfig, MissingnessConfig
from osteo_ray.synthetic.missing import decide
from osteo_ray.synthetic.truth import seen_hu
from osteo_ray.training.calibrate import Evidence, evidence, fit_calibrators, pattern_weights
from osteo_ray.training.config import CalibrationConfig

ROOT = Path(__file__).resolve().parent.parent
OUT = ROOT / "docs" / "results" / "calibration.json"
GROUPS = [str(f.group) for f in FEATURES]
SHIPPED = KdammConfig(distill=DistillConfig(teacher_folds=0))
"""The student as it shipped when the seeds were named: its teachers were not cross-fitted."""
STUDENTS: dict[str, dict[str, Any]] = {
    "as shipped": {},
    "teachers cross-fitted": {"teacher_folds": 3},
    "more never worse": {"more": 1.0},
}
"""What differs from `SHIPPED` (`kdamm.distill`); calibration is judged on the first alone."""
PLAIN = next(iter(STUDENTS))
LOGISTIC, GAUSSIAN, UNPOOLED = "logistic (Firth)", "Gaussian, weighted, pooled", "Gaussian, weighted"
METHODS = {
    LOGISTIC: CalibrationConfig(method="logistic"),
    GAUSSIAN: CalibrationConfig(method="gaussian", pool=True),
    UNPOOLED: CalibrationConfig(method="gaussian", pool=False),
    "Gaussian, pooled, unweighted": CalibrationConfig(method="gaussian", pool=True, population="as_known"),
}
BOOTS = 300
MODELS = {"student": "The student", "ridge": "Ridge regressions on the T-score"}
RIDGE = 20.0
SLICES = 6
LOW, HIGH, MEAN = 0.9, 1.1, 0.01


@dataclass(frozen=True)
class Study:
    """Whose people, and how often."""

    seeds: tuple[int, ...] = (311, 312, 313)
    people: int = 2210
    test_seed: int = 390
    test_people: int = 1000
    repeats: int = 5
    val: float = 0.2
    folds: int = 4


# ---- people


@dataclass(frozen=True)
class Readings:
    """Synthetic people with readings of their scans. Arrays share the axis [n]."""

    values: np.ndarray  # float64 [n, F], NaN missing
    label: np.ndarray  # int, index into CLASSES
    t_score: np.ndarray  # float32
    age_y: np.ndarray  # float, of everyone, whatever the record holds
    posterior: np.ndarray  # float, exact P(osteoporosis) given scan and record (record alone without CT)
    bag: np.ndarray  # float32 [n, SLICES, 3]
    mask: np.ndarray  # bool [n, SLICES]; all False: no CT

    def take(self, rows: np.ndarray) -> Readings:
        """The people at `rows`."""
        return Readings(*(getattr(self, f.name)[rows] for f in fields(self)))


def readings(seed: int, people: int, whole: bool) -> Readings:
    """A cohort whose slices read density with 15 HU of error and 6 HU a scan, and degeneration with an SD of 1.

    Args:
        whole: everything is known of everyone; else 11 % complete, as in the source cohort.
    """
    everything = MissingnessConfig(complete_share=1.0, ct_only_share=0, no_labs_share=0)
    cfg = CohortConfig(seed=seed, persons=people, missing=everything if whole else MissingnessConfig())
    specs = fast.people(cfg)
    rng = np.random.default_rng([seed, 7])
    n = len(specs)
    stacks = [fast.stack_of(p, cfg) for p in specs]
    seen = np.array([seen_hu(s.anatomy, s.scan) for s in stacks])
    hu = seen[:, None] + 6 * rng.standard_normal((n, 1)) + 15 * rng.standard_normal((n, SLICES))
    worn = np.array([p.degeneration for p in specs])[:, None] + rng.standard_normal((n, SLICES))
    bag = np.stack([(hu - 150) / 50, worn, rng.standard_normal((n, SLICES))], axis=2)
    frame = fast.records_of(specs, cfg).frame
    return Readings(
        values=frame[list(NAMES)].to_numpy(float),
        label=np.array([class_index(p.label) for p in specs]),
        t_score=np.array([p.t_score for p in specs], np.float32),
        age_y=np.array([p.age_y for p in specs]),
        posterior=fast.posterior_of(specs, cfg).vs_rest,
        bag=bag.astype(np.float32),
        mask=np.repeat(np.array([p.has_ct for p in specs])[:, None], SLICES, axis=1),
    )


def rows_of(p: Readings, std: Callable) -> Rows:
    """People as what trains."""
    values, known = std(p.values)
    bag = np.where(p.mask[..., None], p.bag, 0).astype(np.float32)
    batch = Batch(*(torch.from_numpy(np.ascontiguousarray(a)) for a in (values, known, bag, p.mask)))
    return Rows(batch, torch.from_numpy(p.label.astype(np.int64)), torch.from_numpy(p.t_score.astype(np.float32)))


def scanned_weights(test: Readings) -> np.ndarray:
    """P(CT) of the test people, as the cohorts' mechanism gives it: the archive's patients are those who get one."""
    cfg = MissingnessConfig()
    traits = {"t_score": test.t_score.astype(float), "age": test.age_y}
    draws = [decide(np.random.default_rng(i), traits, cfg)["ct"] for i in range(400)]
    return np.mean(draws, axis=0)


# ---- a linear model in the student's place


def features(r: Rows, pattern: str) -> np.ndarray:
    """What a pattern shows of each row, [n, F], with a column of ones."""
    b = show_only(r.batch, pattern, tuple(GROUPS))
    shown = [g in modalities_of(pattern) for g in GROUPS]
    parts = [np.ones((len(r), 1)), b.values.numpy()[:, shown], b.known.numpy()[:, shown].astype(float)]
    if "ct" in modalities_of(pattern):
        parts.append(b.bag.numpy().mean(1))
    return np.concatenate(parts, axis=1).astype(float)


def ridge(rows: Rows, pattern: str) -> Callable[[Rows], np.ndarray]:
    """Ridge regression on the T-score of those who have the pattern -> class log-probabilities [n, 3] of others."""
    r = rows.take(members(pattern, present(rows.batch, GROUPS)))
    x, t = features(r, pattern), r.t_score.numpy().astype(float)
    penalty = np.diag(np.r_[0.0, np.full(x.shape[1] - 1, RIDGE)])
    inverse = np.linalg.inv(x.T @ x + penalty)
    w = inverse @ x.T @ t
    free = np.trace(inverse @ x.T @ x)
    sigma = float(np.sqrt(((t - x @ w) ** 2).sum() / (len(t) - free)))

    def logits(others: Rows) -> np.ndarray:
        mean = torch.from_numpy(features(others, pattern) @ w)
        return Latent(mean, torch.tensor(np.log(sigma))).logits().numpy()

    return logits


def linear_run(people: Readings, test: Readings, seed: int, repeat: int, s: Study) -> dict[str, np.ndarray]:
    """What `one_run` keeps, by ridge regressions, cross-fitted and calibrated alike."""
    train, val, t = split(people, test, seed, repeat, s)
    share = shares(train, GROUPS, repeat, s.folds)
    apart = [train.take(torch.where(share == k)[0]) for k in range(s.folds)]
    rest = [train.take(torch.where(share != k)[0]) for k in range(s.folds)]
    everyone = [val, *apart]
    out: dict[str, Any] = {}
    for pattern in PATTERNS:
        holders = [members(pattern, present(r.batch, GROUPS)) for r in everyone]
        held = [r.take(h) for r, h in zip(everyone, holders, strict=True)]
        models = [ridge(fitted, pattern) for fitted in (train, *rest)]
        out[f"{pattern}|test"] = models[0](t)
        e = Evidence(
            "ridge",
            np.concatenate([m(h) for m, h in zip(models, held, strict=True)]),
            np.concatenate([h.label.numpy() for h in held]),
            np.concatenate([h.t_score.numpy() for h in held]).astype(float),
            pattern_weights(everyone, holders),
            len(held[0]),
        )
        out |= {f"{pattern}|{f}": np.asarray(getattr(e, f)) for f in Evidence.__dataclass_fields__}
    return out


def linear_runs(s: Study, test: Readings) -> dict[tuple[str, int, int], dict[str, np.ndarray]]:
    """Every run of the ridge regressions, in memory."""
    cohorts = {seed: readings(seed, s.people, False) for seed in s.seeds}
    each = [(seed, r) for seed in s.seeds for r in range(s.repeats)]
    return {(PLAIN, seed, r): linear_run(cohorts[seed], test, seed, r, s) for seed, r in each}


# ---- one run


def split(people: Readings, test: Readings, seed: int, repeat: int, s: Study) -> tuple[Rows, Rows, Rows]:
    """Training, validation and test rows of a repeat."""
    judged = np.random.default_rng([seed, 4, repeat]).random(len(people.label)) < s.val
    std = fit_standardiser(people.values[~judged], list(NAMES), GROUPS)
    train, val, t = (rows_of(p, std) for p in (people.take(~judged), people.take(judged), test))
    return train, val, t


def one_run(
    people: Readings, test: Readings, seed: int, repeat: int, distill: dict[str, Any], s: Study, to: Path
) -> None:
    """Fit, cross-fit and keep every pattern's evidence and the test people's logits."""
    torch.set_num_threads(1)
    began = time.process_time()
    train, val, t = split(people, test, seed, repeat, s)
    k = SHIPPED
    k = k.model_copy(update={"distill": k.distill.model_copy(update=distill)})
    models = fit_all(train, val, GROUPS, k, repeat)
    nets = {"student": models.student, "tabular": models.tabular, "image": models.image}
    apart = [] if distill else cross_fitted(train, GROUPS, k, repeat, s.folds)
    found = evidence(nets, val, apart, GROUPS)
    out: dict[str, Any] = {}
    with torch.no_grad():
        for pattern, e in found.items():
            out[f"{pattern}|test"] = nets[e.scorer](show_only(t.batch, pattern, tuple(GROUPS))).numpy().astype(float)
            out[f"{pattern}|student"] = models.student(show_only(t.batch, pattern, tuple(GROUPS))).numpy().astype(float)
            out |= {f"{pattern}|{f}": np.asarray(getattr(e, f)) for f in Evidence.__dataclass_fields__}
    np.savez(to, seconds=time.process_time() - began, **out)


def runs(s: Study, folder: Path, fit: bool) -> tuple[Readings, dict[tuple[str, int, int], dict[str, np.ndarray]]]:
    """Every run, those of an earlier call from their files: by (student, cohort, repeat).

    Args:
        fit: whether what is missing is fitted, or left out.
    """
    test = readings(s.test_seed, s.test_people, True)
    cohorts = {seed: readings(seed, s.people, False) if fit else test for seed in s.seeds}
    out = {}
    tag = digest(SHIPPED.model_dump(), s.val, s.folds, s.people, s.test_people)[:6]
    for name, distill in STUDENTS.items():
        for repeat in range(s.repeats):
            for seed, people in cohorts.items():
                to = folder / f"run-{tag}-{seed}-{repeat}-{digest(distill)[:4]}.npz"
                if fit and not to.exists():
                    one_run(people, test, seed, repeat, distill, s, to)
                    print(f"cohort {seed}, repeat {repeat}, {name}", file=sys.stderr, flush=True)
                if to.exists():
                    with np.load(to) as saved:
                        out[name, seed, repeat] = dict(saved)
    return test, out


# ---- figures


def slopes(x: np.ndarray, q: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Slope of outcomes' probabilities q [n] on log-odds x [n], for each row of weights [B, n]."""
    w = np.tile([0.0, 1.0], (len(weight), 1))
    for _ in range(9):
        p = expit(w[:, :1] + w[:, 1:] * x)
        r, v = weight * (q - p), weight * p * (1 - p)
        h = np.stack([v.sum(1), v @ x, v @ (x * x)])
        g = np.stack([r.sum(1), r @ x])
        step = np.stack([h[2] * g[0] - h[1] * g[1], h[0] * g[1] - h[1] * g[0]], 1) / (h[0] * h[2] - h[1] ** 2)[:, None]
        w += np.clip(step, -1, 1)
    return w[:, 1]


def evidence_in(run: dict[str, np.ndarray], pattern: str) -> Evidence:
    """A pattern's patients as a run kept them."""
    kept: dict[str, Any] = {f: run[f"{pattern}|{f}"] for f in Evidence.__dataclass_fields__}
    return Evidence(**kept | {"scorer": str(kept["scorer"]), "n_val": int(kept["n_val"])})


def calibrators_of(run: dict[str, np.ndarray], cfg: CalibrationConfig) -> dict[str, AnyCalibrator]:
    """Of a run's evidence."""
    patterns = [p for p in PATTERNS if f"{p}|test" in run]
    return fit_calibrators({p: evidence_in(run, p) for p in patterns}, cfg, 0, 1 if cfg.method == "logistic" else 60)


class Draws:
    """Draws of test people and, for the mean over runs, of cohorts and repeats within them: the same for everything."""

    def __init__(self, keys: list[tuple[int, int]], n: int, weight: np.ndarray | None = None):
        rng = np.random.default_rng(0)
        self.weight = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), BOOTS)]).astype(float)
        if weight is not None:
            self.weight *= weight
        self.share = np.full((BOOTS + 1, len(keys)), 1 / len(keys))
        seeds = sorted({k[0] for k in keys})
        of = {s: [i for i, k in enumerate(keys) if k[0] == s] for s in seeds}
        for row in self.share[1:]:
            row[:] = 0
            for s in rng.choice(seeds, len(seeds)):
                np.add.at(row, rng.choice(of[s], len(of[s])), 1 / len(of[s]) / len(seeds))

    def mean(self, each: list[np.ndarray]) -> np.ndarray:
        """Figures of each run [1 + BOOTS] -> their mean over runs [1 + BOOTS], the point first."""
        return (self.share * np.array(each).T).sum(1)


def estimate(draws: np.ndarray, digits: int = 4) -> dict[str, float]:
    """Point and 95 % interval."""
    low, high = np.quantile(draws[1:], [0.025, 0.975])
    return {
        "value": round(float(draws[0]), digits),
        "low": round(float(low), digits),
        "high": round(float(high), digits),
    }


def whole_repeats(s: Study, done: dict, names: list[str]) -> list[tuple[int, int]]:
    """(cohort, repeat) of the repeats that every cohort has with all of the named students."""
    there = [r for r in range(s.repeats) if all((n, seed, r) in done for n in names for seed in s.seeds)]
    return [(seed, r) for seed in s.seeds for r in there]


def calibration_rows(s: Study, test: Readings, done: dict, model: str) -> list[dict[str, Any]]:
    """Slope, mean error and squared error of each method and pattern."""
    keys = whole_repeats(s, done, [PLAIN])
    if not keys:
        return []
    draws = Draws(keys, len(test.label))
    archive = Draws(keys, len(test.label), scanned_weights(test))
    q, total = test.posterior, draws.weight.sum(1)
    out = []
    name = PLAIN
    fitted = {m: [calibrators_of(done[name, *k], cfg) for k in keys] for m, cfg in METHODS.items()}
    for pattern in PATTERNS:
        base = None
        for method, fits in fitted.items():
            slope, error, square, selected = [], [], [], []
            for k, c in zip(keys, fits, strict=True):
                if pattern not in c:
                    raise SystemExit(f"{pattern}, cohort and repeat {k}: {method} gave no calibrator")
                p = np.clip(c[pattern].risk(done[name, *k][f"{pattern}|test"])[0], 1e-6, 1 - 1e-6)
                slope.append(slopes(logit(p), q, draws.weight))
                error.append((draws.weight @ (p - q)) / total)
                square.append(1000 * (draws.weight @ (p - q) ** 2) / total)
                selected.append((archive.weight @ (p - q)) / archive.weight.sum(1))
            squared = draws.mean(square)
            base = squared if base is None else base
            out.append(
                {
                    "table": model,
                    "method": method,
                    "known": pattern,
                    "runs": len(keys),
                    "slope": estimate(draws.mean(slope), 2),
                    "slope_sd": round(float(np.std([v[0] for v in slope])), 3),
                    "mean_error": estimate(draws.mean(error)),
                    "squared_error": estimate(squared, 2),
                    "minus_logistic": estimate(squared - base, 2),
                    "mean_error_with_ct": estimate(draws.mean(selected)),
                }
            )
    return out


def _aucs(case: np.ndarray, ends: np.ndarray, normal: np.ndarray, rest: np.ndarray) -> tuple[float, float]:
    return roc_auc_score(case[ends], normal[ends]), roc_auc_score(case, rest)


def student_rows(s: Study, test: Readings, done: dict) -> list[dict[str, Any]]:
    """AUC of each student by pattern, and how far it is ahead of the one that ships, paired."""
    there = [n for n in STUDENTS if whole_repeats(s, done, [n])]
    keys = whole_repeats(s, done, there)
    if len(there) < 2 or not keys:
        return []
    rng = np.random.default_rng(1)
    n = len(test.label)
    picks = [np.arange(n), *(rng.integers(n, size=n) for _ in range(200))]
    share = Draws(keys, n).share[: len(picks)]
    case, ends = test.label == OSTEOPOROSIS, test.label != OSTEOPENIA
    out = []
    for pattern in PATTERNS:
        found = {}
        for name in there:
            each = []
            for k in keys:
                x = done[name, *k][f"{pattern}|student"]
                normal, rest = normal_log_odds(x), x[:, OSTEOPOROSIS]
                each.append([_aucs(case[r], ends[r], normal[r], rest[r]) for r in picks])
            found[name] = np.einsum("bk,kbm->mb", share, np.array(each))
        for name, aucs in found.items():
            row: dict[str, Any] = {"table": "students", "student": name, "known": pattern, "runs": len(keys)}
            for i, task in enumerate(("vs_normal", "vs_rest")):
                row[task] = estimate(aucs[i])
                row[f"{task}_ahead"] = estimate(aucs[i] - found[PLAIN][i])
            out.append(row)
    return out


def main() -> None:
    """Run what is missing and write both files."""
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--saved", action="store_true", help="fit nothing: a page of the runs that are there")
    p.add_argument("--page", action="store_true", help="work nothing out: the page of the figures that are there")
    p.add_argument("--runs", default=str(ROOT / "runs" / "calibration"), help="folder of what is fitted")
    args = p.parse_args()
    if args.page:
        write(Study(), json.loads(OUT.read_text())["rows"])
        return
    s, folder = Study(), Path(args.runs)
    folder.mkdir(parents=True, exist_ok=True)
    test, done = runs(s, folder, not args.saved)
    rows = calibration_rows(s, test, done, "student")
    rows += calibration_rows(s, test, linear_runs(s, test), "ridge") + student_rows(s, test, done)
    write(s, rows)


def bars_of(rows: list[dict[str, Any]], model: str, method: str) -> list[dict[str, Any]]:
    """The three bars of each pattern for a model and method, and whether the means meet them."""
    out = []
    for r in rows:
        if r["table"] != model or r["method"] != method:
            continue
        known = f"{r['known']}, {model}, {method}"
        out += [
            {"name": f"slope, {known}", **r["slope"], "target": f"{LOW} to {HIGH}",
             "met": LOW <= r["slope"]["value"] <= HIGH},
            {"name": f"mean error, {known}", **r["mean_error"], "target": f"within {MEAN}",
             "met": abs(r["mean_error"]["value"]) <= MEAN},
            {"name": f"squared error less the logistic curve's, {known}", **r["minus_logistic"], "target": "below 0",
             "met": r["minus_logistic"]["value"] < 0},
        ]  # fmt: skip
    return out


def write(s: Study, rows: list[dict[str, Any]]) -> None:
    """JSON and page."""
    bars = [b for model in MODELS for method in (GAUSSIAN, UNPOOLED) for b in bars_of(rows, model, method)]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT)
    seed = f"cohorts {s.seeds[0]}-{s.seeds[-1]}, test {s.test_seed}"
    done = {"command": "python benchmarks/calibration.py", "commit": commit.stdout.strip(), "seed": seed,
            "rows": rows, "bars": bars}  # fmt: skip
    OUT.write_text(json.dumps(done, indent=1) + "\n")
    OUT.with_suffix(".md").write_text(page(s, rows, bars))
    print(OUT.with_suffix(".md").read_text())


def cell(v: Any, signed: bool = False, digits: int = 3) -> str:
    """One cell of a table."""
    if not isinstance(v, dict):
        return str(v)
    sign = "+" if signed else ""
    if signed:
        return f"{v['value']:{sign}.{digits}f} ({v['low']:{sign}.{digits}f} to {v['high']:{sign}.{digits}f})"
    return f"{v['value']:.{digits}f} ({v['low']:.{digits}f}-{v['high']:.{digits}f})"


def table(name: str, rows: list[dict[str, Any]], columns: dict[str, tuple[bool, int]]) -> str:
    """Rows of one table as Markdown; a column is signed or not, with so many digits."""
    of = [r for r in rows if r["table"] == name]
    head = f"<!-- rows: {name} -->\n\n| {' | '.join(c.replace('_', ' ') for c in columns)} |\n"
    lines = (f"| {' | '.join(cell(r[c], *how) for c, how in columns.items())} |\n" for r in of)
    return head + "|---" * len(columns) + "|\n" + "".join(lines)


def page(s: Study, rows: list[dict[str, Any]], bars: list[dict[str, Any]]) -> str:
    """The Markdown beside the JSON."""
    plain, small = (False, 0), (True, 4)
    parts = []
    for model, title in MODELS.items():
        of = [r for r in rows if r["table"] == model]
        if not of:
            continue
        verdicts = []
        for method in (GAUSSIAN, UNPOOLED):
            own = [b for b in bars if b["name"].endswith(f", {model}, {method}")]
            missed = "\n".join(
                f"- {b['name'].removesuffix(f', {model}, {method}')}: {cell(b, True)}" for b in own if not b["met"]
            )
            verdicts.append(
                f'Bars of "{method}": {sum(b["met"] for b in own)} of {len(own)} met by the mean. Missed:\n\n{missed}\n'
            )
        first = {"known": plain, "method": plain, "slope": (False, 2), "slope_sd": plain, "mean_error": small}
        second = {"known": plain, "method": plain, "squared_error": (False, 2), "minus_logistic": (True, 2)}
        third = {"known": plain, "method": plain, "mean_error_with_ct": small}
        parts.append(f"""## {title}: {of[0]["runs"]} runs

{table(model, rows, first)}
{table(model, rows, second)}
{table(model, rows, third)}
{"".join(v + chr(10) for v in verdicts)}""")
    compared = [r for r in rows if r["table"] == "students"]
    if compared:
        first = {"student": plain, "known": plain, "vs_normal": (False, 4), "vs_normal_ahead": small}
        second = {"student": plain, "known": plain, "vs_rest": (False, 4), "vs_rest_ahead": small}
        parts.append(f"""## Students that learn otherwise

AUC, and how far ahead of the student as it ships; {compared[0]["runs"]} runs each. Teachers cross-fitted: in
{STUDENTS["teachers cross-fitted"]["teacher_folds"]} shares, so that none labels a patient it was fitted on. More never
worse: a patient's loss with everything known may not exceed that with modalities hidden (SimMLM's ranking loss,
weight {STUDENTS["more never worse"]["more"]:g}).

{table("students", rows, first)}
{table("students", rows, second)}""")
    body = "\n".join(parts)
    return f"""# Calibration by pattern, and other ways to teach the student

Cohorts {s.seeds[0]}-{s.seeds[-1]} of {s.people} people with the source's missingness; {s.test_people} whole test people
of cohort {s.test_seed}; seeds named before they were run ([reasons](../decisions/calibration.md)). Readings of a scan
are drawn from the truth (15 HU of error a slice, 6 HU a scan), not rendered. In brackets 95 %: 300 draws of test
people, cohorts and repeats together, so differences are paired.

Slope: of the exact posterior on the calibrated log-odds. Squared error: to the exact posterior of everything known,
times 1,000. Minus logistic: squared error less that of the logistic curve with Firth's penalty. Mean error with CT: on
the same test people weighted by their chance of a CT, as the archive's patients are. Ridge regressions of each
pattern's features on the T-score, cross-fitted and calibrated like the student, cost nothing and stand beside it.

{body}"""


if __name__ == "__main__":
    main()
