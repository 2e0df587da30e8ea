"""Outcome states and codes: the one list of everything that can become of a file or a series.

A failure is a row, not an exception that leaves the worker. Inside a stage a function may raise
`Rejected`; the stage's edge turns it into an `Outcome`, and the outcome into columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Terminal states; every indexed series ends in exactly one."""

    SCORED = "SCORED"
    SCORED_WARN = "SCORED_WARN"
    ABSTAINED = "ABSTAINED"
    EXCLUDED = "EXCLUDED"
    QUARANTINED = "QUARANTINED"
    ERROR = "ERROR"


class Phase(StrEnum):
    """The phase in which an outcome was reached."""

    LIST = "list"
    HEADER = "header"
    ASSEMBLE = "assemble"
    GATE = "gate"
    CHOOSE = "choose"
    DECODE = "decode"
    SELECT = "select"
    SCORE = "score"


@dataclass(frozen=True)
class Outcome:
    """What became of one file or series. `code` is stable and short; `message` is for a person."""

    state: State
    code: str
    stage: Phase
    message: str = ""
    attempt: int = 1


class Rejected(Exception):
    """Raised inside a stage to end one file or series with an outcome."""

    exit_code = 3

    def __init__(self, state: State, code: str, stage: Phase, message: str = ""):
        super().__init__(f"{code}: {message}" if message else code)
        self.outcome = Outcome(state, code, stage, message)

    def __reduce__(self):
        # Exceptions are rebuilt from their arguments when they cross a Ray worker's border.
        o = self.outcome
        return (Rejected, (o.state, o.code, o.stage, o.message))


EXIT_CODES = {
    0: "done; also where there was nothing to do (`retry` of a code that no series has)",
    1: "unforeseen: a defect; the traceback says where",
    2: "the command line or a config can't be used; the key is named",
    3: "an input (archive, records, mapping, bundle, results) is absent, empty, damaged, or can't be compared",
    4: "the results do not account for every indexed series",
    5: "a store can't be written or read for now (full, read-only, away); run the same command again later",
    6: "`drift` found that something moved",
    130: "stopped by Ctrl-C; the same command goes on",
}
"""What a command's exit code means to whoever scheduled it: the one list of them."""


class InputError(ValueError):
    """Input that can't be used; the text names it and says what to do."""

    exit_code = 3
