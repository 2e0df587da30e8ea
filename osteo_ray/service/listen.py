"""Live mode: takes CT by C-STORE, waits until a study is complete, screens it, sends the reports back.

    with Listener(ListenConfig(...), spool, scorer, scorer.model, records) as listener:
        listener.serve_forever()

What arrives goes to a spool (`service.spool`). A study is complete when nothing has come for `quiet_s` and nothing of
it was refused. What fails is tried again with growing pauses, then ends as FAILED with a code. Where no study is to
blame (a full disk, a scorer that does not start) nothing counts as an attempt, and nothing is taken until it is mended:
senders are told "out of resources" and keep their images. The spool holds images as they came and stays inside the
archive's trust zone; the ledger names studies by UID, nobody by name.
"""

from __future__ import annotations

import errno
import hashlib
import io
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.association import Association
from pynetdicom.events import Event

from osteo_ray.outcomes import InputError, Outcome, Phase, Rejected, State
from osteo_ray.patients.record_set import RecordSet, records_of, values_at_ct
from osteo_ray.patients.table import RecordTable
from osteo_ray.reports.package import write_package
from osteo_ray.screening.closed_rows import closed_row
from osteo_ray.screening.isolated import ScorerStartError, StudyFailed
from osteo_ray.screening.ledger import row_key, salt_of
from osteo_ray.service import dicom_server
from osteo_ray.service.listen_config import ListenConfig
from osteo_ray.service.spool import Reported, Spool, StudyState, names_in

log = logging.getLogger("osteo_ray.listen")

VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO
TAKEN = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# A deflated data set inflates without a bound in the toolkit that takes it off the wire.
SYNTAXES = [s for s in ALL_TRANSFER_SYNTAXES if s != DeflatedExplicitVRLittleEndian]
SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000


NOT_OF_A_STUDY = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM))
MOST_PAUSE_S = 60.0
SWEEP_S = 3600.0


class ListenError(RuntimeError):
    """The worker or the server ended: nothing that comes would be screened any more."""


class Scores(Protocol):
    """A scorer in a process of its own (`screening.isolated`): a study that hangs or crashes ends itself alone."""

    def index_study(self, study: str, timeout_s: float) -> dict[str, Any]: ...

    def score_rows(self, rows: Sequence[Mapping[str, Any]], records: np.ndarray) -> list[dict[str, Any]]: ...


@dataclass
class _Received:
    """What one association has brought."""

    studies: set[str] = field(default_factory=set)
    unknown: set[str] = field(default_factory=set)  # images refused of which nobody knows the study


class Listener:
    """A C-STORE server and one worker that screens what is complete. `model` holds the results' model columns."""

    def __init__(
        self,
        cfg: ListenConfig,
        spool: Path,
        scorer: Scores,
        model: Mapping[str, str],
        records: RecordTable | RecordSet | None = None,
    ):
        if not cfg.callers:
            raise InputError("callers: name the AE titles that may send, e.g. --set 'callers=[PACS]'")
        self.cfg, self.scorer, self.model, self.records = cfg, scorer, model, records_of(records)
        self.spool = Spool(spool, cfg.max_spool_bytes, cfg.hold_s)
        self._stop = threading.Event()
        self._worker = threading.Thread(target=self._work, name="listen-worker", daemon=True)
        self._server: threading.Thread | None = None
        self._received: WeakKeyDictionary[Association, _Received] = WeakKeyDictionary()
        self.trouble = ""  # why nothing is taken now
        self._swept_at = 0.0
        ae = AE(cfg.ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = list(cfg.callers)
        ae.maximum_pdu_size = cfg.max_pdu
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = cfg.timeout_s
        ae.add_supported_context(VERIFICATION)
        for sop_class in TAKEN:
            ae.add_supported_context(sop_class, SYNTAXES)
        self._ae = ae
        self.port = 0

    def __enter__(self) -> Listener:
        c = self.cfg
        handlers: list[Any] = [(evt.EVT_C_STORE, self._take), (evt.EVT_C_ECHO, lambda event: SUCCESS)]
        bounds = dicom_server.Bounds(c.max_associations, c.associate_s, c.timeout_s, c.max_pdu, c.max_instance_bytes)
        server, self._server = dicom_server.start(self._ae, (c.host, c.port), handlers, bounds)
        self.port = int(server.server_address[1])
        self._worker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._ae.shutdown()
        self._worker.join()

    def serve_forever(self) -> None:
        """Wait until the process is told to end.

        Raises:
            ListenError: it can't go on; whoever supervises the process should start it again.
        """
        assert self._server is not None
        while not self._stop.wait(1.0):
            for thread in (self._worker, self._server):
                if not thread.is_alive():
                    raise ListenError(f"{thread.name} ended; what is unfinished is taken up at the next start")

    def stop(self) -> None:
        """End `serve_forever`."""
        self._stop.set()

    # ---- what arrives

    def _take(self, event: Event) -> int:
        dicom_server.instance_taken(event.assoc)
        request: Any = event.request
        sop = str(request.AffectedSOPInstanceUID)
        received = self._received.setdefault(event.assoc, _Received())
        status, study, data = self._judge(event)
        if status != SUCCESS:
            # Of an image that can't be read nobody knows the study: all that came along with it are held back.
            received.unknown |= {sop} - ({sop} if study else set())
            for uid in {study} if study else received.studies:
                self.spool.refuse(uid, sop)
            return status
        if not self.spool.put(study, sop, data):
            return OUT_OF_RESOURCES
        received.studies.add(study)
        received.unknown.discard(sop)
        for other in received.unknown:
            self.spool.refuse(study, other)
        return SUCCESS

    def _judge(self, event: Event) -> tuple[int, str, bytes]:
        """(status, study instance UID where it is known, encoded instance) of what is sent."""
        study = ""
        try:
            data = event.encoded_dataset()
            tags = ["StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"]
            ds = dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(tags))
            study, sop, kind = (str(ds.get(t, "")) for t in tags)
        except Exception:  # whatever a sender can think of
            return CANNOT_UNDERSTAND, study, b""
        if not study or not sop:
            return CANNOT_UNDERSTAND, study, b""
        request: Any = event.request
        if sop != request.AffectedSOPInstanceUID or kind != request.AffectedSOPClassUID:
            return MISMATCH, study, b""
        if self.trouble or not self._worker.is_alive() or len(data) > self.cfg.max_instance_bytes:
            return OUT_OF_RESOURCES, study, b""
        return SUCCESS, study, data

    # ---- what is complete

    def _work(self) -> None:
        failed = 0
        while not self._stop.is_set():
            pause = min(0.5, self.cfg.quiet_s / 4)
            try:
                self._pass()
                if self.trouble:
                    log.warning("mended; images are taken again")
                failed, self.trouble = 0, ""
            except Exception as e:
                failed += 1
                self.trouble = _say(e)
                log.error("nothing can be screened, and nothing is taken until it is mended: %s", self.trouble)
                pause = min(MOST_PAUSE_S, self.cfg.backoff_s * 2 ** min(failed - 1, 16))
            self._stop.wait(pause)

    def _pass(self) -> None:
        """All that is due now.

        Raises:
            Exception: something for which no study is to blame.
        """
        for name, state in self.spool.due(self.cfg.quiet_s):
            if self._stop.is_set():
                return
            try:
                self.advance(name, state)
            except Exception as e:
                if _of_no_study(e):
                    raise
                log.error("study %s: %s", name, type(e).__name__)
                self._again(name, state, "UNEXPECTED", e, names_in(self.spool.incoming / name))
        if self.cfg.keep_days is not None and time.monotonic() - self._swept_at > SWEEP_S:
            self._swept_at = time.monotonic()
            self.spool.forget_reports(self.cfg.keep_days * 86400)

    def advance(self, name: str, state: StudyState) -> None:
        """Take one study as far as it goes: screen it, write its reports, send them."""
        files = names_in(self.spool.incoming / name)
        if state.refused:  # it was waited for; a report of a part of a study is worse than none
            state.state, state.code = "FAILED", "INCOMPLETE"
            state.message = f"{len(state.refused)} of its images were refused and never came again"
            self.spool.finish(name, state, files)
            return
        if state.state == "RECEIVING":
            try:
                result, row = self._screen(self.spool.incoming / name)
            except Exception as e:
                if _of_no_study(e):
                    raise
                code = e.code if isinstance(e, StudyFailed) else "SCREENING_FAILED"
                if code == "NO_STUDY":  # no further attempt will find one
                    state.state, state.code, state.message = "FAILED", "NO_CT_SERIES", _say(e)
                    self.spool.finish(name, state, files)
                    return
                self._again(name, state, code, e, files)
                return
            before = self.spool.last_report(name)
            earlier = _dataset(before) if before is not None and before.row_key != result["row_key"] else None
            created = datetime.now().astimezone().replace(microsecond=0)
            package = write_package(self.spool.reports, result, row, self.cfg.reports, created, earlier)
            send = [package.files[k] for k in ("sr", "sc") if k in package.files]
            state.state, state.attempt, state.next_try = "SENDING", 0, 0.0
            state.outcome, state.code = result["state"], result["code"]
            state.message = "; ".join(package.problems)
            state.row_key, state.series_uid = result["row_key"], str(result["series_uid"])
            state.send = [str(p.relative_to(self.spool.root)) for p in send] if self.cfg.destination else []
            if not self.cfg.destination and "sr" in package.files:
                self.spool.note_report(name, _reported(dcmread(package.files["sr"]), state.row_key))
            with self.spool.lock:
                if names_in(self.spool.incoming / name) != files or self.spool.refused.get(name):
                    return  # more came while this was screened: it is not complete, and will be due again
                self.spool.save(name, state)
        try:
            while state.send:
                ds = dcmread(self.spool.root / state.send[0])
                self._send(ds)
                if ds.SOPClassUID == Comprehensive3DSRStorage:
                    self.spool.note_report(name, _reported(ds, state.row_key))
                state.sent.append(str(ds.SOPInstanceUID))
                del state.send[0]
                self.spool.save(name, state)
        except Exception as e:
            if _of_no_study(e):
                raise
            self._again(name, state, "SENDING_FAILED", e, files)
            return
        state.state = "DONE"
        if self.spool.finish(name, state, files):
            log.info("study %s: %s, %d sent", name, state.outcome, len(state.sent))

    def _again(self, name: str, state: StudyState, code: str, e: Exception, files: set[str]) -> None:
        state.attempt += 1
        state.message = _say(e)
        if state.attempt >= self.cfg.attempts:
            state.state, state.code = "FAILED", code
            self.spool.finish(name, state, files)
            return
        state.next_try = time.time() + self.cfg.backoff_s * 2 ** (state.attempt - 1)
        self.spool.save(name, state)

    def _screen(self, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
        """(result, catalogue row) of the study's chosen series."""
        row = self.scorer.index_study(str(folder), self.cfg.limits.series_timeout_s)
        values = self._record(row)
        if row.get("state"):
            outcome = Outcome(State(row["state"]), row["code"], Phase(row["stage"]), row["message"] or "")
            result = closed_row(row, outcome, values, **self.model)
        else:
            result = self.scorer.score_rows([row], values[None])[0]
        # The same study sent twice gives the same reports; a record that has changed since gives others.
        record = int.from_bytes(hashlib.blake2b(values.astype(np.float32).tobytes(), digest_size=8).digest())
        salt = salt_of(self.model["model_sha256"], self.cfg.scoring, self.cfg.index, self.cfg.timeline)
        result["row_key"] = row_key(row["series_uid"], row["content_hash"], record, salt, row.get("code") or "")
        result["run_id"] = "listen"
        return result, row

    def _record(self, row: Mapping[str, Any]) -> np.ndarray:
        """The patient's record as it was at the CT, NaN where there is none."""
        return values_at_ct(self.records, [row["patient_key"]], [row["study_date"]], self.cfg.timeline)[0]

    def _send(self, ds: Dataset) -> None:
        """C-STORE one report.

        Raises:
            ConnectionError: the destination is not there, refuses, or answers with a failure.
        """
        to = self.cfg.destination
        assert to is not None  # nothing is queued without one
        ae = AE(self.cfg.ae_title)
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = ae.connection_timeout = self.cfg.timeout_s
        for sop_class in (Comprehensive3DSRStorage, SecondaryCaptureImageStorage):
            ae.add_requested_context(sop_class)
        assoc = ae.associate(to.host, to.port, ae_title=to.ae_title)
        if not assoc.is_established:
            raise ConnectionError("the destination is not there, or refuses the association")
        try:
            status = assoc.send_c_store(ds)
        finally:
            assoc.release()
        code = status.get("Status")
        # Warnings (0xBxxx) mean that it was stored.
        if code is None or (code != SUCCESS and code & 0xF000 != 0xB000):
            raise ConnectionError(f"the destination answered {'nothing' if code is None else hex(code)}")


def _of_no_study(e: Exception) -> bool:
    """Whether an error would meet any study: the disk, the machine, the scorer's start."""
    return isinstance(e, ScorerStartError | MemoryError) or getattr(e, "errno", None) in NOT_OF_A_STUDY


def _reported(sr: Dataset, key: str) -> Reported:
    return Reported(
        key, str(sr.StudyInstanceUID), str(sr.SeriesInstanceUID), str(sr.SOPInstanceUID), str(sr.SOPClassUID)
    )


def _dataset(report: Reported) -> Dataset:
    """An earlier SR as `write_package` takes it."""
    ds = Dataset()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = report.study_uid, report.series_uid
    ds.SOPInstanceUID, ds.SOPClassUID = report.sop_uid, report.sop_class
    return ds


def _say(e: Exception) -> str:
    """An error for the ledger: texts of our own as they are, of any other only what kind it is."""
    if isinstance(e, StudyFailed):
        return e.message[:300]
    own = isinstance(e, InputError | Rejected | ConnectionError | ScorerStartError) and not getattr(e, "filename", None)
    return f"{type(e).__name__}: {e}"[:300] if own else getattr(e, "strerror", None) or type(e).__name__
