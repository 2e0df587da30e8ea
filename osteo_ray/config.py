"""Typed configs: frozen pydantic models, read from YAML, changed by dotted overrides.

    cfg = load(ScreenConfig, "configs/demo/screen.yaml", ["scoring.shap=false", "pipeline.actors=4"])

Every job has one tree. A bad key or value gives a `ConfigError` that names the key, what it was and
what it may be. Nothing is read from the environment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, cast, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError


class ConfigError(ValueError):
    """A config that can't be used; the text names each bad key, what it was and what it may be."""

    exit_code = 2


class Section(BaseModel):
    """Base of every config node: frozen, and unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error, not the last of the two."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} stands twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


T = TypeVar("T", bound=Section)


def load(
    model: type[T],
    path: str | Path | None = None,
    overrides: Iterable[str] = (),
    given: Mapping[str, Any] | None = None,
) -> T:
    """Read `path` (YAML, may be absent), apply `a.b=value` overrides (values are YAML), then `given`; validate.

    Raises:
        ConfigError: naming each bad key.
    """
    data: Any = {}
    if path is not None:
        try:
            data = yaml.load(Path(path).read_bytes(), _Loader) or {}
        except OSError as e:
            raise ConfigError(f"config file {path}: {e.strerror}") from None
        except yaml.YAMLError as e:
            raise ConfigError(f"config file {path} is not YAML: {e}") from None
    if not isinstance(data, Mapping):
        raise ConfigError(f"config file {path}: the top level must be keys and values, it is a {type(data).__name__}")
    data = dict(data)
    for item in overrides:
        data = _override(data, item)
    return validate(model, _merged(data, given or {}))


def validate(model: type[T], data: Mapping[str, Any]) -> T:
    """Validate a nested mapping against `model`; `ConfigError` names each bad key."""
    try:
        return model.model_validate(data)
    except ValidationError as e:
        raise ConfigError("\n".join(_explain(model, err) for err in e.errors())) from None


def narrow(job: Section, model: type[T]) -> T:
    """The part of a job that is `model`: a job is a config with paths, and what is hashed is the config alone."""
    return cast(T, model.model_construct(**{k: getattr(job, k) for k in model.model_fields}))


def need(job: Section, key: str):
    """A job's value that has no default; `ConfigError` where it was not given."""
    value = getattr(job, key)
    if value is None:
        raise ConfigError(f"{key}: not given; {type(job).model_fields[key].description or 'a path'}")
    return value


def changed(cfg: T, over: Mapping[str, Any]) -> T:
    """`cfg` with the keys of a nested mapping set; `ConfigError` names each bad key."""
    return validate(type(cfg), _merged(cfg.model_dump(), over))


def with_dotted(data: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested keys and values with those at dotted keys ("a.b") set.

    Raises:
        ConfigError: where a key's parent holds a value, not keys.
    """
    out: dict[str, Any] = {k: with_dotted(v, {}) if isinstance(v, Mapping) else v for k, v in data.items()}
    for key, value in values.items():
        node = out
        *parents, leaf = key.split(".")
        for p in parents:
            if node.get(p) is None:
                node[p] = {}
            node = node[p]
            if not isinstance(node, dict):
                raise ConfigError(f"{key}: {p} holds a value, not keys")
        node[leaf] = value
    return out


def dump(cfg: Section, path: str | Path) -> None:
    """Write `cfg` as YAML that `load` reads back to an equal config."""
    Path(path).write_text(yaml.safe_dump(cfg.model_dump(mode="json"), sort_keys=False))


def _merged(data: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(data)
    for k, v in over.items():
        out[k] = _merged(out[k], v) if isinstance(v, Mapping) and isinstance(out.get(k), Mapping) else v
    return out


def _override(data: dict[str, Any], item: str) -> dict[str, Any]:
    key, eq, text = item.partition("=")
    if not eq or not all(key.split(".")):
        raise ConfigError(f"override {item!r}: write it as key.subkey=value")
    return with_dotted(data, {key: yaml.safe_load(text)})


def _node(model: Any, loc: list[str]) -> Any:
    """The config node at a location; None where there is none, or more than one may stand."""
    node = model
    for p in loc:
        if hasattr(node, "model_fields"):
            node = node.model_fields[p].annotation if p in node.model_fields else None
        elif get_origin(node) is dict:
            node = get_args(node)[1]
        if get_origin(node) in (Union, UnionType):
            kinds = [a for a in get_args(node) if a is not NoneType]
            node = kinds[0] if len(kinds) == 1 else None
    return node


def _explain(model: type[BaseModel], err: Any) -> str:
    loc = [str(p) for p in err["loc"]]
    key = ".".join(loc)
    if err["type"] == "extra_forbidden":
        names = sorted(getattr(_node(model, loc[:-1]), "model_fields", {}))
        near = get_close_matches(loc[-1], names, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        return f"{key}: no such key{hint} (keys here: {', '.join(names)})"
    what = err["msg"].removeprefix("Value error, ")
    own = err["type"] == "value_error" and isinstance(err["input"], Mapping)  # a rule on several keys names them itself
    got = "" if own or err["type"] == "missing" else f" (got {err['input']!r})"
    quotes = (
        "; write it in quotes" if err["type"] == "string_type" and isinstance(err["input"], bool | int | float) else ""
    )
    return f"{key}: {what}{got}{quotes}" if key else what
