"""One study -> one result, without Ray: select slices, score, calibrate, explain.

    predictor = Predictor.load("bundle/")
    result = predictor.score("study_folder/", record={"age_y": 67, "sex": "F"})
    result.risk, result.state

The screening pipeline runs the same `score_rows` inside its actors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from osteo_ray.catalogue.checks import QualityCheck, q_age, q_air_calib, q_crop, q_identity, q_metal
from osteo_ray.catalogue.config import IndexConfig, QualityChecks
from osteo_ray.catalogue.tissue import TissuePeaks, q_hu, q_orientation, tissue_peaks
from osteo_ray.dicom.decode_guard import DecodeGuard
from osteo_ray.dicom.read_ahead import ReadAhead
from osteo_ray.dicom.stack import SliceStack, Stack
from osteo_ray.model.abstention import ScanView, decide, model_checks
from osteo_ray.model.acquisition import Acquisition, bone_factor, contrast_given, extend
from osteo_ray.model.bundle_files import BundleError
from osteo_ray.model.calibration import normal_log_odds, rest_log_odds
from osteo_ray.model.conformal import class_set
from osteo_ray.model.crops import CropSquare, grid_positions, spine_crop
from osteo_ray.model.density import at_120_kvp, hu_by_level, trabecular_hu
from osteo_ray.model.embedding import hu_of, p_lumbar
from osteo_ray.model.inference import Patient, PatientView, needs_torch, networks_of
from osteo_ray.model.levels import Levels
from osteo_ray.model.look import first_positions
from osteo_ray.model.patterns import modalities_of, pattern_of
from osteo_ray.model.scoring_bundle import Prediction, ScoringBundle
from osteo_ray.model.selection import Selection, read_positions, select, selector_of
from osteo_ray.model.tissue_scale import tissue_scale, vbmd
from osteo_ray.outcomes import Outcome, Phase, Rejected, State
from osteo_ray.patients.header import AGE, SEX, fill_from_header, header_demographics
from osteo_ray.patients.labels import NORMAL, OSTEOPENIA
from osteo_ray.patients.schema import NAMES, feature
from osteo_ray.screening.closed_rows import closed_row
from osteo_ray.screening.config import ScoringConfig
from osteo_ray.screening.explain import explain
from osteo_ray.screening.result import StudyResult

VERDICTS = ("pass", "warn", "fail")


@dataclass
class _Decoded:
    """A slice that was decoded: HU, its crop and where it lies, and where in the slice bone was measured."""

    hu: np.ndarray
    spacing: tuple[float, float]  # pitch of `hu` in mm: larger than the slice's own where it was decoded coarsely
    square: CropSquare
    crop: np.ndarray
    circle: tuple[float, float, float] = (float("nan"),) * 3  # row and column in pixels, radius in mm


def patient_checks(row: Mapping[str, Any], record: np.ndarray, cfg: QualityChecks) -> list[QualityCheck]:
    """The catalogue's checks of a series once its record is joined: Q_IDENTITY compares the two, and Q_AGE judges the
    record's age where the header states none.

    Args:
        record: float [F], NaN where missing.
    """
    header = header_demographics(row)
    own = {NAMES[i]: float(record[i]) for i in (AGE, SEX) if not np.isnan(record[i])}
    checks = [QualityCheck(**c) for c in row.get("gates") or []]
    if "age_y" not in header and "age_y" in own:
        checks = [q_age(own["age_y"], cfg) if c.gate == "Q_AGE" else c for c in checks]
    return [*checks, q_identity(header, own, cfg)]


class PolicyTrace:
    """What the policy saw of one series: the picks, where they came from, and what their pixels say."""

    def __init__(
        self,
        stack: Stack,
        positions: np.ndarray,
        selection: Selection,
        pixel_gates: list[QualityCheck],
        seconds: float,
        tissue: TissuePeaks | None = None,
        circles: np.ndarray | None = None,
        read: np.ndarray | None = None,
    ):
        self.read = selection.kept if read is None else read  # int [K], grid positions that the student reads
        self.circles = circles  # [k, 3], where each pick was measured: row, column, radius in mm
        self.pixel_gates = pixel_gates
        self.tissue = tissue or TissuePeaks(None, None, None)
        self.positions = positions
        self.selection = selection
        self.seconds = seconds
        self.z_mm = np.asarray(stack.z_mm)[positions]
        self.n = stack.n
        self.decoded = stack.decoded
        self.bytes_read = stack.bytes_read
        self.sop_uids = getattr(stack, "sop_uids", None)

    def levels(self) -> Levels:
        """Level names by grid position (`abstention.ScanView.levels`)."""
        return self.view(None).levels()

    def view(self, kvp: float | None) -> ScanView:
        """What `abstention` asks of it; `kvp`: the tube voltage that the header states."""
        return ScanView(self.selection, self.z_mm, kvp)


class Predictor:
    """A loaded bundle that turns catalogue rows into result rows."""

    def __init__(self, bundle: ScoringBundle, cfg: ScoringConfig | None = None, index: IndexConfig | None = None):
        self.bundle = bundle
        self.cfg = cfg or ScoringConfig()
        self.index = index or IndexConfig()
        self.guard = DecodeGuard(self.index.limits) if self.cfg.guard else None
        self.reads = ReadAhead(self.cfg.read_at_once) if self.cfg.read_at_once > 1 else None
        self.networks = networks_of(bundle, self.cfg.device, self.cfg.threads)

    @classmethod
    def load(cls, folder: str | Path, cfg: ScoringConfig | None = None, index: IndexConfig | None = None) -> Predictor:
        """Load and verify the bundle in `folder`; `index` holds limits and quality checks.

        Raises:
            BundleError: a bundle that can't be used.
        """
        bundle = ScoringBundle.load(folder)
        if needs_torch(bundle, (cfg or ScoringConfig()).device):
            bundle = _with_networks(folder)
        return cls(bundle, cfg, index)

    # ---- one study, from Python

    def score(self, study: str | Path, record: Mapping[str, Any] | None = None) -> StudyResult:
        """Score the best series of the study that lies in `study` (folder, zip or any archive URI).

        Args:
            record: demographics and labs by feature name, e.g. `{"age_y": 67, "sex": "F"}`; None: CT alone.

        Returns:
            Never an exception for what the study is: one that can't be scored has a state and a code.

        Raises:
            RecordsError: naming the value that can't be.
            ValueError: where `study` holds no CT series, or more than one study.
        """
        from osteo_ray.catalogue.study import index_study
        from osteo_ray.patients.table import from_mapping_dict

        row = index_study(study, self.index)
        values = np.full(len(NAMES), np.nan)
        if record is not None:
            values = from_mapping_dict(record).matrix()[0][0]
        if row.get("state"):
            outcome = Outcome(State(row["state"]), row["code"], Phase(row["stage"]), row["message"])
            return StudyResult.of(self.closed(row, outcome, values), row)
        return StudyResult.of(self.score_rows([row], values[None])[0], row)

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
        results = []
        following: SliceStack | None = None
        for i, row in enumerate(rows):
            if begun is not None:
                begun(i)
            try:
                stack = following or self._open(row)
                # What the next series surely takes is read while this one is worked on.
                following = self._opened_ahead(rows[i + 1]) if i + 1 < len(rows) else None
                with stack:
                    trace = self.see(stack)
                results.append(self._score_trace(row, trace, records[i]))
            except Rejected as e:
                results.append(self.closed(row, e.outcome, records[i]))
            except Exception as e:  # a row's failure is a row
                message = f"{type(e).__name__}: {e}"[:500]
                outcome = Outcome(State.ERROR, "UNEXPECTED", Phase.SCORE, message)
                if isinstance(e, MemoryError) or "allocate memory" in message:  # as torch and ONNX Runtime say it
                    outcome = Outcome(State.QUARANTINED, "OUT_OF_MEMORY", Phase.DECODE, message)
                results.append(self.closed(row, outcome, records[i]))
        return results

    def score_stack(self, stack: Stack, row: Mapping[str, Any], record: np.ndarray) -> dict[str, Any]:
        """Score a stack that is open.

        Args:
            row: what is known of the scan: `kvp` and `contrast` as a catalogue has them, and whatever of a catalogue's
                columns the result is to repeat.
            record: float [F], NaN where missing; what it lacks of age and sex is taken from `row`.
        """
        return self._score_trace(row, self.see(stack), record)

    def closed(self, row: Mapping[str, Any], outcome: Outcome, record: np.ndarray | None = None) -> dict[str, Any]:
        """The result row of a series that ends without a score."""
        return closed_row(row, outcome, record, **self.model)

    @property
    def model(self) -> dict[str, str]:
        """The result columns that name the model."""
        b = self.bundle
        return {"model_name": b.name, "model_version": b.version, "model_sha256": b.sha256}

    # ---- inside

    def _open(self, row: Mapping[str, Any]) -> SliceStack:
        """The stack of a row, its first looks being read."""
        stack = SliceStack.from_row(row, self.index.limits, self.guard, reads=self.reads)
        view = self.bundle.config.view
        if selector_of(view) is None:
            positions = grid_positions(stack.z_mm, view.positions)
            stack.read_ahead(positions[first_positions(len(positions), view)].tolist())
        return stack

    def _opened_ahead(self, row: Mapping[str, Any]) -> SliceStack | None:
        """`_open`, or None where that fails: it fails again when it is the row's turn."""
        try:
            return self._open(row)
        except Exception:
            return None

    def see(self, stack: Stack) -> PolicyTrace:
        """Run the policy over one stack, decoding only what it asks for."""
        t = time.perf_counter()
        b = self.bundle
        positions = grid_positions(np.asarray(stack.z_mm), b.config.view.positions)
        own = stack.axial_spacing_mm
        looks_mm = b.config.crop.pixel_mm if self.cfg.coarse_looks else 0.0
        slices: dict[int, _Decoded] = {}

        def embed(p: np.ndarray, pitch_mm: float = looks_mm) -> np.ndarray:
            if isinstance(stack, SliceStack) and len(p) > 1:
                stack.read_ahead(positions[p].tolist())
            for k in p.tolist():
                i = int(positions[k])
                hu, spacing = stack.coarse(i, pitch_mm) if isinstance(stack, SliceStack) else (stack.axial(i), own)
                square = CropSquare.of(hu, spacing, b.config.crop)
                slices[k] = _Decoded(hu, spacing, square, spine_crop(hu, spacing, b.config.crop, square))
            crops = np.stack([slices[k].crop for k in p.tolist()])
            embedding, circles = self.networks.encode(crops)
            for k, (row, col, radius) in zip(p.tolist(), circles.tolist(), strict=True):
                square = slices[k].square
                slices[k].circle = (*square.to_slice(row, col, slices[k].spacing), radius * square.pixel_mm)
            return embedding

        selection = select(np.asarray(stack.z_mm)[positions], embed, self.networks.step, b.config.view)
        # Bone is measured, and pixels are checked, at full resolution.
        read = read_positions(selection, b.config.view)
        again = np.array([k for k in read.tolist() if slices[k].spacing != own], int)
        if again.size:
            selection.embedding[again] = embed(again, 0.0)
        # Of the kept slices the worst counts: what the score rests on must be sound.
        kept = [slices[k] for k in selection.kept.tolist()]
        cfg = self.index.gates
        each = [(q_air_calib(slices[k].hu, cfg), q_metal(slices[k].hu, cfg)) for k in read.tolist()]
        gates = [max(g, key=lambda x: VERDICTS.index(x.verdict)) for g in zip(*each[: len(kept)], strict=True)]
        # Any other is read where it is sound: a hip's metal is no reason to refuse a spine.
        sound = [i < len(kept) or all(g.verdict == "pass" for g in checks) for i, checks in enumerate(each)]
        gates.append(q_crop(max((s.square.outside_share(s.hu, own) for s in kept), default=0.0), cfg))
        tissue = tissue_peaks((s.hu, own, s.crop, s.square.pixel_mm) for s in kept)
        gates.append(q_orientation(tissue, cfg))
        circles = np.array([s.circle for s in kept]).reshape(-1, 3)
        seconds = time.perf_counter() - t
        return PolicyTrace(stack, positions, selection, gates, seconds, tissue, circles, read[np.array(sound, bool)])

    def _score_trace(self, row: Mapping[str, Any], s: PolicyTrace, given: np.ndarray) -> dict[str, Any]:
        t = time.perf_counter()
        record = fill_from_header(given, header_demographics(row))
        patient = self._patient(row, s, record)
        seen = self.networks.patient.view(patient)
        pattern = pattern_of(seen.present)
        checks = patient_checks(row, given, self.index.gates)
        checks += [*s.pixel_gates, q_hu(s.tissue, row.get("kvp"), self.index.gates)]
        scan = s.view(row.get("kvp"))
        checks += model_checks(self.bundle, scan, pattern, self.index.gates)
        outcome = decide(self.bundle, scan, record, pattern, checks)
        result = self.closed(row, outcome, given) | {"gates": [c.row() for c in checks]}
        result.update(slices_total=s.n, slices_decoded=s.decoded, bytes_read=s.bytes_read, select_s=s.seconds)
        result["selected"] = self._selected(s, seen.attention)
        result |= self._density(s, row.get("kvp"))
        if self.cfg.internal_calibration:
            result |= self._calibrated(s.tissue, row, result["trabecular_hu"])
        if result["state"] in (State.SCORED, State.SCORED_WARN):
            result.update(self._risk(patient, pattern))
            result["modalities"] = list(modalities_of(pattern))
            if self.cfg.shap:
                result.update(self._shap(patient, seen, self.bundle.scored_by[pattern], record))
        result["score_s"] = time.perf_counter() - t
        return result

    def _patient(self, row: Mapping[str, Any], s: PolicyTrace, record: np.ndarray) -> Patient:
        values, known = self.bundle.standardiser(record[None])
        cfg, bag = self.bundle.config, s.selection.embedding[s.read][None]
        bag = extend(bag, cfg.encoder.layout, Acquisition.of_rows([row]), cfg.acquisition)
        return Patient(values, known, bag, np.ones(bag.shape[:2], bool))

    def _risk(self, patient: Patient, pattern: str) -> dict[str, Any]:
        """The score columns of one patient."""
        b = self.bundle
        logits = self.networks.patient.logits(b.scored_by[pattern], patient, pattern)
        p = Prediction.of(logits, b.calibrators[pattern])
        risk, probs, threshold = float(p.risk[0]), p.probabilities[0], b.threshold_of(pattern)
        return {
            "risk_prob": risk,
            "risk_low": float(p.low[0]),
            "risk_high": float(p.high[0]),
            "risk_class": "high" if risk >= threshold else "low",
            "p_normal": float(probs[NORMAL]),
            "p_osteopenia": float(probs[OSTEOPENIA]),
            "p_osteoporosis": risk,
            "conformal_set": class_set(probs, b.conformal[pattern]),
            "log_odds": float(normal_log_odds(p.logits)[0]),
            "operating_point": b.operating_text(pattern),
            "threshold": threshold,
            "calibrator": pattern,
        }

    def _density(self, s: PolicyTrace, kvp: float | None) -> dict[str, Any]:
        """The columns of trabecular HU; at 120 kVp None where the tube voltage is not known."""
        layout, cfg = self.bundle.config.encoder.layout, self.bundle.config.acquisition

        def at_120(hu: float) -> float | None:
            return _known(float(at_120_kvp(np.array([hu]), np.array([np.nan if kvp is None else kvp]), cfg)[0]))

        picks = s.selection.embedding[s.selection.kept]
        levels = s.levels().level
        hu = trabecular_hu(picks, layout)
        return {
            "trabecular_hu": _known(hu),
            "trabecular_hu_120_kvp": at_120(hu),
            "hu_by_level": [
                {"level": level, "hu": m.hu, "hu_120_kvp": at_120(m.hu), "slices": m.slices, "spread": m.spread}
                for level, m in hu_by_level(picks, [levels[k] for k in s.selection.kept], layout).items()
            ],
        }

    def _calibrated(self, tissue: TissuePeaks, row: Mapping[str, Any], hu: float | None) -> dict[str, float | None]:
        """The columns of internal calibration; None where the tube voltage, or lumbar bone, is not known."""
        kvp = np.array([np.nan if row.get("kvp") is None else row["kvp"]])
        factor, contrast = (
            float(bone_factor(kvp, self.bundle.config.acquisition)[0]),
            contrast_given(row.get("contrast")),
        )
        scale = tissue_scale(tissue.fat, tissue.muscle, tissue.air, contrast, factor, self.cfg.tissue_scale)
        calibrated, sd = scale.at_120_kvp(np.nan if hu is None else hu)
        # Enhanced marrow is no mineral.
        density, error = (np.nan, np.nan) if contrast == 1 else vbmd(calibrated, sd, self.cfg.tissue_scale)
        return {
            "trabecular_hu_calibrated": _known(calibrated),
            "vbmd_mg_cm3": _known(density),
            "vbmd_sd_mg_cm3": _known(error) if np.isfinite(density) else None,
        }

    def _selected(self, s: PolicyTrace, weights: np.ndarray) -> list[dict[str, Any]]:
        kept = s.selection.kept
        picks = s.selection.embedding[kept]
        lumbar, hu = p_lumbar(picks), hu_of(picks[:, self.bundle.config.encoder.layout.trabecular])
        levels = s.levels()
        index = s.positions[kept]
        out = []
        for j, (i, k) in enumerate(zip(index, kept, strict=True)):  # they stand first in what was read
            row, col, radius = (None,) * 3 if s.circles is None else s.circles[j].tolist()
            out.append(
                {
                    "sop_uid": None if s.sop_uids is None else s.sop_uids[i],
                    "index": int(i),
                    "z_mm": float(s.z_mm[k]),
                    "weight": float(weights[j]),
                    "p_lumbar": float(lumbar[j]),
                    "level": levels.level[k],
                    "level_confidence": float(levels.confidence[k]),
                    "hu": float(hu[j]),
                    "roi_row": row,
                    "roi_col": col,
                    "roi_radius_mm": radius,
                }
            )
        return out

    def _shap(self, patient: Patient, seen: PatientView, model: str, record: np.ndarray) -> dict[str, Any]:
        b, networks = self.bundle, self.networks.patient
        if model == "image":  # CT alone: all of it is the CT's
            own = float(rest_log_odds(networks.logits("image", patient, "ct"))[0])
            base = b.metrics["image_mean_log_odds"]
            return {"shap_base": base, "shap": [_shap_row("ct", "ct", None, None, own - base)]}
        bg = b.background
        ct = np.concatenate([seen.ct[None], bg["ct"]])

        def predict(values: np.ndarray, known: np.ndarray, which: np.ndarray) -> np.ndarray:
            return rest_log_odds(networks.logits_given_ct(values, known, ct[which]))

        e = explain(predict, patient.values[0], patient.known[0], bg["values"], bg["known"] > 0.5, has_ct=True)
        rows = [
            _shap_row(name, group, float(v) if np.isfinite(v) else None, feature(name).unit, float(s))
            for name, group, v, s in zip(
                b.standardiser.features, b.standardiser.groups, record, e.values[:-1], strict=True
            )
        ]
        return {"shap_base": e.base, "shap": [*rows, _shap_row("ct", "ct", None, None, float(e.values[-1]))]}


def _with_networks(folder: str | Path) -> ScoringBundle:
    try:
        from osteo_ray.model.bundle import Bundle
    except ModuleNotFoundError as e:
        raise BundleError(
            f"{folder}: a GPU, parts of one's own and a bundle of before there were ONNX models need torch; "
            f"{e.name} is missing, pip install 'osteo-ray[train]' brings it"
        ) from None
    return Bundle.load(folder)


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _shap_row(name: str, group: str, value: float | None, unit: str | None, shap: float) -> dict[str, Any]:
    return {"feature": name, "group": group, "value": value, "unit": unit, "shap": shap}
