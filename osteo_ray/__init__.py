"""osteo-ray: opportunistic osteoporosis screening on CT archives.

    from osteo_ray import index_archive, load_bundle, load_records, open_slices

    index = index_archive("archive/")                                  # every series, excluded ones too, and every file
    with open_slices(index.series[0]) as stack:                        # any series; nothing is decoded yet
        stack.n, stack.z_mm, stack.hu(0)                               # HU of one slice
    records = load_records("labs.csv", "my-mapping.yaml")              # demographics and labs in one schema
    result = load_bundle().score("study/", {"age_y": 67, "sex": "F"})  # None: the bundle that ships with the package
    result.state, result.risk, result.to_dict()

These names are stable. Research use only; an aid, not a diagnosis; it cannot rule out low bone density.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from osteo_ray.catalogue.study import Index
    from osteo_ray.dicom.stack import SliceStack
    from osteo_ray.patients.table import RecordTable
    from osteo_ray.screening.predictor import Predictor

try:
    __version__ = version("osteo-ray")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+uninstalled"

__all__ = ["__version__", "index_archive", "load_bundle", "load_records", "open_slices"]


def index_archive(path: str | Path) -> Index:
    """Index a folder, file, zip, tar or URI in this process, without Ray.

    Returns:
        `.series`: one dict a series, excluded ones too (`osteo_ray.catalogue.schema.CATALOGUE`); `.files`: one dict for
        each file that belongs to no series (`uri`, `code`).

    Raises:
        FileNotFoundError: `path` is not there.

    Example:
        >>> [(s["series_uid"], s["n_slices"], s["code"]) for s in index_archive("archive/").series]  # doctest: +SKIP
    """
    from osteo_ray.catalogue import study

    return study.index_archive(path)


def open_slices(series: Mapping[str, Any]) -> SliceStack:
    """The slices of a series of `index_archive(...).series`, ordered along the slice normal; decoded one by one.

    Returns:
        A stack with `.n`, `.hu(i)` (HU of slice i, [rows, cols]) and `.z_mm` ([n] heights in mm, NaN where the headers
        give no position). It is a context manager.

    Example:
        >>> with open_slices(index.series[0]) as stack:                                               # doctest: +SKIP
        ...     stack.hu(stack.n // 2).mean()
    """
    from osteo_ray.dicom.stack import SliceStack

    return SliceStack.from_row(series, geometry=False)


def load_records(path: str | Sequence[str], mapping: str | None = None) -> RecordTable:
    """Demographics and labs in the project's schema and units.

    Args:
        path: one file, or several that are read as one (CSV, Parquet, FHIR; see docs/your-own-data.md).
        mapping: a shipped mapping's name, or the path of a YAML; None is the default mapping.

    Raises:
        RecordsError: a value that can't be used, by file, line and column, with the remedy.

    Example:
        >>> values, known = load_records("labs.csv").matrix()                                         # doctest: +SKIP
    """
    from osteo_ray.patients import load_records as load

    return load(path, mapping)


def load_bundle(path: str | Path | None = None) -> Predictor:
    """A trained model that scores studies; `path` None: the reference bundle, which is not validated on patients.

    Returns:
        `.score(study, record=None)` gives a `StudyResult`: `.state`, `.risk`, `.selected`, `.slices()`, `.shap`,
        `.to_dict()`.

    Raises:
        BundleError: a bundle that is missing, changed or of another format.

    Example:
        >>> load_bundle().score("study/", record={"age_y": 67, "sex": "F"}).risk                      # doctest: +SKIP
    """
    from osteo_ray.model import reference
    from osteo_ray.screening.predictor import Predictor

    return Predictor.load(path or reference.bundle())
