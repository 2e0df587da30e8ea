"""`osteo-ray ...`: parses, calls one function, prints. Built from `osteo_ray.commands.REGISTRY`; no logic.

Exit codes: `osteo_ray.outcomes.EXIT_CODES`.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from osteo_ray.commands import REGISTRY, TRAINING_PACKAGES, Command, load_command

if TYPE_CHECKING:
    from osteo_ray.commands.options import Given

GO_ON = ("index", "train", "tune", "screen", "retry", "cohort", "listen", "serve")
"""Commands that keep what they have done when they are stopped."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    from osteo_ray.commands.options import command_parser, given, program_parser

    if not args or args[0] not in REGISTRY:
        program_parser(full="--print-completion" in args).parse_args(args)  # --help, --version or an error
        return 2
    name, command = args[0], load_command(args[0])
    values = given(command_parser(name, command), command, args[1:])
    with _interrupts() as interrupts:
        try:
            _run(name, command, values)
        except BaseException as e:
            # Ctrl-C cuts libraries short where they don't expect it: what they raise then is no defect.
            if interrupts or isinstance(e, KeyboardInterrupt):
                return _stopped(name)
            if isinstance(e, BrokenPipeError):
                return 1
            code = _exit_code(e) if isinstance(e, Exception) else None
            if code is None:
                raise
            print(f"osteo-ray {name}: {e}", file=sys.stderr)
            return code
    return 0


def _run(name: str, command: Command, values: Given) -> None:
    from osteo_ray.config import load

    job = load(command.job, values.config, values.overrides, values.options)
    # From here on it works: what a command imports may bring Ray, whose settings are read when it is imported.
    from osteo_ray import ray_setup  # noqa: F401
    from osteo_ray.commands.first_look import look_first
    from osteo_ray.commands.local_copies import run_on_local_copies
    from osteo_ray.commands.preflight import preflight, refuse_relative
    from osteo_ray.outcomes import InputError

    refuse_relative(name, job)
    look_first(name, job)
    preflight(name, job, values.action)
    try:
        for line in run_on_local_copies(name, job, command.runner(values.action)):
            print(line)
    except ModuleNotFoundError as e:
        if (e.name or "").split(".")[0] not in TRAINING_PACKAGES:
            raise
        raise InputError(f"{e.name} is missing; pip install 'osteo-ray[train]' brings it") from None


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """The SIGINTs that have come while the block runs; each still raises KeyboardInterrupt."""
    seen: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # Python hands signals to the main thread alone
        yield seen
        return

    def interrupt(number: int, frame: object) -> None:
        seen.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield seen
    finally:
        if signal.getsignal(signal.SIGINT) is interrupt:  # `serve` and `listen` have their own
            signal.signal(signal.SIGINT, before)


def _stopped(name: str) -> int:
    """What is left to do after Ctrl-C: one line, and an end without anybody's traceback."""
    with suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one would end the tidying up with a traceback
    goes_on = "the same command goes on" if name in GO_ON else "nothing was finished; the same command starts anew"
    with suppress(OSError):  # whoever read it has ended, too
        print(f"osteo-ray {name}: stopped; {goes_on}", file=sys.stderr)
    shutdown = getattr(sys.modules.get("ray"), "shutdown", None)  # it may have been stopped while it was imported
    if shutdown is not None:
        with suppress(Exception):  # of a start that was cut short
            shutdown()
    return 130


def _exit_code(e: Exception) -> int | None:
    """The exit code of an error that the command line can explain; None for one that nobody foresaw."""
    known = getattr(e, "exit_code", None)
    if known is not None:
        return known
    from osteo_ray.io.trouble import is_storage_trouble

    if is_storage_trouble(e):
        return 5
    return 3 if isinstance(e, (FileNotFoundError, PermissionError, NotADirectoryError)) else None


if __name__ == "__main__":
    sys.exit(main())
