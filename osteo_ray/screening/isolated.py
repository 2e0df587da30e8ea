"""A scorer in a process of its own: a series that hangs, crashes or eats memory costs itself, not its neighbours.

    with IsolatedPredictor("bundle/", cfg.scoring, cfg.index, cfg.pipeline.limits) as scorer:
        results = scorer.score_rows(rows, records)
        result = scorer.score_study("study.zip", record, timeout_s=60)

The child says at which series it is. One that takes longer than `series_timeout_s` is ended with its child and becomes
QUARANTINED TIMEOUT; one at which the child died twice becomes QUARANTINED WORKER_DIED (once may be the kernel's or an
operator's doing); one that asks for more memory than allowed fails inside the child and becomes QUARANTINED
OUT_OF_MEMORY. Then the batch goes on in a new child, without it. `score_study` has its headers read there, too.

The child is `scorer_process.serve`. This side loads neither torch nor a bundle: it is an actor's whole weight.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from osteo_ray.catalogue.config import IndexConfig
from osteo_ray.io.child_process import ChildProcess
from osteo_ray.outcomes import Outcome, Phase, State
from osteo_ray.screening.closed_rows import closed_row
from osteo_ray.screening.config import ScoringConfig, SeriesLimits

START_S = 300.0
"""Longest start of a child: imports and bundle on a loaded machine, or a bundle from far away."""


START_TRIES = 3
"""A child that is killed while it starts (memory short, an operator) is started again."""


MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(32 * 2**20), "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20)}
"""Else glibc hands each freed slice to the kernel and takes it anew: 2,000 page faults a series, 5 % of its time."""


LOOK_S = 0.2
"""How often the wait for a study's result looks whether it is still wanted."""


class ScorerStartError(RuntimeError):
    """The scorer's process could not start: no series is to blame, and none can be scored."""


class StudyFailed(RuntimeError):
    """A study without a result row. `code`: NO_STUDY (no CT study can be read from it), TIMEOUT, OUT_OF_MEMORY,
    WORKER_DIED, CANCELLED, UNEXPECTED.
    """

    def __init__(self, code: str, message: str):
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message

    def __reduce__(self):
        return (StudyFailed, (self.code, self.message))


class IsolatedPredictor:
    """Runs `Scorer.score_rows` in a child process that may die."""

    def __init__(self, bundle: str, cfg: ScoringConfig, index: IndexConfig, limits: SeriesLimits):
        self._bundle, self._cfg, self._index, self._limits = bundle, cfg, index, limits
        self._child: ChildProcess | None = None
        self._conn: Connection | None = None
        self._ready = False  # the child has said that it is
        self._model: dict[str, str] = {}
        self.ended = 0  # children that died or were ended at a series

    @property
    def pid(self) -> int | None:
        """The child's process id, where there is one."""
        return None if self._child is None else self._child.pid

    def score_rows(self, rows: Sequence[Mapping[str, Any]], records: np.ndarray) -> list[dict[str, Any]]:
        """`Scorer.score_rows`; a series that ended its process has a state and a code.

        Raises:
            ScorerStartError: where the scorer can't be started.
        """
        results: dict[int, dict[str, Any]] = {}
        deaths: Counter[int] = Counter()
        while todo := [i for i in range(len(rows)) if i not in results]:
            # After a death the suspect goes alone and last: a series that can't be borne takes no neighbour along.
            if deaths and len(todo) > 1:
                todo = [i for i in todo if not deaths[i]] or todo[:1]
            batch = rows if len(todo) == len(rows) else [rows[i] for i in todo]
            got, at, code, message = self._try(batch, records[todo])
            if got is not None:
                results.update(zip(todo, got, strict=True))
                continue
            i = todo[at or 0]  # where none had been begun, the first is charged: nothing is tried for ever
            deaths[i] += 1
            if code == "TIMEOUT" or deaths[i] >= self._limits.deaths:
                outcome = Outcome(State.QUARANTINED, code, Phase.DECODE, message)
                results[i] = closed_row(rows[i], outcome, records[i], **self._model)
        return [results[i] for i in range(len(rows))]

    def _try(
        self, rows: Sequence[Mapping[str, Any]], records: np.ndarray
    ) -> tuple[list[dict[str, Any]] | None, int | None, str, str]:
        """One pass over rows: (results, -, -, -), or (None, the row at which it ended, code, message)."""
        self.start()
        conn, at = self._conn, None
        assert conn is not None
        limit = self._limits.series_timeout_s
        try:
            conn.send(("rows", rows, records))
            deadline = time.monotonic() + limit
            while True:
                if not conn.poll(max(0.0, deadline - time.monotonic())):
                    self._end()
                    return None, at or 0, "TIMEOUT", f"not scored within {limit:g} s"
                what, value = conn.recv()
                if what == "done":
                    return value, None, "", ""
                at, deadline = value, time.monotonic() + limit
        except (EOFError, OSError):
            how = self._end()
            return None, at, "WORKER_DIED", f"the scorer's process ended ({how}) {self._limits.deaths} times"

    def score_study(
        self, study: str, record: np.ndarray, timeout_s: float, cancelled: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Index one study and score its chosen series in the child; nothing of the study is read in this process.

        Args:
            study: folder, zip or URI.
            record: float [F], NaN where missing.
            timeout_s: wall time of all of it.
            cancelled: asked several times a second; True ends the work.

        Raises:
            StudyFailed: there is no result row, and why.
            ScorerStartError: where the scorer can't be started.
        """
        return self._ask(("study", study, record, timeout_s), timeout_s, cancelled)

    def index_study(self, study: str, timeout_s: float) -> dict[str, Any]:
        """The catalogue row of one study's chosen series, its headers read in the child.

        Raises:
            StudyFailed: there is no row, and why.
            ScorerStartError: where the scorer can't be started.
        """
        return self._ask(("index", study, timeout_s), timeout_s)

    def _ask(self, question: tuple[Any, ...], timeout_s: float, cancelled: Callable[[], bool] = lambda: False) -> Any:
        how = ""
        for _ in range(self._limits.deaths):
            self.start()
            conn = self._conn
            assert conn is not None
            try:
                conn.send(question)
                deadline = time.monotonic() + timeout_s
                while not conn.poll(max(0.0, min(LOOK_S, deadline - time.monotonic()))):
                    if time.monotonic() >= deadline:
                        self._end()
                        raise StudyFailed("TIMEOUT", f"not done within {timeout_s:g} s")
                    if cancelled():
                        self._end()
                        raise StudyFailed("CANCELLED", "nobody waits for it any more")
                what, answer = conn.recv()
            except (EOFError, OSError):
                how = self._end()
                continue
            if what == "failed":
                raise StudyFailed(*answer)
            return answer
        raise StudyFailed("WORKER_DIED", f"the scorer's process ended ({how}) {self._limits.deaths} times")

    @property
    def model(self) -> dict[str, str]:
        """The result columns that name the model; empty before the first start."""
        return self._model

    def launch(self) -> None:
        """Start the child's process, where there is none, and don't wait: it loads while its owner does other things.

        Whether it can start is for `start` to say, or for the first series.
        """
        if self._child is None:
            self._child = ChildProcess("osteo_ray.screening.scorer_process", "serve", env=MALLOC)
            self._conn = Connection(self._child.socket.detach())
            with suppress(OSError):  # it is dead already
                self._conn.send((self._bundle, self._cfg, self._index, self._limits))

    def start(self) -> None:
        """Start the child, where there is none, and wait until it has loaded.

        Raises:
            ScorerStartError: it can't be started.
            BundleError: the bundle can't be used.
        """
        died = ""
        for _ in range(START_TRIES):
            if self._ready or not (died := self._start()):
                return
        raise ScorerStartError(f"the scorer's process could not start ({died})")

    def _start(self) -> str:
        """Start the child once; how it died, "" where it lives."""
        self.launch()
        conn = self._conn
        assert conn is not None
        try:
            answer: tuple[str, Any] = conn.recv() if conn.poll(START_S) else ("silent", None)
        except (EOFError, OSError) as e:
            return f"{self._end()}: {e}"
        what, value = answer
        if what == "silent":
            how = self._end()
            raise ScorerStartError(f"the scorer's process could not start ({how}): no answer within {START_S:g} s")
        if what == "failed":
            self._end()
            raise value
        self._model, self._ready = value, True
        return ""

    def _end(self) -> str:
        child, conn, self._child, self._conn, self._ready = self._child, self._conn, None, None, False
        self.ended += 1
        if conn is not None:
            conn.close()
        return "not running" if child is None else child.end()

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._end()
            self.ended -= 1

    def __enter__(self) -> IsolatedPredictor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
