"""Parts of one's own by dotted name: a slice encoder, a slice selector, a tabular teacher.

    encoder:
      network: my_hospital.networks.MyEncoder          # EncoderConfig.network; imported, never pickled

A bundle states the name and the sha256 of the source file of each such part, and is not loaded where either is missing
or another. What a part must be is in `INTERFACES`; twenty-line examples are in docs/examples/.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from osteo_ray.config import ConfigError
from osteo_ray.model.config import BundleConfig

INTERFACES = {
    "encoder": "a torch module: MyEncoder(EncoderConfig), crops [n, S, S] in HU -> SliceFeatures (encoder.features_of)",
    "selector": "a function (z_mm [n], embed, ViewConfig) -> grid positions to keep; embed decodes what is asked for",
    "tabular": "a subclass of model.networks.TabularNetwork, MyTeacher(n_features, ModelConfig), with hidden and raw",
}
"""What each part is, by the name it has in a bundle."""


@cache
def own_part(kind: str, name: str) -> Any:
    """The class or function of a dotted name.

    Raises:
        ConfigError: it can't be imported, or is not what `kind` asks for.
    """
    wanted = f"{kind} {name!r} must be {INTERFACES[kind]}, in a module that every worker can import"
    module, _, attribute = name.rpartition(".")
    if not module or module == "__main__":
        raise ConfigError(f"{wanted}: write it as package.module.Name")
    try:
        found = getattr(import_module(module), attribute)
    except ImportError as e:
        raise ConfigError(f"{wanted}: {e}; install it, or put its folder on PYTHONPATH") from None
    except AttributeError:
        raise ConfigError(f"{wanted}: {module} has no {attribute}") from None
    if kind == "selector" and callable(found) and not inspect.isclass(found):
        return found
    if kind != "selector":
        from torch import nn  # a selector needs none

        if inspect.isclass(found) and issubclass(found, nn.Module):
            return found
    raise ConfigError(f"{wanted}; it is a {type(found).__name__}")


def names_of(cfg: BundleConfig) -> dict[str, str]:
    """The dotted names that a config gives, by kind."""
    given = {"encoder": cfg.encoder.network, "selector": cfg.view.selector, "tabular": cfg.model.tabular_network}
    return {k: v for k, v in given.items() if v is not None}


def identities(names: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """By kind: the dotted name, and the sha256 of the file that defines it.

    Raises:
        ConfigError: it can't be imported, or has no source file.
    """
    return {kind: {"name": name, "sha256": _source_sha256(kind, name)} for kind, name in names.items()}


@cache
def _source_sha256(kind: str, name: str) -> str:
    try:
        source = inspect.getsourcefile(own_part(kind, name))
    except TypeError:
        source = None
    if source is None:
        raise ConfigError(f"{kind} {name!r} has no source file, so a bundle can't say which one it is")
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()
