"""Live mode: takes CT by C-STORE, waits until a study is complete, screens it, sends the reports back.

    with Listener(ListenConfig(...), spool, scorer, scorer.model, records) as listener:
        listener.serve_forever()

What arrives goes to a spool: one file an instance, whole or not at all, named by hashes, bounded in bytes. A study
is complete when nothing has come for `quiet_s`. Where it stands is in one small file a study, so that a restart goes
on where it was; what fails is tried again with growing pauses, then ends as FAILED with a code. The spool
holds images as they came and stays inside the archive's trust zone; the ledger names studies by UID, nobody by name.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydicom import dcmread
from pydicom.uid import (
    Comprehensive3DSRStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    LegacyConvertedEnhancedCTImageStorage,
    SecondaryCaptureImageStorage,
)
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES, evt
from pynetdicom.events import Event

from osteo_ray.catalogue.study import index_study
from osteo_ray.io.files import replaced
from osteo_ray.outcomes import InputError, Outcome, Phase, Rejected, State
from osteo_ray.patients.record_set import RecordSet, records_of, values_at_ct
from osteo_ray.patients.table import RecordTable
from osteo_ray.reports.package import write_package
from osteo_ray.screening.ledger import row_key, salt_of
from osteo_ray.screening.predictor import closed_row
from osteo_ray.service.listen_config import ListenConfig

log = logging.getLogger("osteo_ray.listen")

VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO
TAKEN = (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage)
# A deflated data set inflates without a bound in the toolkit that takes it off the wire.
SYNTAXES = [s for s in ALL_TRANSFER_SYNTAXES if s != DeflatedExplicitVRLittleEndian]
SUCCESS, OUT_OF_RESOURCES, MISMATCH, CANNOT_UNDERSTAND = 0x0000, 0xA700, 0xA900, 0xC000


@dataclass
class StudyState:
    """Where one study stands: one JSON file each, until it is done and a line of the ledger."""

    study_uid: str
    state: str = "RECEIVING"  # RECEIVING -> SENDING -> DONE | FAILED
    code: str = ""
    message: str = ""
    attempt: int = 0
    next_try: float = 0.0  # seconds since 1970
    outcome: str = ""  # state of the result
    row_key: str = ""
    series_uid: str = ""
    send: list[str] = field(default_factory=list)  # files still to send, relative to the spool
    sent: list[str] = field(default_factory=list)


class Spool:
    """Files of studies that are not done, and where each stands. Safe between threads; a restart reads it back."""

    def __init__(self, root: Path, max_bytes: int):
        self.root, self.max_bytes = root, max_bytes
        self.incoming, self.states, self.reports = root / "incoming", root / "studies", root / "reports"
        for folder in (self.incoming, self.states, self.reports):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.lock = threading.RLock()
        for half in self.incoming.glob("*/.*.tmp"):
            half.unlink()
        self.used = sum(f.stat().st_size for f in self.incoming.rglob("*") if f.is_file())
        self.last: dict[str, float] = {}
        for folder in self.incoming.iterdir():
            files = sorted(folder.iterdir())
            self.last[folder.name] = max((f.stat().st_mtime for f in files), default=0.0)
            if files and self.load(folder.name) is None:  # it was ended between the two files
                uid = dcmread(files[0], stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).StudyInstanceUID
                self.save(folder.name, StudyState(str(uid)))

    def put(self, study_uid: str, sop_uid: str, data: bytes) -> bool:
        """Keep one instance; False where the spool is full. One that is there already is kept once."""
        name = _hash(study_uid)
        path = self.incoming / name / f"{_hash(sop_uid)}.dcm"
        with self.lock:
            self.last[name] = time.time()
            if path.exists():
                return True
            if self.used + len(data) > self.max_bytes:
                return False
            self.used += len(data)
        try:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            with replaced(path, durable=True) as tmp:
                tmp.write_bytes(data)
            with self.lock:
                self.last[name] = time.time()
                state = self.load(name)
                # What comes while reports are on their way opens the study again.
                if state is None or state.state != "RECEIVING":
                    state = StudyState(study_uid)
                state.attempt, state.next_try = 0, 0.0
                self.save(name, state)
        except OSError:
            with self.lock:
                self.used -= len(data)
            return False
        return True

    def load(self, name: str) -> StudyState | None:
        try:
            return StudyState(**json.loads((self.states / f"{name}.json").read_text()))
        except FileNotFoundError:
            return None

    def save(self, name: str, state: StudyState) -> None:
        with self.lock, replaced(self.states / f"{name}.json") as tmp:
            tmp.write_text(json.dumps(asdict(state), indent=1) + "\n")

    def due(self, quiet_s: float) -> list[tuple[str, StudyState]]:
        """Studies that are complete or wait for another attempt, and whose time has come."""
        now = time.time()
        out = []
        for path in sorted(self.states.glob("*.json")):
            with self.lock:
                state = self.load(path.stem)
                if state is None or now < state.next_try:
                    continue
                if state.state == "RECEIVING" and now - self.last.get(path.stem, 0.0) < quiet_s:
                    continue
            out.append((path.stem, state))
        return out

    def finish(self, name: str, state: StudyState, files: set[str]) -> bool:
        """Record a terminal state and remove the instances it rests on; False where others came meanwhile."""
        folder = self.incoming / name
        with self.lock:
            if _names(folder) != files:
                self.save(name, StudyState(state.study_uid))
                return False
            line = asdict(state) | {"instances": len(files), "time": datetime.now(UTC).isoformat(timespec="seconds")}
            del line["send"], line["next_try"]
            with (self.root / "ledger.jsonl").open("a", encoding="utf-8") as f:
                f.write(json.dumps(line) + "\n")
            for file in files:
                self.used -= (folder / file).stat().st_size
                (folder / file).unlink()
            with contextlib.suppress(OSError):  # another instance is being written into it
                folder.rmdir()
            self.last.pop(name, None)
            (self.states / f"{name}.json").unlink(missing_ok=True)
        return True


class Scores(Protocol):
    """A scorer, in this process or in one of its own (`screening.isolated`)."""

    def score_rows(self, rows: Sequence[Mapping[str, Any]], records: np.ndarray) -> list[dict[str, Any]]: ...


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
        self.spool = Spool(spool, cfg.max_spool_bytes)
        self._stop = threading.Event()
        self._worker = threading.Thread(target=self._work, name="listen-worker", daemon=True)
        ae = AE(cfg.ae_title)
        ae.require_called_aet = True
        ae.require_calling_aet = list(cfg.callers)
        ae.maximum_associations, ae.maximum_pdu_size = cfg.max_associations, cfg.max_pdu
        ae.acse_timeout = ae.dimse_timeout = ae.network_timeout = cfg.timeout_s
        ae.add_supported_context(VERIFICATION)
        for sop_class in TAKEN:
            ae.add_supported_context(sop_class, SYNTAXES)
        self._ae = ae
        self.port = 0

    def __enter__(self) -> Listener:
        handlers: list[Any] = [(evt.EVT_C_STORE, self._take), (evt.EVT_C_ECHO, lambda event: SUCCESS)]
        server = self._ae.start_server((self.cfg.host, self.cfg.port), block=False, evt_handlers=handlers)
        assert server is not None  # block=False gives one
        self.port = int(server.server_address[1])
        self._worker.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._ae.shutdown()
        self._worker.join()

    def serve_forever(self) -> None:
        """Wait until the process is told to end."""
        self._stop.wait()

    def stop(self) -> None:
        """End `serve_forever`."""
        self._stop.set()

    # ---- what arrives

    def _take(self, event: Event) -> int:
        try:
            data = event.encoded_dataset()
            if len(data) > self.cfg.max_instance_bytes:
                return OUT_OF_RESOURCES
            tags = ["StudyInstanceUID", "SOPInstanceUID", "SOPClassUID"]
            ds = dcmread(io.BytesIO(data), stop_before_pixels=True, specific_tags=list(tags))
            study, sop, kind = (str(ds.get(t, "")) for t in tags)
        except Exception:  # whatever a sender can think of
            return CANNOT_UNDERSTAND
        if not study or not sop:
            return CANNOT_UNDERSTAND
        request: Any = event.request
        if sop != request.AffectedSOPInstanceUID or kind != request.AffectedSOPClassUID:
            return MISMATCH
        return SUCCESS if self.spool.put(study, sop, data) else OUT_OF_RESOURCES

    # ---- what is complete

    def _work(self) -> None:
        while not self._stop.is_set():
            for name, state in self.spool.due(self.cfg.quiet_s):
                if self._stop.is_set():
                    break
                try:
                    self.advance(name, state)
                except Exception as e:  # the worker outlives everything; the study is tried again
                    log.error("study %s: %s", name, type(e).__name__)
                    self._again(name, state, "UNEXPECTED", e, _names(self.spool.incoming / name))
            self._stop.wait(min(0.5, self.cfg.quiet_s / 4))

    def advance(self, name: str, state: StudyState) -> None:
        """Take one study as far as it goes: screen it, write its reports, send them."""
        files = _names(self.spool.incoming / name)
        if state.state == "RECEIVING":
            try:
                result, row = self._screen(self.spool.incoming / name)
            except InputError as e:  # no CT in it: no further attempt will find one
                state.state, state.code, state.message = "FAILED", "NO_CT_SERIES", _say(e)
                self.spool.finish(name, state, files)
                return
            except Exception as e:
                self._again(name, state, "SCREENING_FAILED", e, files)
                return
            created = datetime.now(UTC).replace(microsecond=0)
            package = write_package(self.spool.reports, result, row, self.cfg.reports, created)
            send = [package.files[k] for k in ("sr", "sc") if k in package.files]
            state.state, state.attempt, state.next_try = "SENDING", 0, 0.0
            state.outcome, state.code = result["state"], result["code"]
            state.message = "; ".join(package.problems)
            state.row_key, state.series_uid = result["row_key"], str(result["series_uid"])
            state.send = [str(p.relative_to(self.spool.root)) for p in send] if self.cfg.destination else []
            with self.spool.lock:
                if _names(self.spool.incoming / name) != files:
                    return  # more came while this was screened: it is not complete, and will be due again
                self.spool.save(name, state)
        try:
            while state.send:
                state.sent.append(self._send(self.spool.root / state.send[0]))
                del state.send[0]
                self.spool.save(name, state)
        except Exception as e:
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
        try:
            row = index_study(folder, self.cfg.index)
        except InputError:
            raise InputError("the study holds no CT series that can be told") from None
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

    def _send(self, path: Path) -> str:
        """C-STORE one report; returns its SOP instance UID.

        Raises:
            ConnectionError: the destination is not there, refuses, or answers with a failure.
        """
        to = self.cfg.destination
        assert to is not None  # nothing is queued without one
        ds = dcmread(path)
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
        return str(ds.SOPInstanceUID)


def _hash(uid: str) -> str:
    # A UID from outside never becomes a file name.
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def _names(folder: Path) -> set[str]:
    return {f.name for f in folder.glob("*.dcm")} if folder.is_dir() else set()


def _say(e: Exception) -> str:
    """An error for the ledger: texts of our own as they are, of any other only what kind it is."""
    own = isinstance(e, InputError | Rejected | ConnectionError) and not getattr(e, "filename", None)
    return f"{type(e).__name__}: {e}"[:300] if own else getattr(e, "strerror", None) or type(e).__name__
