"""Describe the machine at the start of a GPU run: `python -m bench.gpu_machine`.

Prints nvidia-smi's answer, versions, and how long imports take in processes of their own. Missing programs raise no error.
"""

from __future__ import annotations

import importlib.metadata as metadata
import platform
import subprocess
import sys
import time

PACKAGES = (
    "torch", "triton", "numpy", "scipy", "pandas", "pyarrow", "sympy", "fvcore", "iopath", "yacs", "termcolor", "nvidia-ml-py",
    "psutil", "pytest", "pytest-benchmark", "matplotlib", "seaborn", "jinja2", "rich", "typer",
)  # fmt: skip
IMPORTED = ("torch", "lipbench.run.measure", "lipbench.analysis.document")
TIMEOUT_S = 20


def say(*command: str) -> str:
    """The output of a command, or why it has none."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}"
    return (done.stdout or done.stderr).rstrip()


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "missing"


def imported(module: str) -> str:
    """Seconds of a new process that imports a module and exits, or its last line if it fails."""
    start = time.perf_counter()
    try:
        done = subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True, text=True, timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return f"not within {TIMEOUT_S} s"
    if done.returncode:
        return done.stderr.strip().rpartition("\n")[2]
    return f"{time.perf_counter() - start:.1f} s"


def main() -> None:
    print(say("nvidia-smi"))
    print("python", platform.python_version(), "on", platform.platform())
    print(", ".join(f"{package} {version(package)}" for package in PACKAGES), flush=True)
    for module in IMPORTED:
        print(f"import {module}: {imported(module)}", flush=True)
    code = "from lipbench.run import forks; forks.prepare(); print(sorted({line.split('/')[-1].strip() "
    code += "for line in open('/proc/self/maps') if 'libcuda.so' in line}), 'mapped by a server of forks')"
    print(say(sys.executable, "-c", code))
    code = "import torch; print('cuda', torch.version.cuda, torch.cuda.is_available() and torch.cuda.get_device_name())"
    print(say(sys.executable, "-c", code))


if __name__ == "__main__":
    main()
