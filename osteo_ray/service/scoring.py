"""The bundle that scores single studies, and how another takes its place without a request being dropped.

    host = ModelHost(pointer, cfg)
    host.refresh()                                  # load what the pointer names, then swap the reference
    answer = await host.score("study.zip", values)

The pointer is a small file that says which bundle is wanted. Each replica looks at it once a second, loads a new bundle
beside the old one and swaps one reference; requests under way finish on the bundle with which they began. Studies are
read and scored in child processes that may hang or die (`screening.isolated`), never in a replica: one for uploads, one
for DICOMweb addresses, so that a slow PACS keeps no upload waiting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
import threading
import time
import zlib
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from osteo_ray.config import ConfigError
from osteo_ray.io.files import replaced
from osteo_ray.io.store import Store, local_file, local_folder
from osteo_ray.io.uris import is_remote
from osteo_ray.model.bundle_files import COPIED, BundleError, verify
from osteo_ray.outcomes import State
from osteo_ray.patients.schema import NAMES
from osteo_ray.screening.isolated import IsolatedPredictor, ScorerStartError, StudyFailed
from osteo_ray.service.built_in_study import write_study
from osteo_ray.service.config import ServeConfig
from osteo_ray.service.runs import put_json

POINTER = "model.json"
SEEN_S = 1.0
RECENT_S = 10.0
"""A study that was scored within this time shows as well as the built-in one that scoring works."""
GRACE_S = 2.0
"""How long a study that nobody waits for any more may go on before its process is ended, which costs a new start."""
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Model:
    """A bundle's identity."""

    name: str
    version: str
    sha256: str


def identity(bundle: str | Path) -> Model:
    """Which bundle lies in a folder, by path or URI, its files checked.

    Raises:
        BundleError: none, or a changed one.
    """
    with local_folder(bundle, COPIED) as folder:
        sha256 = verify(folder)
        m = json.loads((folder / "bundle.json").read_text())
    return Model(m["name"], m["version"], sha256)


@dataclass(frozen=True)
class Answer:
    """What became of one study: a result row, or why there is none."""

    row: dict[str, Any] | None
    code: str = ""  # of `StudyFailed`, where there is no row
    message: str = ""


class Scoring(Protocol):
    """What the API asks of whoever holds the bundle."""

    async def score(self, study: str, values: np.ndarray) -> Answer: ...

    async def model(self) -> Model: ...

    async def fault(self) -> str | None:
        """Why no study could be scored now; None: one was, just now."""
        ...


class Pointer:
    """Which bundle is wanted: `{"bundle": path, "deployed": path}` in model.json of the folder of screenings."""

    def __init__(self, store: Store):
        self.store = store
        self._seen: tuple[float, bytes | None] = (float("-inf"), None)  # of a bucket: when it was read, and what
        self._label: tuple[int, str] | None = None

    def get(self) -> str | None:
        """The bundle that is wanted; the config's where that one is gone, which `fault` says. None: none yet."""
        both = self._read()
        return None if both is None else both["deployed" if self._gone(both) else "bundle"]

    def fault(self) -> str | None:
        """Why the wanted bundle is not the one in use."""
        both = self._read()
        if both is None or not self._gone(both):
            return None
        return f"the bundle {both['bundle']} is gone, so the configured one scores; ask for another with PUT /v1/model"

    def want(self, bundle: str) -> Model:
        """Ask for another bundle, checked first.

        Raises:
            BundleError: it is none, or was changed.
        """
        model = identity(bundle)
        both = self._read()
        self._write(bundle, None if both is None else both["deployed"])
        return model

    def label(self) -> str | None:
        """Name, version and the start of the sha256 of the wanted bundle, for the header of every answer."""
        try:
            stamp = self.stamp()
            if self._label is None or self._label[0] != stamp:
                m = identity(self.get() or "")
                self._label = (stamp, f"{m.name} {m.version} {m.sha256[:12]}")
        except (OSError, BundleError):  # an answer without it is better than none
            return None
        return self._label[1]

    def deploy(self, bundle: str) -> None:
        """The config's bundle: it counts when the config changed; until then the last PUT does."""
        both = self._read()
        if both is None or both["deployed"] != bundle:
            identity(bundle)
            self._write(bundle, bundle)
        elif self._gone(both):
            log.warning("%s", self.fault())

    def check(self) -> None:
        """Look at the wanted bundle, and where that can't be used at the configured one.

        Raises:
            BundleError: neither can be used.
        """
        try:
            identity(self.get() or "")
        except BundleError:
            identity(self.deployed() or "")

    def deployed(self) -> str | None:
        """The config's bundle."""
        both = self._read()
        return None if both is None else both["deployed"]

    def stamp(self) -> int:
        """Changes whenever somebody asks for a bundle; 0: nobody has."""
        if not self.store.remote:
            return self.store.written_at(POINTER) or 0
        data = self._bytes()
        return 0 if data is None else zlib.crc32(data) + 1

    def _read(self) -> dict[str, str | None] | None:
        data = self._bytes()
        return None if data is None else json.loads(data)

    def _bytes(self) -> bytes | None:
        """What is written; of a bucket as it was within the last second, for each answer asks for the bundle's name."""
        at, data = self._seen
        if not self.store.remote or time.monotonic() - at > SEEN_S:
            try:
                data = self.store.get(POINTER)
            except FileNotFoundError:
                data = None
            self._seen = time.monotonic(), data
        return data

    def _write(self, bundle: str, deployed: str | None) -> None:
        put_json(self.store, POINTER, {"bundle": bundle, "deployed": deployed, "asked": time.time()})
        self._seen = float("-inf"), None

    @staticmethod
    def _gone(both: dict[str, str | None]) -> bool:
        return both["deployed"] is not None and not Store(both["bundle"] or "").is_file("bundle.json")


class Lane:
    """One child process and the queue of studies before it."""

    def __init__(self, predictor: IsolatedPredictor):
        self.predictor = predictor
        self._queue = ThreadPoolExecutor(1, thread_name_prefix="scoring")

    async def score(self, study: str, values: np.ndarray, timeout_s: float) -> Answer:
        """Wait for one's turn, then for the result; a caller that is cancelled ends its study."""
        given_up: list[float] = []
        work: Future[Answer] = self._queue.submit(
            partial(self._score, study, values, timeout_s, lambda: bool(given_up) and time.monotonic() > given_up[0])
        )
        try:
            return await asyncio.wrap_future(work)
        except asyncio.CancelledError:
            work.cancel()
            given_up.append(time.monotonic() + GRACE_S)
            raise

    def _score(self, study: str, values: np.ndarray, timeout_s: float, cancelled: Any) -> Answer:
        try:
            return Answer(self.predictor.score_study(study, values, timeout_s, cancelled))
        except StudyFailed as e:
            return Answer(None, e.code, e.message)
        except (ScorerStartError, BundleError) as e:
            log.error("a scorer's process can't be started: %s", e)
            return Answer(None, "NOT_READY", "the scorer's process can't be started; the service's log says why")

    def close(self) -> None:
        """End the child once those who wait have their results."""
        self._queue.submit(self.predictor.close)
        self._queue.shutdown(wait=False)


class ModelHost:
    """One loaded bundle. Studies may be scored while `refresh` loads the next."""

    def __init__(self, pointer: Pointer, cfg: ServeConfig):
        self.pointer = pointer
        self.cfg = cfg
        self._lanes: dict[str, Lane] = {}
        self._loaded: str | None = None
        self._model: Model | None = None
        self._refused: int | None = None  # stamp of the pointer that named a bundle that can't be used
        self._loading = threading.Lock()
        self._scored_at = float("-inf")  # of time.monotonic: when a study was last scored to its end
        self._checking = asyncio.Lock()
        self._own: Path | None = None

    def refresh(self) -> bool:
        """Load the wanted bundle where it is not the loaded one; True where it was swapped.

        Raises:
            BundleError: the wanted bundle can't be used. The old one stays; at a start the configured one is taken.
            ScorerStartError: no child could be started.
        """
        with self._loading:
            wanted, stamp = self.pointer.get(), self.pointer.stamp()
            if wanted is None:
                raise ConfigError("bundle: none was deployed")
            if wanted == self._loaded or stamp == self._refused:
                return False
            try:
                self._load(wanted)
            except BundleError:
                self._refused = stamp  # not tried again before somebody asks for one
                other = self.pointer.deployed()
                if self._loaded is None and other not in (None, wanted):
                    self._load(str(other))
                raise
            return True

    def _load(self, bundle: str) -> None:
        cfg = self.cfg.screening
        lanes = {
            name: Lane(IsolatedPredictor(bundle, cfg.scoring, cfg.index, cfg.pipeline.limits))
            for name in ("upload", "dicomweb")
        }
        first = lanes["upload"].predictor  # the other is started where it is first asked for
        first.start()
        model = identity(bundle)
        with suppress(StudyFailed):  # its first study is the slow one; whether it was scored is for `fault` to say
            first.score_study(self._built_in(), np.full(len(NAMES), np.nan), self.cfg.limits.score_timeout_s)
        old, self._lanes, self._loaded, self._model = self._lanes, lanes, bundle, model
        for lane in old.values():
            lane.close()

    @property
    def loaded(self) -> bool:
        """Whether there is a bundle to score with."""
        return self._loaded is not None

    @property
    def model(self) -> Model:
        if self._model is None:
            self.refresh()
        assert self._model is not None
        return self._model

    async def score(self, study: str, values: np.ndarray) -> Answer:
        """Score one study, a zip or an address, by the loaded bundle."""
        if not self._lanes:
            await asyncio.to_thread(self.refresh)
        address = study.startswith("dicomweb+")
        lane, timeout_s = self._lanes["dicomweb" if address else "upload"], self.cfg.limits.score_timeout_s
        if address or not is_remote(study):
            answer = await lane.score(study, values, timeout_s)
        else:  # an upload that came to a replica on another machine
            with ExitStack() as stack:
                try:
                    near = await asyncio.to_thread(stack.enter_context, local_file(study))
                except FileNotFoundError:
                    return Answer(None, "NO_STUDY", "the upload is gone")
                answer = await lane.score(str(near), values, timeout_s)
        if not address and answer.row is not None and answer.row["slices_decoded"]:
            self._scored_at = time.monotonic()
        return answer

    async def fault(self) -> str | None:
        """Why uploads can't be scored: the built-in study is scored, unless another was a moment ago."""
        async with self._checking:  # many may ask; one looks
            if time.monotonic() - self._scored_at < RECENT_S:
                return None
            answer = await self.score(await asyncio.to_thread(self._built_in), np.full(len(NAMES), np.nan))
        if answer.row is None:
            return f"{answer.code}: {answer.message}"
        if answer.row["state"] in (State.ERROR, State.QUARANTINED) or not answer.row["slices_decoded"]:
            return f"the built-in study ended as {answer.row['state']} {answer.row['code']}"
        return None

    def _built_in(self) -> str:
        if self._own is None:
            self._folder = tempfile.TemporaryDirectory(prefix="osteo-ray-")
            path = Path(self._folder.name) / "built-in.zip"
            with replaced(path) as tmp:
                write_study(tmp)
            self._own = path
        return str(self._own)

    def close(self) -> None:
        """End the children once those who wait have their results."""
        for lane in self._lanes.values():
            lane.close()
