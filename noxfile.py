"""The project's jobs: `nox -s profile` writes the report, `nox` runs lint and tests.

Every session installs the versions of `constraints.txt`. With `--no-venv` a session uses the environment that nox is called
from, and installs only what is missing there, so that an installed PyTorch is kept.
"""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nox
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "tests"]

ROOT = Path(__file__).parent
CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
OUT = ROOT / "reports" / "out"
LIPBENCH = ("python", "-m", "lipbench.cli")
PYTEST = ("python", "-m", "pytest", "-n", "2", "--dist", "loadfile")
"""a file's tests share results, so they run in one process"""
VERSIONS: list[dict[str, Any]] = PROJECT["tool"]["lipbench"]["versions"]
"""of torch and triton, the oldest and the newest"""


@nox.session
def profile(session: nox.Session) -> None:
    """Profile all methods at the `quick` preset and write the report; arguments after `--` go to `lipbench profile`."""
    start = time.monotonic()
    install(session, "--editable", ".")
    installed = time.monotonic()
    folder = new_folder()
    try:
        session.run(*LIPBENCH, "profile", "--preset", "quick", "--out", str(folder / "run"), *session.posargs)
    finally:  # exit code 3: some case failed, and the report says which and why
        profiled = time.monotonic()
        if (folder / "run" / "run.json").exists():
            report(session, folder / "run", folder)
    session.log(f"installing took {installed - start:.0f} s, profiling {profiled - installed:.0f} s")


@nox.session
def bench(session: nox.Session) -> None:
    """Run the pytest-benchmark suites and write the report of their JSON; arguments after `--` go to pytest."""
    install(session, "--editable", ".")
    folder = new_folder()
    results = folder / "benchmark.json"
    session.run("python", "-m", "pytest", "--benchmark-only", f"--benchmark-json={results}", *session.posargs)
    report(session, results, folder)


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests in two processes, then kernels in triton's interpreter; arguments after `--` go to pytest, run once.

    With LIPBENCH_EXHAUSTIVE=1 in the environment, property tests draw all their examples.
    """
    install(session, "--editable", ".", *nox.project.dependency_groups(PROJECT, "tests"))
    session.run(*PYTEST, *session.posargs)
    if not session.posargs:
        session.run(*PYTEST, "tests/interpreted", env={"TRITON_INTERPRET": "1"})


@nox.session
@nox.parametrize("pair", [nox.param(pair, id=f"torch-{pair['torch']}-triton-{pair['triton']}") for pair in VERSIONS])
def versions(session: nox.Session, pair: dict[str, Any]) -> None:
    """Run the tests and `lipbench kernels` with the oldest and the newest torch and triton; arguments after `--` go to pytest.

    The pairs are in pyproject.toml. Any build of that torch works; one for CUDA takes several GB.
    """
    path = Path(session.create_tmp()) / "constraints.txt"
    path.write_text("\n".join(without("torch", "triton", *pair["also"])) + "\n")
    tools = [name for name in nox.project.dependency_groups(PROJECT, "tests") if not name.startswith("triton")]
    packages = (f"torch=={pair['torch']}", *pair["also"], "--editable", ".", *tools)
    session.install(*packages, "--constraint", str(path), env=build_constraint())
    session.install("--no-deps", f"triton=={pair['triton']}")  # whichever triton that torch requires
    session.run(*PYTEST, *session.posargs)
    if not session.posargs:
        session.run(*PYTEST, "tests/interpreted", env={"TRITON_INTERPRET": "1"})
    session.run(*LIPBENCH, "kernels")


@nox.session
def lint(session: nox.Session) -> None:
    """Check rules and format with ruff, and types with mypy --strict."""
    install(session, "--editable", ".[train]", *nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy", "--strict")
    session.run("mypy", "--strict", "noxfile.py", "bench")


@nox.session
def wheel(session: nox.Session) -> None:
    """Build the wheel, install it alone, and use it from outside the checkout."""
    folder = Path(session.create_tmp())
    for old in folder.glob("*.whl"):
        old.unlink()
    build = ("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT))
    session.run(*build, env=build_constraint())
    (built,) = folder.glob("*.whl")
    install(session, str(built))
    outside = folder / "outside"
    outside.mkdir(exist_ok=True)
    with session.chdir(outside):
        use_installed(session)


def use_installed(session: nox.Session) -> None:
    """Run every verb once as a user of the wheel would: from an empty folder, with the installed command."""
    run = f"run-{stamp()}"
    small = ("--channels", "4", "--image-size", "6", "--batch-size", "2", "--method", "standard,aol")
    session.run("python", "-c", "import lipbench; print('lipbench from', lipbench.__file__)")
    session.run("lipbench", "--version")
    session.run("lipbench", "methods", "--format", "markdown")
    session.run("lipbench", "theory")
    session.run("lipbench", "verify", "aol", "--channels", "4", "--image-size", "4", "--kernel-size", "1")
    session.run("lipbench", "complexity", "standard")
    session.run("lipbench", "predict", *small)
    session.run("lipbench", "profile", *small, "--out", run)
    for ending in ("csv", "parquet"):
        session.run("lipbench", "export", run, "-o", f"{run}.{ending}")
    session.run("lipbench", "report", run, "-o", f"{run}.html")


def report(session: nox.Session, results: Path, folder: Path) -> None:
    """Render `report.html` into the folder and print its path."""
    page = folder / "report.html"
    session.run(*LIPBENCH, "report", str(results), "-o", str(page))
    session.log(f"report: {page.relative_to(ROOT)}")


def install(session: nox.Session, *requirements: str) -> None:
    """pip install at the tested versions; into the user's own environment, only missing packages."""
    pip = ("python", "-m", "pip", "install", "--quiet", *requirements)
    if session.virtualenv.is_sandboxed:
        session.run_install(*pip, "--constraint", str(CONSTRAINTS), env=build_constraint())
    elif not session._runner.global_config.no_install:
        session.run_install(*pip, "--constraint", str(missing_only(session)), env=build_constraint())


def build_constraint() -> dict[str, str]:
    """The setting that makes pip use the tested versions in the isolated environments for building wheels too."""
    return {"PIP_BUILD_CONSTRAINT": str(CONSTRAINTS)}


def missing_only(session: nox.Session) -> Path:
    """Constraints that keep the installed torch and triton, and give tested versions of missing packages."""
    listed = session.run("python", "-m", "pip", "list", "--format", "json", silent=True, stderr=subprocess.DEVNULL, log=False)
    assert isinstance(listed, str)
    installed = {canonicalize_name(package["name"]): package["version"] for package in json.loads(listed)}
    lines = without(*installed)
    lines += [
        f"{name}=={installed[name]}" for name in (canonicalize_name("torch"), canonicalize_name("triton")) if name in installed
    ]
    path = Path(session.create_tmp()) / "constraints.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def without(*requirements: str) -> list[str]:
    """The lines of constraints.txt except those of these packages, which may be named with versions."""
    names = {canonicalize_name(Requirement(one).name) for one in requirements}
    tested = [line for line in CONSTRAINTS.read_text().splitlines() if "==" in line and not line.startswith("#")]
    return [line for line in tested if canonicalize_name(line.partition("==")[0]) not in names]


def new_folder() -> Path:
    """A new folder under `reports/out/`, named by the time."""
    folder = OUT / stamp()
    folder.mkdir(parents=True)
    return folder


def stamp() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
