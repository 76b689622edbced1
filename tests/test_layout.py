"""The layout: packages list, one-way imports, and an import of archnet that stays cheap."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {
    "archnet": ROOT / "archnet",
    "archnet.targets": ROOT / "targets",
    "archnet.converters": ROOT / "converters",
    "archnet.calibration": ROOT / "calibration",
}

BASE = ("errors", "operators", "method", "config", "results")
"""Modules that everything may import, and that import each other in this order at most."""

LAYERS = ("base", "archnet.targets", "archnet.converters", "archnet.calibration", "archnet", "archnet.cli")
"""A module imports from its own layer and from those before it."""

SHARED_RECORDS = ("archnet.atomic", "archnet.graph", "archnet.network")
"""Pure records of the data flow: layers below `archnet` may import them, and they import no layer."""


def modules() -> Iterator[tuple[str, Path]]:
    """Every module of the package: its dotted name and its file in the real (not linked) folder."""
    for package, folder in FOLDERS.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if package == "archnet" and parts[0] in ("targets", "converters", "calibration"):
                continue  # the links; their folders are walked by themselves
            yield ".".join([package, *(part for part in parts if part != "__init__")]), path


def layer(module: str) -> str:
    """The layer of a module of archnet."""
    if module == "archnet.__main__":
        return "archnet.cli"  # `python -m archnet` is the command line
    parts = module.split(".")
    if len(parts) == 2 and parts[1] in BASE:
        return "base"
    if len(parts) >= 2 and f"archnet.{parts[1]}" in LAYERS:
        return f"archnet.{parts[1]}"
    return "archnet"


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module of archnet that a file imports, wherever in the file, with the line."""
    known = {name for name, _ in modules()}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                yield (full if full in known else node.module), node.lineno


def project() -> dict[str, Any]:
    """pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


MODULES = list(modules())


def test_the_packages_list_equals_the_tree() -> None:
    tree = {name if path.name == "__init__.py" else name.rpartition(".")[0] for name, path in MODULES}
    assert sorted(project()["tool"]["setuptools"]["packages"]) == sorted(tree)


def test_every_package_has_an_init_file() -> None:
    missing = {path.parent for _, path in MODULES if not (path.parent / "__init__.py").exists()}
    assert missing == set()


def test_the_links_are_relative_and_lead_to_the_top_level_folders() -> None:
    for name in ("targets", "converters", "calibration"):
        link = ROOT / "archnet" / name
        assert link.is_symlink()
        assert str(link.readlink()) == f"../{name}"


def test_every_file_that_is_no_module_is_package_data() -> None:
    declared = project()["tool"]["setuptools"]["package-data"]
    covered = {
        path
        for package, patterns in declared.items()
        for pattern in patterns
        for path in FOLDERS.get(package, ROOT / package.replace(".", "/")).glob(pattern)
    }
    others = {
        path
        for folder in FOLDERS.values()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc")
    }
    assert sorted(others - covered) == []


@pytest.mark.parametrize(("module", "path"), MODULES, ids=[name for name, _ in MODULES])
def test_imports_point_one_way(module: str, path: Path) -> None:
    mine = LAYERS.index(layer(module))
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {target}"
        for target, line in imports(path)
        if target.startswith("archnet.")
        and target not in SHARED_RECORDS
        and LAYERS.index(layer(target)) > mine
    ]
    assert wrong == []


def test_base_modules_and_shared_records_import_nothing_above_them() -> None:
    allowed = {f"archnet.{name}" for name in BASE} | set(SHARED_RECORDS)
    files = dict(MODULES)
    for name in sorted(allowed):
        used = {target for target, _ in imports(files[name]) if target.startswith("archnet")}
        assert used <= allowed, name


@pytest.mark.parametrize("module", ["archnet", "archnet.targets"])
def test_importing_loads_no_heavy_library(module: str) -> None:
    heavy = ("torch", "transformers", "onnx", "onnxruntime", "tvm")
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_those_of_the_documentation() -> None:
    code = "import archnet; print(sorted(set(archnet.__all__) - {'ArchNetError', '__version__'}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['convert', 'inspect', 'load']"


def test_unknown_attributes_are_attribute_errors() -> None:
    import archnet

    with pytest.raises(AttributeError, match="no attribute 'quantise'"):
        archnet.quantise  # noqa: B018
    assert set(archnet.__all__) <= set(dir(archnet))


def test_the_version_is_the_one_of_the_project() -> None:
    import archnet

    assert archnet.__version__ == project()["project"]["version"]
