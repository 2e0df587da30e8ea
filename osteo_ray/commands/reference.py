"""docs/configuration.md, written from the typed configs: every key of every command with type, default and text.

python -m osteo_ray.commands.reference docs/configuration.md
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from osteo_ray.commands import REGISTRY, load_command
from osteo_ray.commands.options import Key, keys, plain, section_of
from osteo_ray.outcomes import EXIT_CODES
from osteo_ray.patients.mapping import Column, Fhir, KeyTable, Mapping, Numbers, Test, Withdrawn

HEAD = """\
# Configuration

<!-- Written by `python -m osteo_ray.commands.reference docs/configuration.md`; `make docs` does it. Not by hand. -->

Every command reads one tree of keys. A key can be given in three ways; what is given later in this list wins:

1. in a YAML file: `osteo-ray screen --config screen.yaml`
2. by its dotted name: `--set pipeline.actors=4 scoring.shap=false` (values as in YAML)
3. as an option of the same name: `--pipeline.actors 4 --no-scoring.shap`

A key that takes a list takes several values: `--code TIMEOUT WORKER_DIED`. `null` unsets a key. Nothing is read from
the environment. `osteo-ray COMMAND --help` shows the same texts. A key that does not exist, or a value that a key can't
be, ends the command with exit code 2 before anything is read; the message names the key, what it was, and what it may
be.

**Completion.** `osteo-ray --print-completion bash` (or `zsh`, `tcsh`, `fish`) prints a script that completes commands,
options and their choices:

```bash
osteo-ray --print-completion bash > ~/.local/share/bash-completion/completions/osteo-ray
```

## Exit codes {#exit-codes}

| code | meaning |
|---|---|
"""


def page() -> str:
    """The whole page."""
    sections: dict[type[BaseModel], None] = {}
    codes = "".join(f"| {n} | {text} |\n" for n, text in EXIT_CODES.items())
    out = [HEAD + codes, "## Commands\n"]
    for name, text in REGISTRY.items():
        command = load_command(name)
        out.append(f"### osteo-ray {name}\n\n{_wrapped(f'{text[0].upper()}{text[1:]}.')}\n")
        if command.actions:
            default = f" Without one: `{command.default_action}`." if command.default_action else ""
            actions = "; ".join(f"`{k}` {a.help}" for k, a in command.actions.items())
            out.append(_wrapped(f"Actions: {actions}.{default}") + "\n")
        if command.positional:
            out.append(f"`{command.positional}` is given without `--`.\n")
        own = [k for k in keys(command.job) if "." not in k.path]
        out += [*_list(own), ""] if own else []
        below = list(_sections(command.job))
        if below:
            out += ["| keys below | section |", "|---|---|"]
            out += [f"| `{path}` | [{cls.__name__}](#{_anchor(cls)}) |" for path, cls, _ in below] + [""]
        sections |= dict.fromkeys(cls for _, cls, _ in below)
    out.append("## Sections\n")
    shown: list[type[BaseModel]] = [*sections, Mapping, KeyTable, Column, Test, Numbers, Withdrawn, Fhir]
    for cls in dict.fromkeys(shown):
        own = [k for k in keys(cls) if "." not in k.path]
        module = cls.__module__.removeprefix("osteo_ray.")
        text = " ".join((cls.__doc__ or "").split()).replace("<", "&lt;")
        # Two sections of different packages may share a name: the anchor names the package too.
        out += [f"### {cls.__name__} ({module}) {{#{_anchor(cls)}}}\n", f"{_wrapped(text)}\n"]
        lines = _list(own)
        if cls is Mapping:  # of no command, whose own table would show what lies below
            below = [(path, c, cls.model_fields[path].description) for path, c, _ in _sections(cls) if "." not in path]
            lines += [_wrapped(f"- `{path}` ([{c.__name__}](#{_anchor(c)})): {text}", "  ") for path, c, text in below]
        out += [*lines, ""] if lines else []
        out += [f"{_wrapped(line)}\n" for line in _other_defaults(cls)]
    return "\n".join(out).rstrip() + "\n"


def _anchor(cls: type[BaseModel]) -> str:
    return f"{cls.__module__.removeprefix('osteo_ray.')}-{cls.__name__}".lower().replace(".", "-").replace("_", "-")


def _sections(
    model: type[BaseModel], prefix: str = "", default: Any = None
) -> Iterator[tuple[str, type[BaseModel], Any]]:
    for name, field in model.model_fields.items():
        cls = section_of(field)
        if cls is not None:
            value = getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
            value = value if isinstance(value, BaseModel) else None
            yield f"{prefix}{name}", cls, value
            yield from _sections(cls, f"{prefix}{name}.", value)


def _other_defaults(cls: type[BaseModel]) -> list[str]:
    """Where a section of some command has other defaults than the section itself."""
    own = {k.path: k.default_text for k in keys(cls) if "." not in k.path}
    found: dict[str, None] = {}
    for name in REGISTRY:
        for path, section, value in _sections(load_command(name).job):
            if section is cls and value is not None:
                now = {k: plain(getattr(value, k)) for k in own}
                other = ", ".join(f"`{k}` {now[k]}" for k in own if now[k] != own[k])
                if other:
                    found[f"Defaults of `{path}`: {other}."] = None
    return list(found)


def _wrapped(text: str, indent: str = "") -> str:
    return textwrap.fill(text, 116, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


def _list(rows: list[Key]) -> list[str]:
    out = []
    for k in rows:
        facts = ", ".join(filter(None, (k.type, k.bounds, f"default `{k.default_text}`")))
        text = f"- `{k.name}` ({facts}): {k.text}".replace("<", "&lt;")
        out.append(_wrapped(text, "  "))
    return out


def main(path: str) -> None:
    """Write the page."""
    Path(path).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
