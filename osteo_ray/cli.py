"""`osteo-ray ...`: parses, calls one function, prints. No logic.

Exit codes: 0 done; 2 the command line or a config can't be used; 3 an input (archive, records, bundle) can't be
used; 4 the results do not account for every series; 5 results could not be written (run again when they can);
6 `drift` found that something moved; 1 anything unforeseen.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

OPTIONS = {
    "index": ["archive", "out"],
    "cohort": ["out"],
    "records": ["source", "mapping", "on_bad", "out", "catalogue", "draft"],
    "targets": ["catalogue", "masks", "numbering", "out"],
    "train": ["catalogue", "records", "mapping", "targets", "extra_slices", "out"],
    "tune": ["train", "out"],
    "screen": ["archive", "records", "mapping", "bundle", "out", "patients", "part", "dry_run"],
    "retry": ["archive", "records", "mapping", "bundle", "out", "patients", "part", "code", "state"],
    "evaluate": ["results", "labels", "mapping", "truth", "against", "bundle", "answers", "out"],
    "checklist": ["results", "bundle", "answers", "out"],
    "recalibrate": ["site", "bundle", "results", "labels", "mapping", "split", "out"],
    "drift": ["results", "bundle", "baseline", "out"],
    "report": ["results", "catalogue", "out", "series", "formats", "top", "identifiers", "stow"],
    "listen": ["bundle", "spool", "records", "mapping"],
    "serve": ["runs", "bundle", "tokens", "host", "port", "name", "role"],
}
POSITIONAL = {"index": "archive", "records": "source", "screen": "archive", "retry": "archive"}
POSITIONAL |= dict.fromkeys(("evaluate", "checklist", "report"), "results")
HELP = {
    "index": "catalogue an archive: every series and every file accounted for",
    "cohort": "write a synthetic archive with records and truth, for demos and experiments",
    "records": "map a hospital's table of demographics and labs to the schema",
    "targets": "vertebra masks (NIfTI, DICOM SEG) to per-slice targets for `train --targets`",
    "train": "train a bundle from a catalogue and records",
    "tune": "search settings of teachers, student or selection policy (Ray Tune); writes trials and the best config",
    "screen": "score an archive: results, worklist, report",
    "retry": "score again what ended with a code or state, e.g. --code TIMEOUT; the run's own archive and config",
    "evaluate": "judge results by labels, of this or any other system, alone or against another's",
    "checklist": "TRIPOD+AI and CLAIM tables, filled in from an evaluation and a bundle",
    "recalibrate": "fit a bundle's risks to a site's patients with CT and DXA; writes a new bundle",
    "drift": "compare a run's patients with the bundle's, or an earlier run's, and say what moved",
    "report": "write chosen results as HTML, PDF, JSON, DICOM SR and secondary capture, FHIR; store them in a PACS",
    "listen": "live: take CT by C-STORE, screen each complete study, send SR back",
    "serve": "screen by HTTP and web page; `serve token`, `revoke` and `tokens` manage who may",
    "doctor": "what this machine has",
}


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="osteo-ray",
        description="Opportunistic osteoporosis screening on CT archives. Research use only; an aid, not a diagnosis.",
        epilog=__doc__.split("\n\n", 1)[1],
    )
    sub = p.add_subparsers(dest="command", required=True)
    for name, text in HELP.items():
        s = sub.add_parser(name, help=text, description=text)
        if name == "doctor":
            continue
        if name == "cohort":
            s.add_argument("action", nargs="?", choices=["write", "slices", "check"], default="write")
        if name == "tune":
            s.add_argument("action", choices=["teachers", "student", "selection"])
        if name == "serve":
            s.add_argument("action", nargs="?", choices=["run", "token", "revoke", "tokens"], default="run")
        for key in OPTIONS[name]:
            flag = "--" + key.replace("_", "-")
            if (name, key) == ("records", "source"):
                s.add_argument(key, nargs="*", metavar="SOURCE", help="one or more files, URIs or folders")
            elif key == "archive":
                s.add_argument(
                    key, nargs="*", metavar="ARCHIVE", help="one or more; screen also takes a catalogue.parquet"
                )
            elif POSITIONAL.get(name) == key:
                s.add_argument(key, nargs="?", metavar=key.upper())
            elif key == "dry_run":
                s.add_argument(flag, action="store_true", default=None, help="count and estimate, score nothing")
            elif key == "identifiers":
                s.add_argument(flag, action="store_true", default=None, help="the source's patient, not the pseudonym")
            elif key in ("code", "state"):
                s.add_argument(flag, nargs="+", metavar=key.upper())
            elif key in ("extra_slices", "masks", "series", "formats") or (name, key) == ("train", "records"):
                s.add_argument(flag, nargs="+", metavar="PATH")
            else:
                s.add_argument(
                    flag,
                    metavar="PATH"
                    if key not in ("part", "mapping", "numbering", "on_bad", "host", "port", "name", "role", "site")
                    else "NAME",
                )
        s.add_argument("--config", metavar="YAML")
        s.add_argument("--set", nargs="+", action="extend", default=[], metavar="KEY=VALUE", help="e.g. seed=3")
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = parser().parse_args(argv)
    from osteo_ray import ray_setup  # noqa: F401 (sets Ray's environment before anything imports ray)

    try:
        for line in _dispatch(args):
            print(line)
    except BrokenPipeError:
        return 1
    except Exception as e:
        code = _code(e)
        if code is None:
            raise
        print(f"osteo-ray {args.command}: {e}", file=sys.stderr)
        return code
    return 0


def _dispatch(args: argparse.Namespace) -> Iterable[str]:
    if args.command == "doctor":
        from osteo_ray.commands import doctor

        return doctor.lines()
    from osteo_ray.commands import (
        checklist,
        cohort,
        drift,
        evaluate,
        index,
        listen,
        recalibrate,
        records,
        report,
        retry,
        screen,
        serve,
        targets,
        train,
        tune,
    )
    from osteo_ray.commands.local_copies import run_on_local_copies
    from osteo_ray.config import load
    from osteo_ray.screening.config import ScreenJob

    actions = {"write": cohort.write, "slices": cohort.slices, "check": cohort.checked}
    serving = {"run": serve.run, "token": serve.token, "revoke": serve.revoke, "tokens": serve.tokens}
    jobs: dict[str, tuple[Any, Callable[[Any], Iterable[str]]]] = {
        "index": (index.IndexJob, index.index),
        "cohort": (cohort.CohortJob, actions.get(getattr(args, "action", ""), cohort.write)),
        "records": (records.RecordsJob, records.records),
        "targets": (targets.TargetsJob, targets.targets),
        "train": (train.TrainJob, train.train),
        "tune": (tune.TuneJob, tune.TARGETS.get(getattr(args, "action", ""), tune.TARGETS["student"])),
        "screen": (ScreenJob, screen.screen),
        "retry": (retry.RetryJob, retry.retry),
        "evaluate": (evaluate.EvaluateJob, evaluate.evaluate),
        "checklist": (checklist.ChecklistJob, checklist.checklist),
        "recalibrate": (recalibrate.RecalibrateJob, recalibrate.recalibrate),
        "drift": (drift.DriftJob, drift.drift),
        "report": (report.ReportJob, report.report),
        "listen": (listen.ListenJob, listen.listen),
        "serve": (serve.ServeJob, serving.get(getattr(args, "action", ""), serve.run)),
    }
    model, run = jobs[args.command]
    given = {k: getattr(args, k) for k in OPTIONS[args.command] if getattr(args, k) not in (None, [])}
    return run_on_local_copies(args.command, load(model, args.config, args.set, given), run)


def _code(e: Exception) -> int | None:
    """Exit code of an error that a user can mend; None for any other."""
    from osteo_ray.commands.drift import Moved
    from osteo_ray.config import ConfigError
    from osteo_ray.io.store import StoreError
    from osteo_ray.model.bundle import BundleError
    from osteo_ray.outcomes import InputError, Rejected
    from osteo_ray.patients.findings import RecordsError
    from osteo_ray.screening.shards import LedgerError

    if isinstance(e, Moved):
        return 6
    if isinstance(e, ConfigError):
        return 2
    if isinstance(e, LedgerError):
        return 4
    if isinstance(e, StoreError):
        return 5
    if isinstance(e, BundleError | InputError | RecordsError | Rejected | FileNotFoundError):
        return 3
    return None


if __name__ == "__main__":
    sys.exit(main())
