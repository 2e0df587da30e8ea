"""The bundle that scores single studies, and how another takes its place without a request being dropped.

    host = ModelHost(pointer, cfg.screening)
    host.refresh()                                  # load what the pointer names, then swap the reference
    row = host.index("study.zip"); host.score([row], values)

The pointer is a small file that says which bundle is wanted. Each replica looks at it once a second, loads a new bundle
beside the old one and swaps one reference; requests under way finish on the bundle with which they began.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from osteo_ray.catalogue.study import index_study
from osteo_ray.config import ConfigError
from osteo_ray.dicom import sources
from osteo_ray.model.bundle import verify
from osteo_ray.outcomes import InputError, Outcome, Phase, Rejected, State
from osteo_ray.screening.config import ScreenConfig
from osteo_ray.screening.predictor import Predictor
from osteo_ray.service.runs import write_json


@dataclass(frozen=True)
class Model:
    """A bundle's identity."""

    name: str
    version: str
    sha256: str


def identity(bundle: str | Path) -> Model:
    """Which bundle lies in a folder, its files checked.

    Raises:
        BundleError: none, or a changed one.
    """
    sha256 = verify(Path(bundle))
    m = json.loads((Path(bundle) / "bundle.json").read_text())
    return Model(m["name"], m["version"], sha256)


class Scoring(Protocol):
    """What the API asks of whoever holds the bundle."""

    async def score(self, study: str, values: np.ndarray) -> dict[str, Any]:
        """A result row; or {"refused": why} for a study that can't be read as one."""
        ...

    async def model(self) -> Model: ...


class Pointer:
    """Which bundle is wanted: `{"bundle": path, "deployed": path}`."""

    def __init__(self, path: Path):
        self.path = path
        self._label: tuple[int, str] | None = None

    def get(self) -> str | None:
        try:
            return json.loads(self.path.read_text())["bundle"]
        except FileNotFoundError:
            return None

    def want(self, bundle: str) -> Model:
        """Ask for another bundle, checked first.

        Raises:
            BundleError: it is none, or was changed.
        """
        model = identity(bundle)
        deployed = json.loads(self.path.read_text())["deployed"] if self.path.exists() else None
        write_json(self.path, {"bundle": bundle, "deployed": deployed})
        return model

    def label(self) -> str | None:
        """Name, version and the start of the sha256 of the wanted bundle, for the header of every answer."""
        try:
            stamp = self.path.stat().st_mtime_ns
        except FileNotFoundError:
            return None
        if self._label is None or self._label[0] != stamp:
            m = identity(self.get() or "")
            self._label = (stamp, f"{m.name} {m.version} {m.sha256[:12]}")
        return self._label[1]

    def deploy(self, bundle: str) -> None:
        """The config's bundle: it counts when the config changed; until then the last PUT does."""
        if not self.path.exists() or json.loads(self.path.read_text())["deployed"] != bundle:
            verify(Path(bundle))
            write_json(self.path, {"bundle": bundle, "deployed": bundle})


class ModelHost:
    """One loaded bundle. `score` may run in another thread while `refresh` loads the next."""

    def __init__(self, pointer: Pointer, cfg: ScreenConfig):
        self.pointer = pointer
        self.cfg = cfg
        self._scorer: Predictor | None = None
        self._loaded: str | None = None
        self._loading = threading.Lock()

    def refresh(self) -> bool:
        """Load the wanted bundle where it is not the loaded one; True where it was swapped.

        Raises:
            BundleError: the wanted bundle can't be used; the old one stays.
        """
        with self._loading:
            wanted = self.pointer.get()
            if wanted is None:
                raise ConfigError("bundle: none was deployed")
            if wanted == self._loaded:
                return False
            self._scorer = Predictor.load(wanted, self.cfg.scoring, self.cfg.index)
            torch.set_num_threads(self.cfg.scoring.threads)  # this process does nothing else
            self._loaded = wanted
            return True

    @property
    def scorer(self) -> Predictor:
        if self._scorer is None:
            self.refresh()
        assert self._scorer is not None
        return self._scorer

    @property
    def model(self) -> Model:
        b = self.scorer.bundle
        return Model(b.name, b.version, b.sha256)

    def index(self, study: str) -> dict[str, Any]:
        """Catalogue row of a study's best series; {"refused": why} where there is none.

        Reads headers only. What the study's files may say or do ends here as text.
        """
        try:
            return index_study(study, self.cfg.index)
        except (InputError, Rejected, OSError, ValueError) as e:
            # The upload's own path says nothing to who sent it.
            return {"refused": str(e).replace(study, "the study")[:500]}

    def score(self, rows: Sequence[dict[str, Any]], values: Sequence[np.ndarray]) -> list[dict[str, Any]]:
        """Result rows of indexed studies, in order, all by one bundle."""
        scorer = self.scorer
        out: list[dict[str, Any] | None] = [None] * len(rows)
        open_rows = []
        for i, row in enumerate(rows):
            if row.get("state"):
                o = Outcome(State(row["state"]), row["code"], Phase(row["stage"]), row["message"] or "")
                out[i] = scorer.closed(row, o, values[i])
            else:
                open_rows.append(i)
        if open_rows:
            scored = scorer.score_rows([rows[i] for i in open_rows], np.stack([values[i] for i in open_rows]))
            for i, r in zip(open_rows, scored, strict=True):
                out[i] = r
        # Uploads are deleted after the answer; an archive held open would keep their blocks on the disk.
        sources.shared.cache_clear()
        return out  # type: ignore[return-value]  # every slot is filled by now
