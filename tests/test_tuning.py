"""What tuning chooses, and that it is told, kept on disk, and needs no device before the first launch. Without a GPU: triton's
tuner is real, its clock, its launches and the device are not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

pytest.importorskip("triton", reason="kernels need triton")

import torch
import triton
import triton.language as tl
from lipbench_kernels import aol_bound, catalogue, launching, resources, soc_convolution
from lipbench_kernels.launching import PRECISIONS, Config, Tuned

from bench import equality
from bench.hot_spots import HOT_SPOTS

pytestmark = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") == "1", reason="a process that interprets kernels does not tune them"
)

CONFIGS = {"slow": Config({"SIZE": 16}), "fast": Config({"SIZE": 32}, warps=8), "refused": Config({"SIZE": 64}, stages=9)}
MILLISECONDS = {16: 2.0, 32: 1.0, 64: float("inf")}


@triton.jit  # type: ignore[untyped-decorator]  # triton gives it no types
def copy_kernel(source, target, length, SIZE: tl.constexpr):  # type: ignore[no-untyped-def]
    place = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(target + place, tl.load(source + place, mask=place < length), mask=place < length)


class Device:
    """An H100 as far as triton's tuner asks."""

    def get_current_target(self) -> Any:
        return triton.backends.compiler.GPUTarget("cuda", 90, 32)


@pytest.fixture
def launches(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> list[dict[str, Any]]:
    """Named arguments of every launch, measured ones included, on a device that is not there; nothing tuned is on disk yet."""
    seen: list[dict[str, Any]] = []
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(triton.runtime.driver, "_active", Device())
    monkeypatch.setattr(launching, "_TUNED", [])
    monkeypatch.setattr(copy_kernel, "run", lambda *arguments, **named: seen.append(named))

    def clock(call: Callable[[], object], **_: Any) -> list[float]:
        call()
        return [MILLISECONDS[seen[-1]["SIZE"]]] * 3

    monkeypatch.setattr("triton.testing.do_bench", clock)
    return seen


def test_the_fastest_serves_is_told_and_measured_once_for_each_size(launches: list[dict[str, Any]]) -> None:
    kernel = launching.tuned(copy_kernel, CONFIGS, ["length"])
    assert launching.chosen() == launching.tuning_s() == {}
    for length in (5, 5, 7):
        kernel[(1,)](None, None, length)
    assert [one["SIZE"] for one in launches] == [16, 32, 64, 32, 32, 16, 32, 64, 32]
    assert {(one["SIZE"], one["num_warps"], one["num_stages"]) for one in launches} == {(16, 4, 2), (32, 8, 2), (64, 4, 9)}
    names = [f"test_tuning.copy_kernel(length={length})" for length in (5, 7)]
    assert launching.chosen() == dict.fromkeys(names, "fast")
    assert list(launching.tuning_s()) == names
    assert min(launching.tuning_s().values()) > 0


def test_another_process_finds_the_choice_on_disk(launches: list[dict[str, Any]]) -> None:
    Tuned(copy_kernel, CONFIGS, ["length"])[(1,)](None, None, 5)
    launches.clear()
    second = launching.tuned(copy_kernel, CONFIGS, ["length"])  # as a process that starts: nothing in memory
    second[(1,)](None, None, 5)
    assert [one["SIZE"] for one in launches] == [32]
    assert list(launching.chosen().values()) == ["fast"]
    assert list(launching.tuning_s().values()) == [0]
    second[(1,)](None, None, 6)  # a size that nobody measured
    assert [one["SIZE"] for one in launches] == [32, 16, 32, 64, 32]


def test_other_configurations_are_measured_anew(launches: list[dict[str, Any]]) -> None:
    Tuned(copy_kernel, CONFIGS, ["length"])[(1,)](None, None, 5)
    launches.clear()
    Tuned(copy_kernel, {name: CONFIGS[name] for name in ("slow", "refused")}, ["length"])[(1,)](None, None, 5)
    assert [one["SIZE"] for one in launches] == [16, 64, 16]


def test_one_configuration_is_not_measured(launches: list[dict[str, Any]]) -> None:
    kernel = launching.tuned(copy_kernel, {"slow": CONFIGS["slow"]}, ["length"])
    kernel[(1,)](None, None, length=5)
    assert [one["SIZE"] for one in launches] == [16]
    assert launching.chosen() == {"test_tuning.copy_kernel(length=5)": "slow"}


def test_a_named_configuration_is_used_and_chooses_nothing(launches: list[dict[str, Any]]) -> None:
    kernel = launching.tuned(copy_kernel, CONFIGS, ["length"])
    with launching.only({"test_tuning.copy_kernel": "refused"}) as launched:
        kernel[(1,)](None, None, 5)
    assert [one["num_stages"] for one in launches] == [9]
    assert launched == {("test_tuning.copy_kernel", "refused")}
    assert launching.chosen() == {}


def test_importing_kernels_asks_triton_for_no_device() -> None:
    """A process that has imported them is forked later, and its child uses CUDA, which a fork of an initialised one may not."""
    code = """
import sys, torch, triton.runtime
module = sys.modules['triton.runtime.driver']
def create():
    raise SystemExit("triton was asked for its device")
module._create_driver = create
import lipbench_kernels.catalogue, lipbench_kernels.resources
from lipbench_kernels import launching
assert launching.chosen() == launching.tuning_s() == {}
assert not torch.cuda.is_initialized()
assert module.driver._active is module.driver._default is None
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------------------------------------ compiled beforehand


class H100(Device):
    """What triton asks of a device before it launches."""

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0


@pytest.mark.parametrize("partial", ["aligned", "unaligned"])
def test_a_launch_finds_what_was_compiled_before(partial: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """A program compiled for an architecture by name has the same place in triton's cache as one that a launch asks for."""
    (variant,) = [
        one
        for one in soc_convolution.gradient_variants("soc_step_backward")
        if (one.config, one.precision, one.shape) == ("narrow", "ieee", "k = 1, kernel")
    ]
    variant = replace(variant, unaligned=("partial",) if partial == "unaligned" else ())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    made = resources.compiled(variant, "sm_90")
    monkeypatch.setattr(triton.runtime.driver, "_active", H100())
    memory = torch.zeros(64)
    pointers = [memory[:16], memory[16:32], memory[32:] if partial == "aligned" else memory[33:]]
    sizes = (1, 1, 32, 7, 5, 3, 3)  # first, splits, chunk, pixels, channels, height, width
    launched = variant.function.run(
        *pointers, *sizes, grid=(1,), warmup=True, K=1, PRECISION="ieee", EMULATED=False,
        BLOCK_O=32, BLOCK_I=32, BLOCK_P=32, num_warps=variant.warps, num_stages=variant.stages,
    )  # fmt: skip
    assert launched.hash == made.hash


def test_what_other_processes_compiled_is_found_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    few = [one for one in equality.programs(["bjorck"], ["ieee"]) if one.shape == "16 × 16"]
    assert len(few) == 4  # forward and backward, by two or four warps
    assert resources.compile_all(few, "sm_90", processes=2, timeout_s=0) < 4
    assert resources.compile_all(few, "sm_90", processes=2) == 4
    made = {path.name for path in tmp_path.iterdir()}
    for one in few:
        resources.compiled(one, "sm_90")
    assert {path.name for path in tmp_path.iterdir()} == made


def test_what_cannot_be_compiled_before_is_said_and_left_to_the_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    found = equality.compile_before(["aol"], ["ieee"], 1, 10.0)
    assert "unknown architecture: got 'sm_75'" in str(found["raised"])
    assert found["programs"] == 2 * len(aol_bound.CONFIGS) * 3


def test_programs_of_the_checks_are_all_of_the_catalogue_and_unaligned_sums() -> None:
    found = equality.programs(list(HOT_SPOTS), PRECISIONS)
    assert {one.kernel for one in found} == {one.name for one in catalogue.KERNELS}
    unaligned = [one for one in found if one.unaligned]
    assert len(unaligned) == len(PRECISIONS) * len(soc_convolution.GRADIENT_CONFIGS) * 3
    assert len(found) - len(unaligned) == sum(len(list(one.variants())) for one in catalogue.KERNELS)
    assert equality.programs(["aol"], ["tf32"]) == equality.programs(["sll"], ["tf32"])
