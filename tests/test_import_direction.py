"""Imports point one way: a package imports only from those before it in ORDER; see docs/architecture.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "osteo_ray"
ORDER = (
    *("outcomes", "progress", "config", "ray_setup"),
    *("io", "dicom", "patients", "catalogue", "evaluation", "model", "drlis", "kdamm", "training"),
    *("screening", "monitoring", "reports", "service", "synthetic", "commands", "cli"),
)
RANK = {name: i for i, name in enumerate(ORDER)}
MODULES = {
    ".".join((p.parent if p.name == "__init__.py" else p.with_suffix("")).relative_to(ROOT.parent).parts): p
    for p in ROOT.rglob("*.py")
}


def imports_of(path: Path) -> set[str]:
    """Modules of this package that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {a.name for a in node.names if a.name.split(".")[0] == "osteo_ray"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "osteo_ray":
            whole = f"{node.module}."
            found |= {whole + a.name if whole + a.name in MODULES else str(node.module) for a in node.names}
    return found


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_every_package_has_its_place():
    assert {package_of(m) for m in MODULES} - {""} == set(ORDER)


def test_imports_point_one_way():
    wrong = [
        f"{module} imports {other}"
        for module, path in MODULES.items()
        for other in sorted(imports_of(path))
        if package_of(module) and package_of(other) and RANK[package_of(other)] > RANK[package_of(module)]
    ]
    assert not wrong


def test_only_the_cohort_command_imports_the_synthetic_patients():
    importers = {m for m, p in MODULES.items() if any(package_of(o) == "synthetic" for o in imports_of(p))}
    assert {m for m in importers if package_of(m) != "synthetic"} == {"osteo_ray.commands.cohort"}


def test_no_modules_import_each_other_in_a_circle():
    """At import time; an import inside a function is a decision of its own."""
    at_import: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        top = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
        names: set[str] = set()
        for node in top:
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("osteo_ray"):
                whole = f"{node.module}."
                names |= {whole + a.name if whole + a.name in MODULES else str(node.module) for a in node.names}
        at_import[module] = names - {module}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above[above.index(module) :], module))
        if module in done:
            return
        for other in sorted(at_import.get(module, ())):
            visit(other, (*above, module))
        done.add(module)

    for module in sorted(MODULES):
        visit(module, ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("osteo_ray", ("ray", "torch", "pandas", "gymnasium", "pyarrow")),
        ("osteo_ray.model.bundle", ("ray", "gymnasium")),
        ("osteo_ray.model.abstention", ("ray", "gymnasium")),
        ("osteo_ray.catalogue.study", ("ray", "torch", "gymnasium")),
        ("osteo_ray.screening.predictor", ("ray", "gymnasium", "fastapi")),
        ("osteo_ray.screening.scorer_process", ("ray", "torch", "pandas", "sklearn", "scipy.stats", "pyarrow.dataset")),
    ],
)
def test_an_import_costs_what_it_needs(module, absent):
    code = f"import sys, {module}; print([m for m in {absent!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert done.stdout.strip() == "[]"
