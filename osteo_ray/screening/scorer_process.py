"""The process in which a scorer runs (`isolated.IsolatedPredictor`): it may hang, crash or run out of memory."""

from __future__ import annotations

import faulthandler
import sys
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from osteo_ray.dicom import sources
from osteo_ray.dicom.library_logs import keep_values_out
from osteo_ray.io.store import local_folder
from osteo_ray.model.bundle_files import COPIED
from osteo_ray.outcomes import InputError, Outcome, Phase, Rejected, State
from osteo_ray.screening.explain import import_shap
from osteo_ray.screening.predictor import Predictor


def serve(fd: int) -> None:
    """The loop: batches in, "at" a series and "done" out, until the other end closes."""
    keep_values_out()
    with Connection(fd) as conn:
        bundle, cfg, index, limits = conn.recv()
        try:
            with local_folder(bundle, COPIED) as folder:
                scorer = Predictor.load(folder, cfg, index)
            if cfg.shap:
                _import_shap()  # seconds that would else be the first series'
            if torch := sys.modules.get("torch"):  # where the bundle's networks run in it
                torch.set_num_threads(cfg.threads)
        except Exception as e:
            conn.send(("failed", e))
            return
        _limit_memory(limits.series_memory_mb)
        orphaned_s = 2 * limits.series_timeout_s + 60

        def begun(i: int) -> None:
            # The parent ends a child that hangs; where the parent itself is gone, this does. It needs no GIL.
            faulthandler.dump_traceback_later(orphaned_s, exit=True)
            conn.send(("at", i))

        conn.send(("ready", scorer.model))
        while True:
            try:
                what, *asked = conn.recv()
            except EOFError:
                if scorer.guard is not None:
                    scorer.guard.close()
                return
            if what == "rows":
                rows, records = asked
                answer = "done", scorer.score_rows(rows, records, begun)
            else:
                study, *record, timeout_s = asked
                faulthandler.dump_traceback_later(2 * timeout_s + 60, exit=True)
                answer = _study(scorer, study, *record)
            faulthandler.cancel_dump_traceback_later()
            conn.send(answer)


def _import_shap() -> None:
    """shap without its plots: nobody looks at one here, and matplotlib takes a sixth of a scorer's start."""
    absent = "matplotlib" not in sys.modules
    if absent:
        sys.modules["matplotlib"] = None  # type: ignore[assignment]  # as where it isn't installed
    try:
        import_shap()
    finally:
        if absent:
            del sys.modules["matplotlib"]


def _study(scorer: Predictor, study: str, record: np.ndarray | None = None) -> tuple[str, Any]:
    """("done", result row of a study, without a record its catalogue row) or ("failed", (code, message))."""
    from osteo_ray.catalogue.study import index_study  # screening, whose rows are a catalogue's, does without

    try:
        row = index_study(study, scorer.index)
        if record is None:
            return "done", row
        if row.get("state"):
            outcome = Outcome(State(row["state"]), row["code"], Phase(row["stage"]), row["message"] or "")
            return "done", scorer.closed(row, outcome, record)
        return "done", scorer.score_rows([row], record[None])[0]
    except (InputError, Rejected, OSError, ValueError) as e:
        # The path under which an upload lies says nothing to who sent it.
        return "failed", ("NO_STUDY", str(e).replace(study, "the study")[:500])
    except MemoryError:
        return "failed", ("OUT_OF_MEMORY", "reading it takes more memory than one study may take")
    except Exception as e:  # its text may quote what the study holds
        return "failed", ("UNEXPECTED", f"{type(e).__name__} while the study was read")
    finally:
        # Uploads are deleted after the answer; an archive held open would keep their blocks on the disk.
        sources.shared.cache_clear()


def _limit_memory(memory_mb: int) -> None:
    """Let this process's own memory grow by `memory_mb`; beyond that an allocation fails."""
    if sys.platform != "linux":
        return
    import resource

    with open("/proc/self/status") as f:
        data_kb = next(int(line.split()[1]) for line in f if line.startswith("VmData:"))
    cap = data_kb * 1024 + memory_mb * 2**20
    resource.setrlimit(resource.RLIMIT_DATA, (cap, cap))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
