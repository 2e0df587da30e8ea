"""The calibration check: every published figure beside what the cohort gives, with pass or miss.

    for line in lines(check(CohortConfig(), n=1000)):
        print(line)

HU are read from rendered slices (noise, partial volume, calibration error and all), by an ellipse in the core of the
body, never from the generator's parameters. Readings of bone leave out fractured, cemented and screwed vertebrae, as
the published ones do. Figures published for unenhanced 120 kVp scans are measured on such scans of the same people; the
headroom rows are measured on the archive as configured, too.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from osteo_ray.synthetic import fast, labs
from osteo_ray.synthetic.config import CohortConfig
from osteo_ray.synthetic.population import Person, draw_arrays
from osteo_ray.synthetic.read import Reading, core_roi, halves, mid_readings, read_scan, rod_slope

__all__ = ["Target", "check", "core_roi", "lines"]


@dataclass(frozen=True)
class Target:
    """One figure: what is published (as an interval that passes), and what the cohort gives."""

    name: str
    published: str
    low: float
    high: float
    value: float
    n: int
    source: str
    note: str = ""

    @property
    def ok(self) -> bool:
        return self.low <= self.value <= self.high

    def line(self) -> str:
        value = f"{self.value:.3f}" if abs(self.value) < 10 else f"{self.value:.1f}"
        verdict = "pass" if self.ok else "MISS"
        span = f"[{self.low:.4g}, {self.high:.4g}]" if np.isfinite(self.high) else f">= {self.low:g}"
        head = f"{verdict}  {self.name:<58} {value:>7}  {span:<16} n={self.n:<6}"
        return f"{head} {self.published} ({self.source}){self.note}"


def lines(targets: list[Target]) -> list[str]:
    """The table, one line a figure, and the count at its end."""
    missed = sum(not t.ok for t in targets)
    return [*(t.line() for t in targets), f"{len(targets) - missed} of {len(targets)} figures hold, {missed} missed"]


def plain_scans(cfg: CohortConfig) -> CohortConfig:
    """The same cohort scanned as the published series were: 120 kVp, unenhanced, soft kernel, spine covered."""
    none = dict.fromkeys(("contrast_share", "oral_share", "tilt_share", "sharp_share"), 0)
    scan = {"kvp": {120: 1.0}, "protocols": {"abdomen": 1.0}, **none}
    data = cfg.model_dump()
    return CohortConfig.model_validate({**data, "scan": {**data["scan"], **scan}})


def check(cfg: CohortConfig | None = None, n: int = 800, seed: int = 1_000) -> list[Target]:
    """All figures for `n` scanned people (tables use 20 times as many; all-slices readings use a third)."""
    cfg = cfg or CohortConfig()
    plain = plain_scans(cfg)
    people = [p.complete() for p in fast.people(plain, n, seed)]
    readings = [read_scan(fast.stack_of(p, plain), every=i < n // 3) for i, p in enumerate(people)]
    mixed = [read_scan(fast.stack_of(p, cfg), every=i < n // 3) for i, p in enumerate(people)]
    table = fast.people(cfg, 20 * n, seed + 1)
    return [
        *_by_age(plain, max(n // 4, 60), seed + 2),
        *_by_class(people, readings),
        *_within(people, plain),
        *_repeats(people[: n // 2], plain),
        *_slope(people, readings, plain),
        *_margins(table),
        *_tabular(table),
        *_headroom(people, readings, plain, "unenhanced 120 kVp"),
        *_headroom(people, mixed, cfg, "archive as configured"),
        *_missing(table),
        *_bodies(cfg, people),
        *_regions(people[: min(n, 60)], plain),
    ]


def auc(y: np.ndarray, score: np.ndarray) -> float:
    """Area under the ROC curve; NaN scores are left out."""
    from sklearn.metrics import roc_auc_score

    ok = ~np.isnan(score)
    return float(roc_auc_score(y[ok], score[ok]))


def share(yes: np.ndarray, of: np.ndarray) -> float:
    """Share of `yes` where `of` is not NaN."""
    return float(yes[~np.isnan(of)].mean())


def _people_at(cfg: CohortConfig, ages: tuple[float, float], n: int, seed: int) -> list[Person]:
    """People of an age range, whatever the cohort's own ages."""
    rng = np.random.default_rng([seed, int(ages[0])])
    a = draw_arrays(rng, n, cfg.population, rng.uniform(*ages, n))
    return [
        Person(
            seed=int(rng.integers(2**31 - 1)), index=i, patient_id=f"AGE-{i}", age_y=float(a["age"][i]),
            male=bool(a["male"][i]), height_cm=float(a["height"][i]), weight_kg=float(a["weight"][i]),
            smoker=False, labs=tuple(map(float, a["labs"][i])), residual=float(a["u"][i]), vbmd=float(a["vbmd"][i]),
            degeneration=float(a["degeneration"][i]), t_score=float(a["t_score"][i]),
        )
        for i in range(n)
    ]  # fmt: skip


def _by_age(cfg: CohortConfig, n: int, seed: int) -> list[Target]:
    src = "Jang 2019"
    out = []
    hu = {}
    for ages in ((20, 30), (40, 48), (88, 92)):
        people = _people_at(cfg, ages, n, seed)
        hu[ages] = np.array([read_scan(fast.stack_of(p, cfg)).l1 for p in people]), np.array([p.male for p in people])
    young, old = hu[20, 30][0], hu[88, 92][0]
    out.append(Target("L1 HU below 30 y, mean", "226 +- 44", 216, 236, float(np.nanmean(young)), n, src))
    out.append(Target("L1 HU below 30 y, SD", "44", 36, 52, float(np.nanstd(young)), n, src))
    out.append(Target("L1 HU at 90 y, mean", "89 +- 38", 79, 99, float(np.nanmean(old)), n, src))
    out.append(Target("L1 HU at 90 y, SD", "38", 31, 45, float(np.nanstd(old)), n, src))
    mid, male = hu[40, 48]
    gap = float(np.nanmean(mid[~male]) - np.nanmean(mid[male]))
    out.append(Target("L1 HU women minus men before the menopause", "women above men", 2, 40, gap, n, src))
    return out


def _by_class(people: list[Person], readings: list[Reading]) -> list[Target]:
    label = np.array([p.label for p in people])
    t = np.array([p.t_score for p in people])
    l1, mid = np.array([r.l1 for r in readings]), np.array([r.lumbar for r in readings])
    ok = ~np.isnan(mid)
    op = label == "osteoporosis"
    two = label != "osteopenia"
    n, src, pick = len(people), "10.1186/s13244-023-01400-1", "Pickhardt 2013"
    n_op, n_two, method = int(op.sum()), int(two.sum()), "METHOD.md"
    r = float(np.corrcoef(mid[ok], t[ok])[0, 1])
    out = [
        Target(
            f"L1 HU in {c}", f"{hu}", hu - 10, hu + 10, float(np.nanmean(l1[label == c])), int((label == c).sum()), src
        )
        for c, hu in (("osteoporosis", 118), ("osteopenia", 143), ("normal", 178))
    ]
    out += [
        Target("r(HU, T), L1-L4 mean", "about 0.75", 0.68, 0.79, r, int(ok.sum()), "METHOD.md"),
        Target("HU-only AUC, osteoporosis vs normal", "0.93-0.96", 0.93, 0.96, auc(op[two], -mid[two]), n_two, method),
        Target("HU-only AUC, osteoporosis vs rest", "0.74-0.87", 0.74, 0.87, auc(op, -mid), n, "METHOD.md"),
        Target("L1 <= 160 HU, sensitivity", "90 %", 0.87, 1.0, share(l1[op] <= 160, l1[op]), n_op, pick),
        Target("L1 <= 110 HU, specificity", "> 90 %", 0.90, 1.0, share(l1[~op] > 110, l1[~op]), n - n_op, pick),
    ]  # fmt: skip
    return out


def _within(people: list[Person], cfg: CohortConfig) -> list[Target]:
    h = np.array([halves(fast.body_of(p, cfg)) for p in people[:60]])
    lower, back, rim = (float(v) for v in np.nanmean(h, axis=0))
    n = len(h)
    return [
        Target("lower half of a body less dense than the upper", "15-25 %", 0.13, 0.25, lower, n, "Banse 2001"),
        Target("posterior core above anterior", "20 %", 0.15, 0.25, back, n, "Banse 2001"),
        Target("endplate periphery above its centre", "32.5 %", 0.25, 0.40, rim, n, "PMID 34705863"),
    ]


def _repeats(people: list[Person], cfg: CohortConfig) -> list[Target]:
    a = np.array([read_scan(fast.stack_of(p, cfg, 0)).l1 for p in people])
    b = np.array([read_scan(fast.stack_of(p, cfg, 1)).l1 for p in people])
    cv = float(np.sqrt(np.nanmean((a - b) ** 2 / 2)) / np.nanmean((a + b) / 2))
    return [Target("repeat-scan CV of L1 HU", "5-8 %", 0.05, 0.08, cv, len(people), "METHOD.md")]


def _slope(people: list[Person], readings: list[Reading], cfg: CohortConfig) -> list[Target]:
    v = np.array([p.vbmd for p in people])
    l1 = np.array([r.l1 for r in readings])
    ok = ~np.isnan(l1)
    slope = float(np.polyfit(v[ok], l1[ok], 1)[0])
    out = [Target("HU per mg/cm3 of bone mineral at 120 kVp", "1.31", 1.21, 1.41, slope, int(ok.sum()), "METHOD.md")]
    for kvp, ratio in ((80, 0.86), (140, 0.81)):
        data = cfg.model_dump()
        scan = {**data["scan"], "kvp": {kvp: 1.0}, "phantom_share": 1.0, "repeat_cv": 0.0}
        at = CohortConfig.model_validate({**data, "scan": scan})
        n = min(len(people), 200)
        stacks = [fast.stack_of(p, at) for p in people[:n]]
        l1 = np.array([read_scan(s).l1 for s in stacks])
        ok = ~np.isnan(l1)
        bone = np.polyfit(v[:n][ok], l1[ok], 1)[0]
        rod = np.mean([rod_slope(s) for s in stacks[:20]])
        name = f"K2HPO4/HA slope ratio at {kvp} kVp, rods against L1"
        out.append(Target(name, f"{ratio}", ratio - 0.05, ratio + 0.05, float(rod / bone), n, "Goodsitt 1992"))
    return out


# Medians of men and women (Cui 2016).
_MARGINS = {
    "age_y": (65, 59), "height_cm": (168, 158), "weight_kg": (71, 63), "creatinine_umol_l": (73, 61),
    "hdl_mmol_l": (1.21, 1.38), "ldl_mmol_l": (3.09, 3.36), "tc_mmol_l": (5.11, 5.59), "tg_mmol_l": (1.25, 1.33),
    "alt_u_l": (16, 17), "ast_u_l": (21, 21),
}  # fmt: skip


def _margins(people: list[Person]) -> list[Target]:
    male = np.array([p.male for p in people])
    out = []
    for name, both in _MARGINS.items():
        j = labs.NAMES.index(name) if name in labs.NAMES else -1
        x = np.array([p.labs[j] if j >= 0 else getattr(p, name) for p in people])
        for sex, of_sex, m in (("men", male, both[0]), ("women", ~male, both[1])):
            value = float(np.median(x[of_sex]))
            out.append(
                Target(f"{name}, median of {sex}", f"{m}", 0.95 * m, 1.05 * m, value, int(of_sex.sum()), "Cui 2016")
            )
    return out


def _tabular(people: list[Person]) -> list[Target]:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    two = [p for p in people if p.label != "osteopenia"]
    y = np.array([p.label == "osteoporosis" for p in two])
    demo = np.array([[p.age_y, p.male, p.height_cm, p.weight_kg, p.smoker] for p in two], float)
    lab = np.log(np.array([p.labs for p in two]) + 0.1)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    score = {}
    for name, x in (("demographics", demo), ("labs", np.c_[demo, lab])):
        score[name] = auc(y, cross_val_predict(model, x, y, cv=5, method="predict_proba")[:, 1])
    n, src = len(two), "10.1186/s12859-022-04596-z"
    return [
        Target("tabular AUC, demographics (logistic regression)", "0.82", 0.80, 0.84, score["demographics"], n, src),
        Target("tabular AUC, with labs", "0.84", 0.82, 0.86, score["labs"], n, src),
        Target("what labs add", "0.02", 0.01, 0.035, score["labs"] - score["demographics"], n, src),
    ]


def _headroom(people: list[Person], readings: list[Reading], cfg: CohortConfig, where: str) -> list[Target]:
    """AUC (osteoporosis vs normal) of one ROI by how its slice is chosen, and the best that can be had."""
    label = np.array([p.label for p in people])
    two = label != "osteopenia"
    op = label == "osteoporosis"
    col = {k: np.array([getattr(r, k) for r in readings]) for k in ("random", "central", "lumbar", "everything")}
    value = {k: auc(op[two], -v[two]) for k, v in col.items()}
    n_all = int((~np.isnan(col["everything"]) & two).sum())
    best = fast.posterior_of(people, cfg)
    n = int(two.sum())
    src, exact = "METHOD.md", "exact posterior"
    roof, rest = auc(op[two], best.vs_normal[two]), auc(op, best.vs_rest)
    oracle, chance = value["lumbar"], value["random"]

    def row(name: str, published: str, low: float, high: float, v: float, n: int, source: str = src) -> Target:
        return Target(f"AUC, {name} [{where}]", published, low, high, v, n, source)

    return [
        row("one random slice", "must fail", 0.5, 0.85, chance, n),
        row("the central slice", "below mid-vertebral", 0.5, oracle - 0.03, value["central"], n),
        row("oracle mid-vertebral L1-L4", "good slices matter", chance + 0.08, 0.97, oracle, n),
        row("all slices", "no better than the oracle", 0.5, oracle + 0.01, value["everything"], n_all),
        row("Bayes-optimal vs normal", "above the oracle", oracle + 0.01, 0.995, roof, n, exact),
        row("Bayes-optimal vs rest", "0.84-0.93", 0.84, 0.93, rest, len(people), exact),
    ]


def _missing(people: list[Person]) -> list[Target]:
    ct = np.array([p.has_ct for p in people])
    demo = np.array([p.has_demographics for p in people])
    lab = np.array([p.has_labs for p in people])
    t = np.array([p.t_score for p in people])
    n = len(people)
    src = "246 of 2,210"
    gap = float(t[~lab].mean() - t[lab].mean())
    return [
        Target("share with CT, demographics and labs", "11 %", 0.10, 0.125, float((ct & demo & lab).mean()), n, src),
        Target("share tabular-only", "most", 0.6, 0.95, float((~ct & lab).mean()), n, src),
        Target("share CT-only", "some", 0.01, 0.1, float((ct & ~demo & ~lab).mean()), n, src),
        Target("T-score, labs missing minus present", "healthier", 0.2, 2.0, gap, n, "METHOD.md"),
    ]


def _bodies(cfg: CohortConfig, people: list[Person]) -> list[Target]:
    """How common are what bodies carry: variants of the column, curves, haemangiomas, extremes of weight."""
    bodies = [fast.body_of(p, cfg) for p in people]
    n = len(bodies)
    levels = [{v.level for v in a.vertebrae} for a in bodies]
    six, four = float(np.mean(["L6" in x for x in levels])), float(np.mean(["L5" not in x for x in levels]))
    spots = float(np.mean([any(v.haemangioma for v in a.vertebrae) for a in bodies]))
    bent = float(np.mean([abs(a.frame.curve) >= 6 for a in bodies]))
    bmi = np.array([p.bmi for p in people])
    lean, heavy = float((bmi < 17).mean()), float((bmi > 36).mean())
    return [
        Target("share with a lumbarised S1", "1.7-2.3 %", 0.008, 0.04, six, n, "Park 2019; Ucar 2013"),
        Target("share with a sacralised L5", "1.5-17 %", 0.015, 0.17, four, n, "Park 2019; Ucar 2013"),
        Target("share with a vertebral haemangioma", "26 %", 0.18, 0.34, spots, n, "Slon 2015"),
        Target("share with scoliosis", "8.9 % over 40 y", 0.06, 0.12, bent, n, "Kebaish 2011"),
        Target("share with BMI below 17", "some", 0.008, 0.04, lean, n, "config"),
        Target("share with BMI above 36", "some", 0.008, 0.05, heavy, n, "config"),
    ]


def _regions(people: list[Person], plain: CohortConfig) -> list[Target]:
    """HU of neck and chest, read from rendered slices of unenhanced scans from C3 to T12."""
    data = plain.model_dump()
    neck = CohortConfig.model_validate({**data, "scan": {**data["scan"], "protocols": {"neck_chest": 1.0}}})
    ratio, t1, texture, lung = [], [], [], []
    for p in people:
        upper, lower = fast.stack_of(p, neck), fast.stack_of(p, plain)
        top, low = mid_readings(upper), mid_readings(lower)
        lumbar = [low[k] for k in ("L2", "L3", "L4") if k in low]
        cervical = [top[k] for k in ("C3", "C4", "C5", "C6", "C7") if k in top]
        if lumbar and cervical:
            ratio.append(np.mean([v for v, _ in cervical]) / np.mean([v for v, _ in lumbar]))
        if lumbar and "T1" in top:
            t1.append(top["T1"][0] / np.mean([v for v, _ in lumbar]))
        texture += [sd for _, sd in lumbar]
        i = int(np.argmin(np.abs(upper.z_mm - upper.anatomy.frame.arch + 30)))
        hu = upper.axial(i)
        lung.append(float(np.median(hu[(hu > -980) & (hu < -500)])))
    n, src = len(people), "Yoganandan 2006"
    return [
        Target("HU of C3-C7 over L2-L4", "1.49", 1.35, 1.65, float(np.mean(ratio)), len(ratio), src),
        Target("HU of T1 over L2-L4", "1.13", 1.0, 1.3, float(np.mean(t1)), len(t1), src),
        Target(
            "SD in a mid-vertebral ROI, HU", "25-50", 25, 60, float(np.median(texture)), len(texture), "masks of CT"
        ),
        Target("median HU of the lungs", "-900 to -800", -900, -800, float(np.median(lung)), n, "any text"),
    ]
