"""One study -> one result, without Ray: select slices, score, calibrate, explain.

    scorer = Scorer.load("bundle/")
    result = scorer.score("study_folder/", record={"age_y": 67, "sex": "F"})
    result["risk_prob"], result["state"]

The screening pipeline runs the same `score_rows` inside its actors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from osteo_ray.catalogue.checks import QualityCheck, q_air_calib, q_coverage, q_metal, q_modality_missing
from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.dicom.decode_guard import DecodeGuard
from osteo_ray.dicom.stack import SliceStack, Stack
from osteo_ray.model.acquisition import Acquisition, extend
from osteo_ray.model.bundle import Bundle
from osteo_ray.model.calibration import class_probabilities, pattern_of, rest_log_odds
from osteo_ray.model.conformal import class_set
from osteo_ray.model.crops import grid_positions, spine_crop
from osteo_ray.model.density import trabecular_hu
from osteo_ray.model.embedding import p_lumbar, p_thoracic
from osteo_ray.model.networks import MODALITIES, Batch
from osteo_ray.model.novelty import picks_summary
from osteo_ray.model.selection import Selection, select
from osteo_ray.outcomes import InputError, Outcome, Phase, Rejected, State
from osteo_ray.patients.header import fill_from_header, header_demographics
from osteo_ray.patients.labels import CLASSES
from osteo_ray.patients.schema import NAMES, feature
from osteo_ray.patients.table import from_mapping_dict
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.explain import explain
from osteo_ray.screening.schema import RESULTS

VERDICTS = ("pass", "warn", "fail")

COPIED = (
    "study_uid",
    "series_uid",
    "patient_key",
    "study_date",
    "age_y",
    "sex",
    "manufacturer",
    "kvp",
    "convolution_kernel",
    "slice_thickness_mm",
    "spacing_z_median_mm",
    "contrast",
    "gates",
)
"""Columns that a result takes from its catalogue row."""


def closed_row(row: Mapping[str, Any], outcome: Outcome, **model: str) -> dict[str, Any]:
    """The result row of a series that ends without a score; `model`: the columns that name the model."""
    out: dict[str, Any] = dict.fromkeys(RESULTS.names)
    out.update({k: row.get(k) for k in COPIED})
    out.update(
        state=str(outcome.state),
        code=outcome.code,
        stage=str(outcome.stage),
        message=outcome.message,
        attempt=outcome.attempt,
        slices_total=row.get("n_slices"),
        **model,
    )
    return out


SURE = 0.5
"""Belief from which a slice is taken to show a region."""
LEVEL_MM = 35.0
"""Height of a lumbar level with its disc, about: the levels seen are counted by the heights of lumbar slices."""


class PolicyTrace:
    """What the policy saw of one series: the picks, where they came from, and what their pixels say."""

    def __init__(
        self, stack: Stack, positions: np.ndarray, selection: Selection, pixel_gates: list[QualityCheck], seconds: float
    ):
        self.pixel_gates = pixel_gates
        self.positions = positions
        self.selection = selection
        self.seconds = seconds
        self.z_mm = np.asarray(stack.z_mm)[positions]
        self.n = stack.n
        self.decoded = stack.decoded
        self.bytes_read = stack.bytes_read
        self.sop_uids = getattr(stack, "sop_uids", None)

    def lumbar_levels(self, threshold: float) -> int:
        """Lumbar levels among the slices looked at: heights of lumbar slices, counted in steps of a level."""
        lumbar = self.selection.looked[: len(self.z_mm)] & (
            p_lumbar(self.selection.embedding[: len(self.z_mm)]) >= threshold
        )
        z = self.z_mm[lumbar]
        return len(set(((z - z.min()) // LEVEL_MM).tolist())) if z.size else 0

    def chest_inside_mm(self) -> float:
        """How deep inside the stretch of kept slices believed lumbar a slice lies that is believed to show the chest.

        A body has one lumbar spine: with the chest in the middle of it, something else (often a neck) passed for it.
        """
        e, z, kept = self.selection.embedding[: len(self.z_mm)], self.z_mm, self.selection.kept
        lumbar = z[kept][p_lumbar(e[kept]) >= SURE]
        chest = z[self.selection.looked[: len(z)] & (p_thoracic(e) >= SURE)]
        if not lumbar.size or not chest.size:
            return 0.0
        return max(0.0, float(np.minimum(chest - lumbar.min(), lumbar.max() - chest).max()))


class Predictor:
    """A loaded bundle that turns catalogue rows into result rows."""

    def __init__(self, bundle: Bundle, cfg: ScoringConfig | None = None, index: IndexConfig | None = None):
        self.bundle = bundle
        self.cfg = cfg or ScoringConfig()
        self.index = index or IndexConfig()
        self.guard = DecodeGuard(self.index.limits) if self.cfg.guard else None
        if self.cfg.device == "cuda" and not torch.cuda.is_available():
            raise InputError(
                "scoring.device: cuda, but torch sees no GPU here; give scorers one (pipeline.actor_gpus), or use cpu"
            )
        bundle.encoder.to(self.cfg.device)

    @classmethod
    def load(cls, folder: str | Path, cfg: ScoringConfig | None = None, index: IndexConfig | None = None) -> Predictor:
        """Load and verify the bundle in `folder`; `index` holds limits and gates."""
        scorer = cls(Bundle.load(folder), cfg, index)
        torch.set_num_threads(scorer.cfg.threads)
        return scorer

    # ---- one study, from Python

    def score(self, study: str | Path, record: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Score the best series of the study that lies in `study` (folder, zip or any archive URI).

        Args:
            record: demographics and labs by feature name, e.g. `{"age_y": 67, "sex": "F"}`; None: CT alone.

        Returns:
            A row of `screening.schema.RESULTS` as a dict. A study that can't be scored has a state and a code.

        Raises:
            RecordsError: naming the value that can't be.
            ValueError: where `study` holds no CT series, or more than one study.
        """
        from osteo_ray.catalogue.study import index_study

        row = index_study(study, self.index)
        values = np.full(len(NAMES), np.nan)
        if record is not None:
            values = from_mapping_dict(record).matrix()[0][0]
        if row.get("state"):
            return self.closed(row, Outcome(State(row["state"]), row["code"], Phase(row["stage"]), row["message"]))
        return self.score_rows([row], values[None])[0]

    # ---- many series

    def score_rows(
        self, rows: Sequence[Mapping[str, Any]], records: np.ndarray, begun: Callable[[int], object] | None = None
    ) -> list[dict[str, Any]]:
        """Score open catalogue rows; one result row each, in order, never an exception.

        A result does not depend, to the last bit, on the rows beside it: what was interrupted comes out the same
        however it is batched when it is done again.

        Args:
            records: float [n, F] in the order of the schema's features, NaN where missing. What a record
                lacks of age and sex is taken from the CT's header.
            begun: told each row's number before work on it begins.
        """
        records = np.stack(
            [fill_from_header(r, header_demographics(row)) for r, row in zip(records, rows, strict=True)]
        )
        results = []
        for i, row in enumerate(rows):
            if begun is not None:
                begun(i)
            try:
                results.append(self._score_traces([row], [self._see_row(row)], records[i : i + 1])[0])
            except Rejected as e:
                results.append(self.closed(row, e.outcome))
            except Exception as e:  # a row's failure is a row
                message = f"{type(e).__name__}: {e}"[:500]
                outcome = Outcome(State.ERROR, "UNEXPECTED", Phase.SCORE, message)
                if isinstance(e, MemoryError) or "can't allocate memory" in message:  # the latter is torch's
                    outcome = Outcome(State.QUARANTINED, "OUT_OF_MEMORY", Phase.DECODE, message)
                results.append(self.closed(row, outcome))
        return results

    def score_stack(self, stack: Stack, row: Mapping[str, Any], record: np.ndarray) -> dict[str, Any]:
        """Score a stack that is at hand.

        Args:
            row: what is known of the scan: `kvp` and `contrast` as a catalogue has them, and whatever of a catalogue's
                columns the result is to repeat.
            record: float [F], NaN where missing.
        """
        return self._score_traces([row], [self.see(stack)], record[None])[0]

    def closed(self, row: Mapping[str, Any], outcome: Outcome) -> dict[str, Any]:
        """The result row of a series that ends without a score."""
        return closed_row(row, outcome, **self.model)

    @property
    def model(self) -> dict[str, str]:
        """The result columns that name the model."""
        b = self.bundle
        return {"model_name": b.name, "model_version": b.version, "model_sha256": b.sha256}

    # ---- inside

    def _see_row(self, row: Mapping[str, Any]) -> PolicyTrace:
        with SliceStack.from_row(row, self.index.limits, self.guard) as stack:
            return self.see(stack)

    def see(self, stack: Stack) -> PolicyTrace:
        """Run the policy over one stack, decoding only what it asks for."""
        t = time.perf_counter()
        b = self.bundle
        positions = grid_positions(np.asarray(stack.z_mm), b.config.view.positions)
        pixels: dict[int, tuple[QualityCheck, QualityCheck]] = {}

        @torch.no_grad()
        def embed(p: np.ndarray) -> np.ndarray:
            crops = []
            for k in p.tolist():
                hu = stack.axial(int(positions[k]))
                pixels[k] = (q_air_calib(hu, self.index.gates), q_metal(hu, self.index.gates))
                crops.append(spine_crop(hu, stack.axial_spacing_mm, b.config.crop))
            return b.encoder(torch.from_numpy(np.stack(crops)).to(self.cfg.device)).embedding.cpu().numpy()

        selection = select(np.asarray(stack.z_mm)[positions], embed, b.policy, b.scorers, b.config.view)
        # Of the kept slices the worst counts: what the score rests on must be sound.
        kept = [pixels[k] for k in selection.kept.tolist()]
        gates = [max(g, key=lambda x: VERDICTS.index(x.verdict)) for g in zip(*kept, strict=True)]
        return PolicyTrace(stack, positions, selection, gates, time.perf_counter() - t)

    @torch.no_grad()
    def _score_traces(
        self, rows: Sequence[Mapping[str, Any]], traces: Sequence[PolicyTrace], records: np.ndarray
    ) -> list[dict[str, Any]]:
        t = time.perf_counter()
        batch = self._batch(rows, traces, records)
        present = self.bundle.student.present(batch).numpy()
        logits = {"student": self.bundle.student(batch).numpy(), "image": self.bundle.image(batch).numpy()}
        weights = self.bundle.student.attention(batch).numpy()
        share = (time.perf_counter() - t) / len(traces)
        out = []
        for i, (row, s) in enumerate(zip(rows, traces, strict=True)):
            t = time.perf_counter()
            pattern = pattern_of(present[i], MODALITIES)
            gates = [*(row.get("gates") or []), *self._gates(s, pattern)]
            result = self.closed(row, self._outcome(s, gates, pattern, records[i])) | {"gates": gates}
            result.update(slices_total=s.n, slices_decoded=s.decoded, bytes_read=s.bytes_read, select_s=s.seconds)
            result["selected"] = self._selected(s, weights[i])
            density = trabecular_hu(s.selection.embedding[s.selection.kept], self.bundle.config.encoder.n_learned)
            result["trabecular_hu"] = density if np.isfinite(density) else None
            if result["state"] in (State.SCORED, State.SCORED_WARN):
                model = self.bundle.scored_by[pattern]
                result.update(self._risk(logits[model][i], pattern))
                result["modalities"] = pattern.split("+")
                if self.cfg.shap:
                    result.update(self._shap(batch, i, model, records[i]))
            result["score_s"] = share + time.perf_counter() - t
            out.append(result)
        return out

    def _batch(self, rows: Sequence[Mapping[str, Any]], traces: Sequence[PolicyTrace], records: np.ndarray) -> Batch:
        values, known = self.bundle.standardiser(records)
        k = max(1, max(len(s.selection.kept) for s in traces))
        bag = np.zeros((len(traces), k, self.bundle.config.encoder.dim), np.float32)
        mask = np.zeros((len(traces), k), bool)
        for i, s in enumerate(traces):
            n = len(s.selection.kept)
            bag[i, :n] = s.selection.embedding[s.selection.kept]
            mask[i, :n] = True
        cfg = self.bundle.config
        bag = extend(bag, cfg.encoder.n_learned, Acquisition.of_rows(list(rows)), cfg.acquisition)
        return Batch(*(torch.from_numpy(a) for a in (values, known, bag, mask)))

    def _gates(self, s: PolicyTrace, pattern: str) -> list[dict[str, str]]:
        """The gates that need pixels, the model or the record, as rows."""
        missing = [m for m in MODALITIES if m not in pattern.split("+")]
        coverage = q_coverage(s.lumbar_levels(self.bundle.lumbar_threshold), self.index.gates)
        return [g.row() for g in (*s.pixel_gates, coverage, q_modality_missing(missing, self.index.gates))]

    def _outcome(self, s: PolicyTrace, gates: Sequence[Mapping[str, str]], pattern: str, record: np.ndarray) -> Outcome:
        looked = s.selection.embedding[s.selection.looked]
        best = float(p_lumbar(looked).max())
        if best < self.bundle.lumbar_threshold:
            return Outcome(
                State.ABSTAINED,
                "NO_LUMBAR_SEEN",
                Phase.SELECT,
                f"no slice looked at shows the lumbar spine (best {best:.2f})",
            )
        inside = s.chest_inside_mm()
        if inside > LEVEL_MM:
            return Outcome(
                State.ABSTAINED,
                "LEVELS_OUT_OF_ORDER",
                Phase.SELECT,
                f"a slice that seems to show the chest lies {inside:.0f} mm inside what was taken for the lumbar spine",
            )
        failed = [g for g in gates if g["verdict"] == "fail"]
        if failed:
            message = "; ".join(f"{g['gate']} {g['value']}, {g['threshold']} is asked for" for g in failed)
            return Outcome(State.ABSTAINED, failed[0]["gate"], Phase.GATE, message)
        unlike = self._unlike(s, record)
        if unlike:
            return unlike
        if pattern not in self.bundle.calibrators:
            return Outcome(
                State.ABSTAINED, "NO_CALIBRATOR", Phase.SCORE, f"the bundle has no calibrator for the pattern {pattern}"
            )
        warned = [g["gate"] for g in gates if g["verdict"] == "warn"]
        if warned:
            return Outcome(State.SCORED_WARN, "GATE_WARN", Phase.SCORE, ", ".join(warned))
        return Outcome(State.SCORED, "OK", Phase.SCORE)

    def _unlike(self, s: PolicyTrace, record: np.ndarray) -> Outcome | None:
        """An abstention where picks or record lie further from the training patients than the bundle accepts."""
        kept = s.selection.embedding[s.selection.kept][None]
        picks = picks_summary(kept, np.ones(kept.shape[:2], bool))
        found = {"image": picks, "record": self.bundle.standardiser.spreads(record[None])}
        for name, x in found.items():
            limit = self.bundle.novelty[name].threshold
            distance = float(self.bundle.novelty[name](x)[0])
            if distance > limit:
                what = "the picked slices are" if name == "image" else "the record is"
                text = f"{what} unlike the training data (distance {distance:.2f}, accepted up to {limit:.2f})"
                return Outcome(State.ABSTAINED, f"OOD_{name.upper()}", Phase.SCORE, text)
        return None

    def _risk(self, logits: np.ndarray, pattern: str) -> dict[str, Any]:
        b = self.bundle
        p, low, high = (float(v[0]) for v in b.calibrators[pattern](rest_log_odds(logits[None])))
        probs = class_probabilities(logits[None], np.array([p]))[0]
        return {
            "risk_prob": p,
            "risk_low": low,
            "risk_high": high,
            "risk_class": "high" if p >= b.threshold else "low",
            "p_normal": float(probs[0]),
            "p_osteopenia": float(probs[1]),
            "p_osteoporosis": p,
            "conformal_set": class_set(probs, b.conformal[pattern]),
            "log_odds": float(logits[CLASSES.index("osteoporosis")] - logits[CLASSES.index("normal")]),
            "operating_point": b.operating_point,
            "threshold": b.threshold,
            "calibrator": pattern,
        }

    @staticmethod
    def _selected(s: PolicyTrace, weights: np.ndarray) -> list[dict[str, Any]]:
        kept = s.selection.kept
        lumbar = p_lumbar(s.selection.embedding[kept])
        index = s.positions[kept]
        return [
            {
                "sop_uid": None if s.sop_uids is None else s.sop_uids[i],
                "index": int(i),
                "z_mm": float(s.z_mm[k]),
                "weight": float(weights[j]),
                "p_lumbar": float(lumbar[j]),
            }
            for j, (i, k) in enumerate(zip(index, kept, strict=True))
        ]

    def _shap(self, batch: Batch, i: int, model: str, record: np.ndarray) -> dict[str, Any]:
        b = self.bundle
        if model == "image":  # CT alone: all of it is the CT's
            own = float(rest_log_odds(b.image(batch.take(torch.tensor([i]))).numpy())[0])
            base = b.metrics["image_mean_log_odds"]
            return {"shap_base": base, "shap": [_shap_row("ct", "ct", None, None, own - base)]}
        bg = b.background
        one = batch.take(torch.tensor([i]))
        hidden = torch.cat([b.student.pool(one.bag, one.bag_mask).hidden, bg["ct"]])

        def predict(values: np.ndarray, known: np.ndarray, ct: np.ndarray) -> np.ndarray:
            with torch.no_grad():
                logits = b.student.from_hidden(torch.from_numpy(values), torch.from_numpy(known), hidden[ct])
            return rest_log_odds(logits.numpy())

        e = explain(
            predict,
            batch.values[i].numpy(),
            batch.known[i].numpy(),
            bg["values"].numpy(),
            bg["known"].numpy() > 0.5,
            has_ct=True,
        )
        rows = [
            _shap_row(name, group, float(v) if np.isfinite(v) else None, feature(name).unit, float(s))
            for name, group, v, s in zip(
                b.standardiser.features, b.standardiser.groups, record, e.values[:-1], strict=True
            )
        ]
        return {"shap_base": e.base, "shap": [*rows, _shap_row("ct", "ct", None, None, float(e.values[-1]))]}


def _shap_row(name: str, group: str, value: float | None, unit: str | None, shap: float) -> dict[str, Any]:
    return {"feature": name, "group": group, "value": value, "unit": unit, "shap": shap}
