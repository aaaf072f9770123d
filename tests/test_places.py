"""Which part of a module is at work: its MACs, its memory and its time go to it, in forward and backward passes."""

from __future__ import annotations

import itertools
import time

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from lipbench import registry
from lipbench.cases import NetworkSpec
from lipbench.meters import macs, part_times, saved
from lipbench.meters.history import BEFORE, History
from lipbench.meters.places import BETWEEN, Places, parts

FIRST, SECOND = 2 * 3 * 5, 2 * 5 * 4
"""MACs of the forward passes of the layers of `chain` for two inputs"""


def chain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Sequential(nn.Linear(5, 4)))


class Residual(nn.Module):
    """A part and an operation outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.same = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.same(self.inner(x @ x.T @ x))


def test_the_parts_of_the_papers_network_are_its_layers() -> None:
    found = dict(parts(registry.build(NetworkSpec("aol", "XS", image_size=8))))
    names = [type(one).__name__ for one in found.values()]
    assert names.count("AOLConv2d") == 17  # the first layer, three blocks of five, and the head
    assert names.count("MaxMin") == 16
    assert list(found)[:4] == ["0", "1", "2", "3.0"]


def test_a_layer_is_one_part_whatever_it_consists_of() -> None:
    assert [path for path, _ in parts(parametrizations.spectral_norm(nn.Linear(3, 3, bias=False)))] == ["0"]
    assert [path for path, _ in parts(nn.MultiheadAttention(4, 2))] == ["0"]
    shared = nn.Linear(3, 3)
    assert [path for path, _ in parts(nn.Sequential(shared, nn.Tanh(), shared))] == ["0", "1"]


def test_macs_go_to_the_part_in_both_passes() -> None:
    module, x = chain(), torch.randn(2, 3, requires_grad=True)
    with Places(module) as places:
        counted = macs.count(lambda: module(x).sum().backward(), places.now)
    assert counted.by_place == {"0": 3 * FIRST, "2.0": 3 * SECOND}
    assert places.sizes["2.0"] == ("5", "4")
    assert places.now() == BETWEEN
    assert macs.count(lambda: module(x)).by_place == {}
    assert not any(one._forward_hooks or one._forward_pre_hooks for one in module.modules())


def test_what_runs_outside_all_parts_is_between() -> None:
    module, x = Residual(), torch.randn(4, 4, requires_grad=True)
    with Places(module) as places:
        counted = macs.count(lambda: module(x).sum().backward(), places.now)
    assert counted.by_place == {BETWEEN: 6 * 64, "inner": 3 * 64}


def test_saved_bytes_go_to_the_part_that_keeps_them() -> None:
    module, x = chain(), torch.randn(2, 3, requires_grad=True)
    with Places(module) as places:
        found = saved.saved_by_place(lambda: module(x), places)
    assert sum(found.values()) == saved.saved_bytes(lambda: module(x))
    assert found["1"] == 2 * 5 * 4  # the result of tanh, which the layer behind keeps too


def test_the_history_names_what_is_held_at_the_peak() -> None:
    module, x = chain(), torch.randn(2, 3)
    with Places(module) as places:
        tracker = History(places.now)
        tracker.hold(x, "input", BETWEEN)
        tracker.phase = "forward"
        with tracker:
            tracker.reset_peak()
            output = module(x)
    held = [(one.phase, one.place, one.made_by, one.shape, one.size_bytes) for one in tracker.at_peak()]
    assert (
        held
        == [
            (BEFORE, BETWEEN, "input", "2 × 3", 24),
            ("forward", "0", "aten.addmm", "2 × 5", 40),
            ("forward", "1", "aten.tanh", "2 × 5", 40),
            ("forward", "2.0", "aten.addmm", "2 × 4", 32),
        ][: len(held)]
    )
    assert sum(one.size_bytes for one in tracker.at_peak()) == tracker.peak
    assert max(one.reached_bytes for one in tracker.moments) == tracker.peak
    assert tracker.moments[-1].in_use_bytes == tracker.in_use
    del output


def test_freed_and_resized_storages_leave_the_history() -> None:
    tracker = History(lambda: BETWEEN)
    with tracker:
        first = torch.zeros(100) + 1
        del first
        second = torch.zeros(25)
        second.resize_(200)
    assert tracker.peak == 800
    assert [one.size_bytes for one in tracker.at_peak()] in ([400, 400], [800])
    assert sum(one.size_bytes for one in tracker.at_peak()) == tracker.peak
    assert tracker.in_use == 800


@pytest.fixture
def ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that goes on by a second at every reading."""
    count = itertools.count(step=10**9)
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(count))


@pytest.mark.usefixtures("ticks")
def test_every_moment_of_a_step_belongs_to_one_part() -> None:
    module, x = chain(), torch.randn(2, 3, requires_grad=True)
    outputs: list[Tensor] = []
    phases = {"forward": lambda: outputs.append(module(x).sum()), "backward": lambda: outputs[0].backward()}
    with part_times.Stopwatch(module, "cpu") as stopwatch:
        found = stopwatch.time(phases)
    assert set(found) == {(phase, path) for phase in phases for path in ("0", "1", "2.0", BETWEEN)}
    assert {key: value for key, value in found.items() if key[1]} == dict.fromkeys([k for k in found if k[1]], 1.0)
    with part_times.Stopwatch(module, "cpu") as stopwatch, torch.inference_mode():
        found = stopwatch.time({"inference": lambda: module(x)})
    assert set(found) == {("inference", path) for path in ("0", "1", "2.0", BETWEEN)}


@pytest.mark.usefixtures("ticks")
def test_a_part_that_passes_its_input_on_does_not_take_the_time_of_another() -> None:
    module, x = Residual(), torch.randn(4, 4, requires_grad=True)
    outputs: list[Tensor] = []
    with part_times.Stopwatch(module, "cpu") as stopwatch:
        found = stopwatch.time({"forward": lambda: outputs.append(module(x)), "backward": lambda: outputs[0].sum().backward()})
    assert set(found) == {
        ("forward", "inner"),
        ("forward", "same"),
        ("forward", BETWEEN),
        ("backward", "inner"),
        ("backward", BETWEEN),
    }


def test_times_are_measured_with_and_without_clocks() -> None:
    module, x = chain(), torch.randn(2, 3)
    prepared: list[None] = []
    found = part_times.measure(
        module, {"inference": lambda: module(x)}, lambda: prepared.append(None), device="cpu", threads=1, limit_s=0.01
    )
    assert found.turns >= 1
    assert len(prepared) == 1 + 2 * found.turns
    assert set(found.parts_s) == {("inference", path) for path in ("0", "1", "2.0", BETWEEN)}
    assert found.whole_s.keys() == {"inference"}
    assert min(*found.parts_s.values(), *found.whole_s.values()) > 0
