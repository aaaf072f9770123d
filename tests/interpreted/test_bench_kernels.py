"""`python -m bench.kernels` at tiny sizes in the interpreter: every configuration is met, and what is wrong is named."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
import torch
from lipbench_kernels import launching, soc_convolution
from torch import Tensor

from bench import equality, hot_spots, kernel_times, kernels
from bench.hot_spots import HOT_SPOTS


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    with pytest.raises(SystemExit) as ended:
        kernels.main(arguments)
    assert isinstance(ended.value.code, int)
    return ended.value.code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_every_configuration_of_a_hot_spot_is_met_in_every_precision(capsys: pytest.CaptureFixture[str]) -> None:
    code, (*lines, last) = run(capsys, "--check", "--hot-spot", "soc-step", "--precision", "ieee,tf32")
    assert code == 0
    for precision in ("ieee", "tf32"):
        met = {pair for line in lines if line["precision"] == precision for pair in line["configs"].items()}
        assert met == {("soc_convolution.step", name) for name in soc_convolution.STEP_CONFIGS} | {
            ("soc_convolution.gradient", name) for name in soc_convolution.GRADIENT_CONFIGS
        }
    assert all(line["equal"] and len(line["errors"]) == 4 for line in lines)
    assert last == {"checked": 12, "of": last["of"], "lines": 6, "wrong": 0, "left_at_the_deadline": 0}
    assert last["of"] == 2 * sum(len(configs) for configs in launching.configurations().values())


def test_one_wrong_configuration_is_found_and_repeated_at_the_end(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The one that tuning would not have chosen; and one that raises."""

    def faulty(precision: str, kernel: Tensor) -> Tensor:
        serves = launching._OVERRIDES[-1][0](next(one for one in launching._TUNED if one.name == "aol_bound.correlate"))
        if serves == "large":
            raise RuntimeError("an illegal memory access\nwas encountered")
        return HOT_SPOTS["aol"].fused(precision, kernel) * (1.001 if serves == "medium" else 1)

    monkeypatch.setattr(equality, "HOT_SPOTS", {"aol": replace(HOT_SPOTS["aol"], fused=faulty)})
    code, lines = run(capsys, "--check", "--hot-spot", "aol", "--precision", "ieee")
    assert code == 1
    assert [line["equal"] for line in lines if "equal" in line] == [True, True, False, False]
    (medium, large) = [line["wrong"] for line in lines if "wrong" in line and "checked" not in line]
    assert medium["configs"]["aol_bound.correlate"] == "medium"
    assert medium["errors"][0] > medium["allowed"][0]
    assert large["raised"] == "RuntimeError: an illegal memory access was encountered"
    assert (lines[-1]["wrong"], lines[-1]["checked"]) == (2, 6)


def test_nothing_is_begun_after_the_deadline(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "--check", "--deadline", "-1")
    assert code == 0
    (last,) = lines
    assert (last["checked"], last["lines"]) == (0, 0)
    assert last["left_at_the_deadline"] == 3 * sum(len(few) for few in equality.TINY.values())


def test_times_of_the_interpreter_are_none(capsys: pytest.CaptureFixture[str]) -> None:
    code, lines = run(capsys, "--time", "--hot-spot", "aol,bjorck", "--shapes", "3x3x1", "--precision", "ieee")
    assert code == 0
    assert [line["hot_spot"] for line in lines] == ["aol", "bjorck"]
    for line in lines:
        assert line["timing"] == "interpreted, not a timing"
        assert line["equal"]
        assert not [name for name in line if name.endswith("_s") and name != "tuning_s"]
    assert {"narrow"} == {name for key, name in lines[0]["chosen"].items() if key.startswith("aol_bound")}


@pytest.mark.parametrize("name", ["soc", "bjorck"])
def test_the_forward_pass_that_is_timed_keeps_what_the_count_has(name: str) -> None:
    """A graph's worth of iterates: without one, kernels keep nothing, and move less than is counted."""
    spot, (shape, *_) = HOT_SPOTS[name], equality.TINY[name]
    inputs = [equality.single(tensor, "cpu") for tensor in spot.inputs(shape)]
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda one: kept.append(one.numel()) or one, lambda one: one):
        output = kernel_times.both(spot, inputs, "ieee")["fused"]["forward"]()
    assert isinstance(output, Tensor)
    assert output.requires_grad
    steps = {"soc": hot_spots.TERMS, "bjorck": hot_spots.BJORCK_ITERATIONS}[name]
    assert max(kept) >= (steps - 1) * inputs[0].numel()


def test_what_is_timed_comes_in_order_and_once() -> None:
    found = kernel_times.jobs(list(HOT_SPOTS), ("ieee", "tf32x3"))
    assert [(spot.name, shape.channels) for spot, shape, _ in found[:8:2]] == [
        ("aol", 256), ("soc", 256), ("bjorck", 64), ("newton", 32),
    ]  # fmt: skip
    for name in ("aol", "sll", "soc"):
        assert {shape.channels for spot, shape, _ in found if spot.name == name} == {64, 256, 512, 1024}
    keys = [(spot.name, shape, precision) for spot, shape, precision in found]
    assert len(keys) == len(set(keys))
