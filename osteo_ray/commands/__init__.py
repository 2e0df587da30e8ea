"""One module a command: its typed job and one function, a job in, lines to print out.

The command line, `ray job submit` and a notebook all call these. A job's YAML holds its paths too, so that
`python jobs/screen.py --config screen.yaml` is all that a cluster needs.

    from osteo_ray.commands import load_command
    command = load_command("screen")            # imports osteo_ray.commands.screen, and nothing heavier than pydantic
    command.run(command.job(archive=("ct/",), out="run/"))

A module of a command imports what works (Ray, torch, pandas, pyarrow) inside its functions: `--help` and an error in a
config need none of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from osteo_ray.config import Section

Run = Callable[[Any], Iterable[str]]
"""A job in, lines to print out."""


@dataclass(frozen=True)
class Action:
    """One of the things that a command does, e.g. `slices` of `osteo-ray cohort slices`."""

    help: str
    run: Run


@dataclass(frozen=True)
class Command:
    """What the command line is built from: the job whose keys are the options, and what is done with it."""

    job: type[Section]
    run: Run | None = None
    actions: Mapping[str, Action] = field(default_factory=dict)
    default_action: str | None = None
    positional: str | None = None
    """The key that is given without `--`."""
    shorthands: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    """Options that stand for a key and a value: `--json` for `--format json`."""

    def runner(self, action: str | None) -> Run:
        """The function behind an action, or of a command without any."""
        run = self.actions[action].run if action is not None else self.run
        assert run is not None
        return run


REGISTRY: dict[str, str] = {
    "index": "catalogue an archive: every series and every file accounted for",
    "records": "map a hospital's table of demographics and labs to the schema",
    "targets": "vertebra masks (NIfTI, DICOM SEG) to per-slice targets for `train --targets`",
    "train": "train a bundle from a catalogue and records",
    "tune": "search settings of teachers, student or selection policy (Ray Tune); writes trials and the best config",
    "score": "score one study (folder, zip, NIfTI) to the terminal, or with --json; without Ray",
    "screen": "score an archive: results, worklist, report",
    "retry": "score again what ended with a code or state, e.g. --code TIMEOUT; the run's own archive and config",
    "evaluate": "judge results by labels, of this or any other system, alone or against another's",
    "checklist": "TRIPOD+AI and CLAIM tables, filled in from an evaluation and a bundle",
    "recalibrate": "fit a bundle's risks to a site's patients with CT and DXA; writes a new bundle",
    "drift": "compare a run's patients with the bundle's, or an earlier run's, and say what moved",
    "report": "write chosen results as HTML, PDF, JSON, DICOM SR and secondary capture, FHIR; store them in a PACS",
    "listen": "live: take CT by C-STORE, screen each complete study, send SR back",
    "serve": "screen by HTTP and web page; `serve token`, `revoke` and `tokens` manage who may",
    "cohort": "write a synthetic archive with records and truth, for demos and experiments",
    "doctor": "what this machine has: versions, cores, memory, GPUs, codecs",
}
"""Name of a command -> what it does, in a line. Its `COMMAND` is in the module `osteo_ray.commands.<name>`."""


TRAINING_PACKAGES = ("torch", "tabm", "rtdl_num_embeddings", "onnx", "optuna", "tensorboardX")
"""What the extra `train` brings beside more of Ray, by the names that are imported."""


def load_command(name: str) -> Command:
    """The command of a name in `REGISTRY`; its module is imported only now."""
    return import_module(f"{__name__}.{name}").COMMAND
