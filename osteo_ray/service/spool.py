"""What arrived by C-STORE and where each study stands, on disk: a restart goes on where it was.

    spool = Spool(Path("spool"), max_bytes, hold_s)
    spool.put(study_uid, sop_uid, data)            # False: refused, and the study is held back
    for name, state in spool.due(quiet_s): ...
    spool.finish(name, state, files)

One file an instance, whole or not at all, named by hashes; one small JSON file a study. A study of which an image was
refused is not due before that image has come, or before it has been waited for in vain for `hold_s`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import threading
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from pydicom import dcmread

from osteo_ray.io.files import replaced
from osteo_ray.service import json_lines


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
    refused: list[str] = field(default_factory=list)  # hashes of the SOP instance UIDs that were not taken


@dataclass(frozen=True)
class Reported:
    """The last SR of a study, which a later one names as its predecessor."""

    row_key: str
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: str


class Spool:
    """Files of studies that are not done, and where each stands. Safe between threads; a restart reads it back."""

    def __init__(self, root: Path, max_bytes: int, hold_s: float = 3600.0):
        self.root, self.max_bytes, self.hold_s = root, max_bytes, hold_s
        self.incoming, self.states, self.reports = root / "incoming", root / "studies", root / "reports"
        self.reported = root / "reported"
        for folder in (root, self.incoming, self.states, self.reports, self.reported):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.lock = threading.RLock()
        for half in self.incoming.glob("*/.*.tmp"):
            half.unlink()
        self.used = sum(f.stat().st_size for f in self.incoming.rglob("*") if f.is_file())
        self.last: dict[str, float] = {}
        # By study, when each refused image was last refused. In memory too: a full disk takes no note.
        self.refused: dict[str, dict[str, float]] = {}
        now = time.time()
        for path in self.states.glob("*.json"):
            if (state := self.load(path.stem)) and state.refused:
                self.refused[path.stem] = dict.fromkeys(state.refused, now)
        for folder in self.incoming.iterdir():
            files = sorted(folder.iterdir())
            self.last[folder.name] = max((f.stat().st_mtime for f in files), default=0.0)
            if files and self.load(folder.name) is None:  # it was ended between the two files
                uid = dcmread(files[0], stop_before_pixels=True, specific_tags=["StudyInstanceUID"]).StudyInstanceUID
                self.save(folder.name, StudyState(str(uid)))

    def put(self, study_uid: str, sop_uid: str, data: bytes) -> bool:
        """Keep one instance; False where it can't be kept, which holds its study back. The same again is kept once."""
        name, sop = hash_of(study_uid), hash_of(sop_uid)
        path = self.incoming / name / f"{sop}.dcm"
        with self.lock:
            self.last[name] = time.time()
            new = not path.exists()
            if new and self.used + len(data) > self.max_bytes:
                self.refuse(study_uid, sop_uid)
                return False
            if new:
                self.used += len(data)
        try:
            if new:
                path.parent.mkdir(exist_ok=True, mode=0o700)
                with replaced(path, durable=True) as tmp:
                    tmp.touch(mode=0o600)
                    tmp.write_bytes(data)
            with self.lock:
                self.last[name] = time.time()
                awaited = self.refused.get(name, {}).pop(sop, None)
                if new or awaited is not None:
                    self._reopen(name, study_uid)
        except OSError:
            with self.lock:
                if new:
                    self.used -= len(data)
                    path.unlink(missing_ok=True)
                self.refuse(study_uid, sop_uid)
            return False
        return True

    def refuse(self, study_uid: str, sop_uid: str) -> None:
        """Note that an image of the study was not taken: it is held back until that image has come."""
        name = hash_of(study_uid)
        with self.lock:
            now = self.last[name] = time.time()
            self.refused.setdefault(name, {})[hash_of(sop_uid)] = now
            for other in [n for n in self.refused if not (self.states / f"{n}.json").exists()]:
                if now - max(self.refused[other].values(), default=0.0) > self.hold_s:
                    del self.refused[other]  # nothing of it is here
            if (self.states / f"{name}.json").exists():
                with contextlib.suppress(OSError):  # it is kept in memory
                    self._reopen(name, study_uid)

    def _reopen(self, name: str, study_uid: str) -> None:
        """What comes, or is refused, while reports are on their way opens the study again."""
        state = self.load(name)
        if state is None or state.state != "RECEIVING":
            state = StudyState(study_uid)
        state.attempt, state.next_try = 0, 0.0
        self.save(name, state)

    def load(self, name: str) -> StudyState | None:
        try:
            return StudyState(**json.loads((self.states / f"{name}.json").read_text()))
        except FileNotFoundError:
            return None

    def save(self, name: str, state: StudyState) -> None:
        with self.lock:
            state.refused = sorted(self.refused.get(name, ()))
            self._write(self.states / f"{name}.json", asdict(state))

    def due(self, quiet_s: float) -> list[tuple[str, StudyState]]:
        """Studies that are complete, wait for another attempt or have been held back too long, and whose time has come;
        those held back too long still list what was refused.
        """
        now = time.time()
        out = []
        for path in sorted(self.states.glob("*.json")):
            with self.lock:
                state = self.load(path.stem)
                if state is None or now < state.next_try:
                    continue
                state.refused = sorted(self.refused.get(path.stem, ()))
                wait = self.hold_s if state.refused else quiet_s
                if state.state == "RECEIVING" and now - self.last.get(path.stem, 0.0) < wait:
                    continue
            out.append((path.stem, state))
        return out

    def finish(self, name: str, state: StudyState, files: set[str]) -> bool:
        """Record a terminal state and remove the instances it rests on; False where others came meanwhile."""
        folder = self.incoming / name
        with self.lock:
            if names_in(folder) != files:
                self.save(name, StudyState(state.study_uid))
                return False
            line = asdict(state) | {"instances": len(files), "time": datetime.now(UTC).isoformat(timespec="seconds")}
            line["refused"] = len(state.refused)
            del line["send"], line["next_try"]
            json_lines.append(self.root / "ledger.jsonl", line)
            for file in files:
                self.used -= (folder / file).stat().st_size
                (folder / file).unlink()
            with contextlib.suppress(OSError):  # another instance is being written into it
                folder.rmdir()
            self.last.pop(name, None)
            self.refused.pop(name, None)
            (self.states / f"{name}.json").unlink(missing_ok=True)
        return True

    # ---- reports

    def last_report(self, name: str) -> Reported | None:
        """The last SR of a study that left this spool."""
        try:
            return Reported(**json.loads((self.reported / f"{name}.json").read_text()))
        except FileNotFoundError:
            return None

    def note_report(self, name: str, report: Reported) -> None:
        self._write(self.reported / f"{name}.json", asdict(report))

    def forget_reports(self, older_s: float) -> int:
        """Remove reports of studies that ended so long ago; returns how many. A study under way keeps its own."""
        under_way = {(s := self.load(p.stem)) and s.row_key for p in self.states.glob("*.json")}
        removed = 0
        for folder in self.reports.iterdir():
            if folder.name.removesuffix("-identified") in under_way or _age_s(folder) < older_s:
                continue
            shutil.rmtree(folder, ignore_errors=True)
            removed += 1
        for path in self.reported.glob("*.json"):
            if _age_s(path) > older_s:
                path.unlink(missing_ok=True)
        return removed

    @staticmethod
    def _write(path: Path, value: dict) -> None:
        with replaced(path) as tmp:
            tmp.touch(mode=0o600)
            tmp.write_text(json.dumps(value, indent=1) + "\n")


def hash_of(uid: str) -> str:
    # A UID from outside never becomes a file name.
    return hashlib.sha256(uid.encode()).hexdigest()[:32]


def names_in(folder: Path) -> set[str]:
    """Names of the instances in a study's folder."""
    return {f.name for f in folder.glob("*.dcm")} if folder.is_dir() else set()


def _age_s(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0
