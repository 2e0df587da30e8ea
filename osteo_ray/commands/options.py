"""Typed config -> command-line options, and what was typed -> values by key (pydantic-settings, argparse).

    parser = command_parser("screen", load_command("screen"))
    values = given(parser, command, ["ct/", "--out", "run", "--pipeline.actors", "4", "--set", "scoring.shap=false"])
    values.options          # {"archive": ["ct/"], "out": "run", "pipeline": {"actors": "4"}}

Values stay text: the config that is read from YAML is the one place where they are checked.
"""

from __future__ import annotations

import argparse
import textwrap
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from enum import Enum
from typing import Any, Literal, NoReturn, Union, get_args, get_origin

import shtab
import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from osteo_ray import __version__
from osteo_ray.commands import REGISTRY, Command, load_command
from osteo_ray.config import Section
from osteo_ray.outcomes import EXIT_CODES

PROGRAM = "osteo-ray"
DESCRIPTION = "Opportunistic osteoporosis screening on CT archives. Research use only; an aid, not a diagnosis."
CODES = "exit codes:\n" + "\n".join(
    textwrap.fill(f"{n:4d}  {text}", 110, subsequent_indent="      ") for n, text in EXIT_CODES.items()
)


# --- keys of a config ---


@dataclass(frozen=True)
class Key:
    """One key of a config tree: everything that help and docs/configuration.md say of it."""

    path: str
    section: type[Section]
    name: str
    field: FieldInfo
    default: Any

    @property
    def text(self) -> str:
        """Its description; empty where it has none."""
        return self.field.description or ""

    @property
    def many(self) -> bool:
        """Whether it takes several values."""
        return any(get_origin(t) is tuple for t in _members(self.field.annotation))

    @property
    def mapping(self) -> bool:
        """Whether it holds keys of its own that no config declares."""
        return any(get_origin(t) is dict for t in _members(self.field.annotation))

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that it may be, where they are a closed list."""
        for t in _members(self.field.annotation):
            inner = get_args(t)[0] if get_origin(t) is tuple else t
            if get_origin(inner) is Literal:
                return tuple(map(str, get_args(inner)))
            if isinstance(inner, type) and issubclass(inner, Enum):
                return tuple(str(e.value) for e in inner)
        return ()

    @property
    def type(self) -> str:
        """Its type in a word or two, e.g. `int`, `float or null`, `list of text`."""
        return " or ".join(dict.fromkeys(map(_word, _members(self.field.annotation, none=True))))

    @property
    def bounds(self) -> str:
        """The numbers that it may be, e.g. `> 0, <= 1`; empty where any."""
        sign = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
        found = [(k, getattr(m, k)) for m in self.field.metadata for k in sign if getattr(m, k, None) is not None]
        return ", ".join(f"{sign[k]} {plain(v)}" for k, v in found)

    @property
    def default_text(self) -> str:
        """Its default as YAML writes it; `required` where it has none."""
        return "required" if self.default is PydanticUndefined else plain(self.default)


def plain(value: Any) -> str:
    """A value as YAML in one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, tuple):
        value = [v.value if isinstance(v, Enum) else v for v in value]
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {plain(v)}" for k, v in value.items()) + "}"
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).strip()
    return text.removesuffix("\n...").strip()


def keys(model: type[BaseModel], prefix: str = "", default: BaseModel | None = None) -> Iterator[Key]:
    """Every key of a config tree, in the order of the classes; sections are walked into, not listed."""
    for name, field in model.model_fields.items():
        value = getattr(default, name) if default is not None else field.get_default(call_default_factory=True)
        section = section_of(field)
        if section is not None:
            yield from keys(section, f"{prefix}{name}.", value if isinstance(value, BaseModel) else None)
        else:
            yield Key(f"{prefix}{name}", model, name, field, value)  # type: ignore[arg-type]


def section_of(field: FieldInfo) -> type[BaseModel] | None:
    """The config class of a key that is a section (or may be left out: null); None for any other."""
    found = [t for t in _members(field.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
    return found[0] if found else None


def _members(annotation: Any, none: bool = False) -> list[Any]:
    union = get_origin(annotation) in (Union, types.UnionType)
    members = list(get_args(annotation)) if union else [annotation]
    return [m for m in members if none or m is not type(None)]


def _word(annotation: Any) -> str:
    origin = get_origin(annotation)
    if annotation is type(None):
        return "null"
    if origin is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation)))
    if origin is tuple:
        return f"list of {_word(get_args(annotation)[0])}"
    if origin is dict:
        key, value = get_args(annotation)
        return f"keys ({_word(key)}) with values ({_word(value)})"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(str(e.value) for e in annotation)
    if origin is not None:  # Annotated, unions inside of lists
        return " or ".join(
            dict.fromkeys(_word(a) for a in get_args(annotation) if isinstance(a, type) or get_origin(a))
        )
    return {str: "text", bool: "true or false"}.get(annotation, getattr(annotation, "__name__", str(annotation)))


# --- parsers ---


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Name the thing and where to look, in two lines: the usage of hundreds of options helps nobody."""
        self.exit(2, f"{self.prog}: {message}\n`{self.prog} --help` lists what it takes\n")


def program_parser(full: bool = False) -> argparse.ArgumentParser:
    """`osteo-ray` itself; `full`: with every option of every command, which completion needs and --help does not."""
    p = _Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=f"`{PROGRAM} COMMAND --help` explains every option.\n\n{CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    p.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    shtab.add_argument_to(p, ["--print-completion"], help="print a completion script for this shell")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, text in REGISTRY.items():
        sub = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        if full:
            _add_options(sub, load_command(name))
    return p


def command_parser(name: str, command: Command) -> argparse.ArgumentParser:
    """The parser of one command."""
    p = _Parser(
        prog=f"{PROGRAM} {name}",
        description=REGISTRY[name][0].upper() + REGISTRY[name][1:] + ".",
        epilog="A key of the YAML is an option of the same name. What is given later wins: --config, then --set, then "
        f"the options by name.\n\n{CODES}",
        formatter_class=_Help,
        allow_abbrev=False,
    )
    _add_options(p, command)
    action = f" {'{' + ','.join(command.actions) + '}'}" if command.actions else ""
    many = " ..." if command.positional and {k.path: k for k in keys(command.job)}[command.positional].many else ""
    positional = f" [{command.positional.upper()}{many}]" if command.positional else ""
    p.usage = f"{p.prog}{action}{positional} [--config YAML] [--set KEY=VALUE ...] [options]"
    return p


class _Help(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=34, width=110)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)  # jpeg-ls stays one word


def _add_options(parser: argparse.ArgumentParser, command: Command) -> None:
    if command.actions:
        parser.add_argument(
            "action",
            choices=list(command.actions),
            nargs=None if command.default_action is None else "?",
            default=command.default_action,
            help="; ".join(f"{k}: {a.help}" for k, a in command.actions.items())
            + (f" (default: {command.default_action})" if command.default_action else ""),
        )
    by_path = {k.path: k for k in keys(command.job)}
    if command.positional:
        key = by_path[command.positional]
        nargs = "*" if key.many else "?"
        parser.add_argument(key.path, nargs=nargs, default=None, metavar=key.path.upper(), help=_help(key))
    parser.add_argument("--config", metavar="YAML", help="file with the keys below (text; default: none)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="keys by their dotted names, values as in YAML, e.g. seed=3 timeline.lab_days=30 (text; default: none)",
    )

    def add(group: Any, *flags: str, dest: str, **kw: Any) -> None:
        if dest not in by_path:  # what the library adds of itself: --help
            group.add_argument(*flags, dest=dest, **kw)
            return
        key = by_path[dest]
        if dest == command.positional:
            return
        kw["help"] = _help(key)
        if kw.get("action") is not argparse.BooleanOptionalAction:
            kw.pop("action", None)
            kw["metavar"] = _metavar(key)
            if key.many:
                kw |= {"nargs": "+", "action": "extend"}
        group.add_argument(*flags, dest=dest, **kw)

    # Late: `osteo-ray --help` needs none of it. The class is the job as the library wants it; nothing is read from the
    # environment by it.
    from pydantic_settings import BaseSettings, CliSettingsSource, SettingsConfigDict

    namespace = {"model_config": SettingsConfigDict(frozen=True, extra="forbid")}
    CliSettingsSource(
        type(command.job.__name__, (command.job, BaseSettings), namespace),
        root_parser=parser,
        add_argument_method=add,
        cli_parse_args=False,
        cli_kebab_case=True,
        cli_avoid_json=True,
        cli_implicit_flags=True,
        cli_use_class_docs_for_groups=True,
        cli_enforce_required=False,
    )
    for flag, (path, value) in command.shorthands.items():
        text = f"the same as --{path} {value}"
        parser.add_argument(flag, dest=path, action="store_const", const=value, default=None, help=text)


def _metavar(key: Key) -> str:
    choices = "{" + ",".join(key.choices) + "}"
    if key.choices:
        return "CHOICE" if key.many or len(choices) > 30 else choices
    words = {"int": "INT", "float": "NUMBER", "text": "TEXT", "list of text": "TEXT"}
    return words.get(key.type.removesuffix(" or null"), "YAML" if key.mapping else "TEXT")


def _help(key: Key) -> str:
    facts = [key.type, key.bounds, "required" if key.default is PydanticUndefined else f"default: {key.default_text}"]
    return f"{key.text} ({'; '.join(filter(None, facts))})".strip().replace("%", "%%")


# --- what was typed ---


@dataclass(frozen=True)
class Given:
    """What a command line holds."""

    config: str | None
    overrides: Sequence[str]
    options: dict[str, Any]
    action: str | None


def given(parser: argparse.ArgumentParser, command: Command, argv: Sequence[str]) -> Given:
    """Parse a command's arguments; exits with 2, and a near name, where one is unknown."""
    known, unknown = parser.parse_known_args([_dashed(a) for a in argv])
    if unknown:
        name = unknown[0].partition("=")[0]
        near = get_close_matches(name, [s for a in parser._actions for s in a.option_strings], n=1)
        parser.error(f"{name}: no such option" + (f"; did you mean {near[0]}?" if near else ""))
    values = vars(known)
    options: dict[str, Any] = {}
    for key in keys(command.job):
        value = values.get(key.path)
        if value is None or value == []:
            continue
        node = options
        *parents, leaf = key.path.split(".")
        for p in parents:
            node = node.setdefault(p, {})
        node[leaf] = _value(key, value)
    return Given(values["config"], values["set"], options, values.get("action"))


def _value(key: Key, value: Any) -> Any:
    if value == "null":
        return None
    if key.mapping and isinstance(value, str):
        try:
            read = yaml.safe_load(value)
        except yaml.YAMLError:
            return value
        return read if isinstance(read, Mapping) else value
    return value


def _dashed(argument: str) -> str:
    """`--a.b_c=d` as `--a.b-c=d`: a key may be written as the YAML has it."""
    if not argument.startswith("--"):
        return argument
    name, eq, value = argument.partition("=")
    return name.replace("_", "-") + eq + value
