"""`pytest` runs tests/ and times nothing; `pytest --benchmark-only` runs this folder. Paths on the command line are obeyed.

Write the options below with an equals sign: without it, pytest takes the value for a path before it has read this file.
"""

from __future__ import annotations

import os

import pytest

from lipbench.cores import usable_cores


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("lipbench")
    devices = ("auto", "cpu", "cuda")
    group.addoption("--bench-device", choices=devices, default="auto", help="where bench/ runs (auto: a GPU if there is one)")
    cores = usable_cores()
    group.addoption("--bench-threads", type=int, default=cores, metavar="N", help=f"threads of PyTorch in bench/ ({cores})")


def pytest_configure(config: pytest.Config) -> None:
    only = config.getoption("benchmark_only")
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        config.args[:] = ["bench" if only else "tests"]
    if only:  # Read once, when torch is imported, which no conftest does; tests/conftest.py has set them for the tests.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(config.getoption("bench_threads"))
