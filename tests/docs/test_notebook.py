"""The notebook of the documentation runs from top to bottom on an archive."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "docs" / "examples" / "archive_to_worklist.ipynb"


def cells():
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return [c for c in book["cells"] if c["cell_type"] == "code"]


def test_it_is_a_clean_notebook():
    """No outputs and no run numbers: what a reader sees is from their own archive."""
    book = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    assert (book["nbformat"], book["metadata"]["kernelspec"]["language"]) == (4, "python")
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in cells())
    assert cells()[0]["metadata"]["tags"] == ["parameters"]


def test_every_cell_runs(cohort_run, bundle_dir, tmp_path, capsys):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    space: dict = {}
    first, *rest = ["".join(c["source"]) for c in cells()]
    exec(compile(first, "parameters", "exec"), space)
    given = {"ARCHIVE": cohort_run.archive, "RECORDS": cohort_run.records, "BUNDLE": bundle_dir, "OUT": tmp_path}
    assert {k for k in space if not k.startswith("_")} == set(given)
    space |= {k: str(v) for k, v in given.items()}
    for i, source in enumerate(rest, 1):
        exec(compile(source, f"cell {i}", "exec"), space)
    out = capsys.readouterr().out
    assert "SCORED" in out
    assert len(space["worklist"])
    assert space["result"].code != "Q_IDENTITY"
    assert len(space["slices"]) == len(space["result"].selected) > 0
    assert "AUC" in out
    assert (tmp_path / "screen" / "evaluation.html").exists()
