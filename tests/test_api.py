"""The Python API: layers by name, as callables and as modules; runs that are read again; nothing heavy before it is needed."""

from __future__ import annotations

import subprocess
import sys
from functools import partial
from pathlib import Path

import external_layers
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import lipbench
from lipbench import calling, external
from lipbench.errors import LipbenchError

SIZES = {"channels": 4, "image_size": 6, "batch_size": 2}
COUNTED = {"channels": (4, 8, 16), "image_size": (8, 16, 32), "kernel_size": (1, 3, 5, 7), "batch_size": (2, 4)}


def local_layer() -> type[nn.Module]:
    """A class that no other process can import."""

    class Half(nn.Module):
        def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.full((in_channels, 1, 1), 0.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.scale * x

    return Half


def adapter(channels: int, image_size: int, kernel_size: int) -> nn.Module:
    return nn.LayerNorm((channels, image_size, image_size))


def test_importing_imports_nothing_heavy() -> None:
    program = "import sys, lipbench; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    loaded = set(subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split())
    assert "lipbench" in loaded
    assert not {"torch", "pandas", "numpy", "sympy", "typer", "scipy"} & loaded


def test_names_are_measured_in_fresh_processes_and_the_run_can_be_read_again(tmp_path: Path) -> None:
    run = lipbench.profile("standard", **SIZES, threads=1, rounds=2, retries=0, phase_seconds=0.01, out=tmp_path / "run")
    frame = run.frame()
    assert set(frame["rounds"]) == {2}
    assert not frame["warnings"].str.contains("one process").any()
    pd.testing.assert_frame_equal(lipbench.load(run.path).frame(), frame)
    assert run.report() == tmp_path / "run" / "report.html"
    assert "<html" in run.report(tmp_path / "elsewhere.html").read_text()
    assert run.problems == ()


def test_layers_of_this_process_are_measured_here_and_marked(tmp_path: Path) -> None:
    half = local_layer()
    made = half(4, 4, 3)
    before = {name: value.clone() for name, value in made.state_dict().items()}
    run = lipbench.profile(half, lambda i, o, k: half(i, o, k), made, **SIZES, phase_seconds=0.01, out=tmp_path / "run")
    frame = run.frame()
    assert set(frame["status"]) == {"ok"}
    assert frame["title"].nunique() == 3
    assert frame["warnings"].str.contains("one process").all()
    assert (frame["certificate"] < 1).all()
    assert all(torch.equal(made.state_dict()[name], value) for name, value in before.items())
    assert {record.rounds[0].machine.flags["process"] for record in run.stored.records} == {"this process"}  # type: ignore[union-attr]
    with pytest.raises(LipbenchError, match="no attribute"):
        external.load("this_process:Half")  # gone with the call


def test_what_a_layer_of_this_process_raises_is_a_record(tmp_path: Path) -> None:
    class Refuses(local_layer()):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            raise ValueError("not today")

    frame = lipbench.profile(Refuses, **SIZES, phase_seconds=0.01, out=tmp_path / "run").frame()
    assert set(frame["status"]) == {"raised"}
    assert frame["reason"].str.contains("not today").all()


def test_a_process_keeps_no_limits_on_itself(tmp_path: Path) -> None:
    for limits in ({"rounds": 2}, {"timeout_s": 5.0}, {"memory_limit_bytes": 10**9}):
        with pytest.raises(LipbenchError, match="this process alone"):
            lipbench.profile(local_layer(), **SIZES, **limits, out=tmp_path / "run")  # type: ignore[arg-type]
    assert not (tmp_path / "run").exists()


def test_a_callable_that_can_be_imported_has_its_name() -> None:
    assert calling.importable_name(external_layers.Pointwise) == "external_layers:Pointwise"
    assert calling.importable_name(adapter) == f"{__file__}:adapter"
    assert calling.importable_name(local_layer()) == ""
    assert calling.importable_name(partial(external_layers.Pointwise)) == ""
    assert calling.importable_name(local_layer()(4, 4, 3)) == ""


def test_counts_and_predictions_take_all_kinds_of_layers() -> None:
    counted = lipbench.complexity("aol", local_layer(), **COUNTED)
    assert list(counted.frame["method"].unique()) == ["aol", "this_process:Half"]
    assert counted.readable is not None
    assert counted.remarks

    def square(channels: int, image_size: int, kernel_size: int) -> nn.Module:
        return adapter(channels, image_size, kernel_size)

    predicted = lipbench.predict("aol", local_layer(), adapter, square, **SIZES, memory_bytes=10**12)
    assert predicted.problems == ()
    assert len(predicted.frame) == 4
    assert set(predicted.frame["fits"]) == {"training"}
    assert not predicted.failed


def test_a_layer_that_was_defined_anew_is_counted_anew() -> None:
    found = [lipbench.complexity(layer, **COUNTED).frame for layer in (local_layer(), _wide())]
    assert not found[0]["sum"].equals(found[1]["sum"])


def _wide() -> type[nn.Module]:
    class Half(nn.Module):
        def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)

        def forward(self, x: Tensor) -> Tensor:
            found: Tensor = self.convolution(x)
            return found

    return Half


def test_an_unknown_argument_is_named() -> None:
    with pytest.raises(LipbenchError, match="'chanels'"):
        lipbench.predict("aol", chanels=4)


def test_a_module_is_verified_where_it_is() -> None:
    certificate = lipbench.verify(local_layer()(4, 4, 3), torch.randn(2, 4, 6, 6))
    assert certificate.evaluation[0].largest == pytest.approx(0.5)
    assert certificate.evaluation[0].kind == "exact"


def test_methods_are_those_of_the_registry() -> None:
    assert {"aol", "soc"} <= set(lipbench.methods()["method"])
