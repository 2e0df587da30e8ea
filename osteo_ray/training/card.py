"""The model card that a bundle carries."""

from __future__ import annotations

from osteo_ray.bundle import Bundle
from osteo_ray.training.config import TrainConfig


def model_card(bundle: Bundle, cfg: TrainConfig) -> str:
    """Markdown: what the model is for, what it saw, what it scored on validation patients, what it can't do."""
    m = bundle.metrics
    rows = "\n".join(
        f"| {p} | {bundle.scored_by[p]} | {c.n} | {c.events} | {_number(m.get(f'val_auc {p}'))} |"
        for p, c in bundle.calibrators.items()
    )
    return f"""# {bundle.name} {bundle.version}

**Use.** Opportunistic screening for osteoporosis on CT taken for other reasons, with demographics and routine labs
where there are any. Research use only; an aid, not a diagnosis; it cannot rule out low bone density.

**Not for.** Diagnosis, treatment decisions, monitoring, people under the minimum age of the gates, or scans that
show no lumbar vertebra (it abstains).

**Trained on.** {m["n_train"]} patients, {m["n_train_complete"]} of them with demographics, labs and CT; chosen and
calibrated on {m["n_val"]} others. Seed {cfg.seed}. It has not been validated on patients of any other origin.

**Decision.** High risk from a calibrated probability of {bundle.threshold:.3f} ({bundle.operating_point}). Intervals
are {cfg.calibration.level:.0%} intervals of the calibration alone.

**Validation patients** (AUC: osteoporosis against normal; these patients also stopped the training and set the
calibration, so expect less elsewhere):

| has | scored by | n | with osteoporosis | AUC |
|---|---|---|---|---|
{rows}
"""


def _number(x: float | None) -> str:
    return "-" if x is None else f"{x:.3f}"
