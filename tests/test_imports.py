"""Who may import whom: the rules stand in ARCHITECTURE.md, are read from there, and are held against every import statement."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lipbench.cli.main import VERBS

ROOT = Path(__file__).parents[1]
SOURCES = {"lipbench": ROOT, "lipbench_kernels": ROOT / "kernels", "lipbench_reports": ROOT / "reports", "bench": ROOT}
EVERYONE_MAY = {"errors", "traces"}
HEAVY = {"torch", "pandas", "triton", "fvcore", "scipy", "matplotlib", "seaborn", "sympy"}
"""what `lipbench --help` has no time for"""


def modules() -> dict[str, Path]:
    """Every module of the project by its dotted name."""
    found = {}
    for package, folder in SOURCES.items():
        for path in (folder / package).rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def room(module: str) -> str:
    """The name that a module goes by in the rules: that of its package outside lipbench, its first name inside it."""
    if not module.startswith("lipbench."):
        return module.partition(".")[0]
    return "layers.base" if module == "lipbench.layers.base" else module.split(".")[1]


def rules() -> dict[str, set[str]]:
    """Room → rooms that it may import, by the block of arrows in ARCHITECTURE.md."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    block = text.partition("## Who may import whom")[2].split("```")[1]
    lines = [line.partition("→") for line in block.splitlines() if "→" in line]
    return {name.strip(): {target.strip() for target in targets.split(",")} - {"nothing"} for name, _, targets in lines}


RULES = rules()


def statements(tree: ast.Module, *, when_imported: bool) -> Iterator[ast.Import | ast.ImportFrom]:
    """Import statements: all, or only those that run when the module is imported."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        if when_imported and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if when_imported and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            waiting.extend(node.orelse)
            continue
        waiting.extend(ast.iter_child_nodes(node))


def imports(source: str, *, when_imported: bool = False) -> set[str]:
    """Dotted names of what a source imports; `from package import module` names the module."""
    names = set()
    for statement in statements(ast.parse(source), when_imported=when_imported):
        if isinstance(statement, ast.Import):
            names |= {alias.name for alias in statement.names}
            continue
        assert statement.module is not None, "relative imports hide where an arrow leads"
        assert statement.level == 0, "relative imports hide where an arrow leads"
        submodules = {f"{statement.module}.{alias.name}" for alias in statement.names}
        names |= {name if name in MODULES else statement.module for name in submodules}
    return names


def loaded_with(module: str) -> set[str]:
    """Top-level names of all that is loaded when a module of the project is imported, as far as its own modules tell."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        if name in MODULES:
            waiting += imports(MODULES[name].read_text(), when_imported=True)
            waiting += [name.rpartition(".")[0]] if "." in name else []
    return {name.partition(".")[0] for name in seen}


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
import os.path
from lipbench import errors, __version__
from lipbench.meters import time
if TYPE_CHECKING:
    import torch
def verb():
    from lipbench.run.measure import measure
"""
    assert imports(source) == {
        "os.path",
        "lipbench.errors",
        "lipbench",
        "lipbench.meters.time",
        "torch",
        "lipbench.run.measure",
    }
    assert imports(source, when_imported=True) == {"os.path", "lipbench.errors", "lipbench", "lipbench.meters.time"}


def test_every_room_has_its_rule() -> None:
    rooms = {room(module) for module in MODULES if module != "lipbench"}
    assert rooms == set(RULES)
    assert set().union(*RULES.values()) <= rooms


@pytest.mark.parametrize("module", [module for module in MODULES if module != "lipbench"])
def test_arrows(module: str) -> None:
    own = room(module)
    targets = {room(name) for name in imports(MODULES[module].read_text()) if name in MODULES and name != "lipbench"}
    assert targets <= RULES[own] | EVERYONE_MAY | {own}


@pytest.mark.parametrize("name", RULES)
def test_every_arrow_is_used(name: str) -> None:
    own = [path for module, path in MODULES.items() if room(module) == name]
    assert RULES[name] <= {room(target) for path in own for target in imports(path.read_text()) if target in MODULES}


def test_no_arrow_turns_back() -> None:
    """A room that is imported never imports the importer, by any way round."""
    seen: dict[str, int] = {}

    def visit(name: str) -> None:
        assert seen.get(name) != 1, f"a circle of imports leads back to {name}"
        if name not in seen:
            seen[name] = 1
            for target in RULES[name]:
                visit(target)
            seen[name] = 2

    for name in RULES:
        visit(name)


def test_kernels_need_torch_and_triton_alone() -> None:
    names = {
        name for module, path in MODULES.items() if room(module) == "lipbench_kernels" for name in imports(path.read_text())
    }
    foreign = {name.partition(".")[0] for name in names} - sys.stdlib_module_names
    assert foreign <= {"torch", "triton", "lipbench_kernels"}


@pytest.mark.parametrize("module", [module for module in MODULES if room(module) == "lipbench_reports"])
def test_reports_know_neither_torch_nor_lipbench(module: str) -> None:
    assert not {"torch", "triton", "lipbench", "lipbench_kernels"} & loaded_with(module)


@pytest.mark.parametrize(
    "name",
    [
        "cases",
        "errors",
        "quantities",
        "theory",
        "store.records",
        "run.plan",
        "run.executor",
        "run.local",
        "run.isolate",
        "run.schedule",
        "run.profiling",
        "cli.progress",
        "cli.main",
        "cli.printing",
        "answer",
        *(f"cli.{verb}" for verb in VERBS),
    ],
)
def test_planning_and_reading_load_no_torch(name: str) -> None:
    assert "torch" not in loaded_with(f"lipbench.{name}")


@pytest.mark.parametrize("verb", VERBS)
def test_the_options_of_a_verb_load_nothing_heavy(verb: str) -> None:
    """A shell asks for them at every press of the key."""
    assert not HEAVY & loaded_with(f"lipbench.cli.{verb}")


def test_help_loads_nothing_heavy() -> None:
    program = """
import sys
from lipbench.cli.main import main
try:
    main(["--help"])
except SystemExit as stop:
    assert stop.code == 0
print("loaded:", *sorted({name.partition(".")[0] for name in sys.modules}))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "profile" in done.stdout
    loaded = set(done.stdout.rpartition("loaded:")[2].split())
    assert "lipbench" in loaded
    assert not (HEAVY | {"typer", "rich"}) & loaded


def test_every_layer_file_is_registered_exactly_once() -> None:
    registry = importlib.import_module("lipbench.registry")
    stems = {path.stem for path in (ROOT / "lipbench" / "layers").glob("*.py")} - {"__init__", "base"}
    assert set(registry.METHODS) == {stem.replace("_", "-") for stem in stems}
    for name, method in registry.METHODS.items():
        assert method is importlib.import_module(f"lipbench.layers.{name.replace('-', '_')}").METHOD
        assert method.name == name


def test_folders_of_packages_are_no_packages() -> None:
    """`kernels` and `reports` are names that others use, so they must never be importable."""
    assert not (ROOT / "kernels" / "__init__.py").exists()
    assert not (ROOT / "reports" / "__init__.py").exists()
