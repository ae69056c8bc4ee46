"""The order that docs/architecture.md tells holds: read from the imports themselves."""

from __future__ import annotations

import ast
import collections
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import proxflow

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "proxflow"
TABLE = (ROOT / "docs" / "architecture.md").read_text().split("\n## ")[0]
ORDER = [name for row in re.findall(r"^\| (`[^|]*) \|", TABLE, re.MULTILINE) for name in re.findall(r"`(\w+)/?`", row)]


def _name(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def _imports(path: Path) -> set[str]:
    """Modules of proxflow that a file imports anywhere, in functions and for types too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module is not None and node.module.split(".")[0] == "proxflow":
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & MODULES.keys()
            found |= inner or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & MODULES.keys()
    return found


IMPORTS = {name: _imports(path) for name, path in MODULES.items() if name != "proxflow"}


def _part(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_table_names_every_module_and_folder() -> None:
    assert sorted(ORDER) == sorted({_part(name) for name in MODULES} - {""})


def test_no_import_runs_back_up() -> None:
    against = [
        f"{module} imports {imported}"
        for module, found in IMPORTS.items()
        for imported in found
        if imported != "proxflow" and ORDER.index(_part(imported)) > ORDER.index(_part(module))
    ]
    assert against == []


def test_nothing_but_the_command_line_imports_the_package_itself() -> None:
    """``import proxflow`` looks names up in all parts."""
    assert {_part(module) for module, found in IMPORTS.items() if "proxflow" in found} <= {"cli", "report"}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """A package's __init__ only hands names on: what is imported from it comes from one of its modules."""
    inner = {name: found & MODULES.keys() - {"proxflow"} for name, found in IMPORTS.items()}
    assert list(graphlib.TopologicalSorter(inner).static_order())


def test_no_two_modules_have_one_name() -> None:
    counts = collections.Counter(name.split(".")[-1] for name in MODULES)
    assert [name for name, count in counts.items() if count > 1] == []


def test_no_function_of_a_package_hides_a_module_of_it() -> None:
    for name, path in MODULES.items():
        if path.name == "__init__.py" and name != "proxflow":
            handed = {alias.asname or alias.name for node in ast.walk(ast.parse(path.read_text()))
                      if isinstance(node, ast.ImportFrom) for alias in node.names}  # fmt: skip
            inside = {module.split(".")[-1] for module in MODULES if module.rpartition(".")[0] == name}
            assert not handed & inside


def test_the_package_shows_its_public_names_alone() -> None:
    assert dir(proxflow) == sorted(proxflow.__all__)
    assert all(hasattr(proxflow, name) for name in dir(proxflow))


def test_the_command_line_starts_without_torch() -> None:
    """Help and refusals should not wait for it."""
    program = "import sys, proxflow.cli; print(sorted({'torch', 'numpy', 'scipy'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_assignments_take_lapx() -> None:
    """It is a compiled package, and there are machines without it whose couplings assign nothing."""
    program = "import sys; sys.modules['lap'] = None; import proxflow.couplings, proxflow.semidiscrete"
    subprocess.run([sys.executable, "-c", program], check=True)
