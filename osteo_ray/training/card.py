"""The model card that a bundle carries."""

from __future__ import annotations

from typing import Any

from osteo_ray.model.bundle import Bundle
from osteo_ray.training.config import TrainConfig

ELSEWHERE = "It has not been validated on patients of any other origin."


def model_card(bundle: Bundle, cfg: TrainConfig) -> str:
    """Markdown: what the model is for, what it saw, what it scored on validation patients, what it can't do."""
    m = bundle.metrics
    rows = "\n".join(
        f"| {p} | {bundle.scored_by[p]} | {c.n} | {c.events} | {_validated(m, p)} |"
        for p, c in bundle.calibrators.items()
    )
    points = "\n".join(
        f"| {p} | {bundle.threshold_of(p):.3f} | {bundle.operating_text(p)} |" for p in bundle.calibrators
    )
    return f"""# {bundle.name} {bundle.version}

**Use.** Opportunistic screening for osteoporosis on CT taken for other reasons, with demographics and routine labs
where there are any. Research use only; an aid, not a diagnosis; it cannot rule out low bone density.

**Not for.** Diagnosis, treatment decisions, monitoring, people under the minimum age of the checks, or scans that
show no lumbar vertebra (it abstains).

**Trained on.** {m["n_train"]} patients, {m["n_train_complete"]} of them with demographics, labs and CT; chosen and
calibrated on {m["n_val"]} others. Seed {cfg.seed}. {cfg.origin or ELSEWHERE}

**Label.** DXA T-score: -2.5 or lower is osteoporosis, -1 or higher normal. It is noisy; nobody's CT is labelled by its
HU.

**Inputs.** Six demographics and 22 routine labs in the units of the records' schema, and the slices that
{_selector(bundle)} picks. What is missing stays missing: a mask says so, and each pattern of modalities below has
its own calibration; a pattern that is not listed abstains. That a value is missing moves the score too, as far as it
did among the training patients.

**Explanations.** SHAP says what moved a score, not what causes the disease; features that say nearly the same (weight
and BMI, sex and the labs that differ by sex) share their effect arbitrarily.

**Not known.** How it does by ethnicity, under treatment for osteoporosis, with implants or fractures in the slices
picked, and on scanners and sites that were not trained on. `osteo-ray evaluate` shows sex, age, scanner and missingness
on your own patients, with intervals; `osteo-ray checklist` writes the TRIPOD+AI and CLAIM tables.

**Decision.** High risk from a threshold on the calibrated probability, each pattern's own. Intervals of risks are
{cfg.calibration.level:.0%} intervals of the calibration alone.

| has | threshold | how it was set, and what it is worth |
|---|---|---|
{points}

**Patients that set calibration and thresholds**: validation patients, and training patients judged by models that did
not know them. The AUC (osteoporosis against normal) is of the validation patients alone, whose number stands beside it.

| has | scored by | n | with osteoporosis | validation AUC (n, with osteoporosis) |
|---|---|---|---|---|
{rows}
{_heldout(m)}"""


def _selector(bundle: Bundle) -> str:
    """What picks the slices."""
    view = bundle.config.view
    if view.selector is not None:
        return f"the selector {view.selector}"
    return {"drlis": "the learned policy", "rule": "the belief rule", "uniform": "an even grid"}[view.method]


def _heldout(m: dict[str, Any]) -> str:
    """The figures of `heldout.judge`, where there are any."""
    if not m.get("heldout"):
        return ""
    shown = ("auc", "auc_rest", "sensitivity", "specificity", "calibration_slope")
    rows = "\n".join(
        f"| {r['pattern']} | {r['n']} | {r['events']} | {r['normal']} | {' | '.join(_interval(r[k]) for k in shown)} |"
        for r in m["heldout"]
    )
    return f"""
**Held-out people** ({m["n_heldout"]}, of the same origin as the training patients; nothing was trained, chosen or
calibrated on them; 95 % intervals in brackets). Of their {m["heldout_scans"]} scans {m["heldout_no_lumbar"]} show the
policy no lumbar slice and {m["heldout_unlike"]} are unlike the training data: the scorer abstains there, and they are
not counted. Sensitivity and specificity are for osteoporosis against everybody else at the pattern's own
threshold.

| has | n | osteoporosis | normal | AUC vs normal | AUC vs rest | sensitivity | specificity | calibration slope |
|---|---|---|---|---|---|---|---|---|
{rows}
"""


def _interval(e: list[float | None]) -> str:
    value, low, high = e
    if value is None:
        return "-"
    return f"{value:.3f}" if low is None or high is None else f"{value:.3f} ({low:.3f}-{high:.3f})"


def _validated(m: dict[str, Any], pattern: str) -> str:
    """A validation AUC with the patients it was counted on."""
    auc, n, events = (m.get(f"{what} {pattern}") for what in ("val_auc", "val_n", "val_events"))
    return "-" if auc is None or n is None else f"{auc:.3f} ({n}, {events})"
