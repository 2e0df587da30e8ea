"""`osteo-ray ...`: parses, calls one function, prints. Built from `osteo_ray.commands.REGISTRY`; no logic.

Exit codes: 0 done; 2 the command line or a config can't be used; 3 an input (archive, records, bundle) can't be
used; 4 the results do not account for every series; 5 results could not be written (run again when they can);
6 `drift` found that something moved; 1 anything unforeseen.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from osteo_ray.commands import REGISTRY, load_command


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    args = list(sys.argv[1:] if argv is None else argv)
    from osteo_ray.commands.options import command_parser, given, program_parser

    if not args or args[0] not in REGISTRY:
        program_parser(full="--print-completion" in args).parse_args(args)  # --help, --version or an error
        return 2
    name, command = args[0], load_command(args[0])
    values = given(command_parser(name, command), command, args[1:])
    try:
        from osteo_ray.config import load

        job = load(command.job, values.config, values.overrides, values.options)
        # From here on it works: what a command imports may bring Ray, whose settings are read when it is imported.
        from osteo_ray import ray_setup  # noqa: F401
        from osteo_ray.commands.local_copies import run_on_local_copies

        for line in run_on_local_copies(name, job, command.runner(values.action)):
            print(line)
    except BrokenPipeError:
        return 1
    except Exception as e:
        code = 3 if isinstance(e, FileNotFoundError) else getattr(e, "exit_code", None)
        if code is None:
            raise
        print(f"osteo-ray {name}: {e}", file=sys.stderr)
        return code
    return 0


if __name__ == "__main__":
    sys.exit(main())
