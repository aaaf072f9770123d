"""Peaks at every batch size from two runs, and what a table needs of a prediction: the same bytes as whole predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import CHANNELS, EXHAUSTIVE, IMAGE_SIZE, Variant
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from lipbench import registry
from lipbench.cases import Case, LayerSpec, NetworkSpec, Spec
from lipbench.meters import live
from lipbench.meters import memory as memory_meter
from lipbench.prediction import growth, largest, memory
from lipbench.prediction.repeats import Repeats
from lipbench.workload import Workload

pytestmark = pytest.mark.usefixtures("quick_collections")

BATCHES = (2, 3, 96, 1000) if EXHAUSTIVE else (2, 1000)


def spec_of(variant: Variant) -> LayerSpec:
    return LayerSpec(variant.method.name, 4, 6, 3, variant.implementation)


def grown(spec: Spec, what: str) -> tuple[growth.Growth, growth.Growth]:
    """From a run on meta tensors and one on fake tensors, and guessed from the first of them."""
    case, runs = Case(spec, growth.SMALLEST, device="cuda"), []
    for tensors, batch in ((memory.outlined, growth.FIRST), (memory.imagined, 31)):
        with tensors(case) as workload:
            memory_meter.give_optimizer_state(workload)
            runs.append(growth.run(workload, what, batch))
    one, other = runs
    assert one is not None
    assert other is not None
    found = growth.between(one, other)
    assert found is not None
    return found, growth.guess(one)


@pytest.mark.parametrize("what", growth.PHASES)
def test_the_peak_of_every_batch_is_that_of_a_whole_prediction(variant: Variant, what: str) -> None:
    found, guessed = grown(spec_of(variant), what)
    for batch in BATCHES:
        expected = largest.PEAKS[what](memory.memory(Case(spec_of(variant), batch, device="cuda")))
        assert found.peak(batch) == expected, batch
        assert guessed.peak(batch) == expected, batch


def test_networks_grow_alike() -> None:
    spec = NetworkSpec("standard", "XS", image_size=8)
    whole = memory.memory(Case(spec, 5, device="cuda"))
    for what, peak in largest.PEAKS.items():
        assert grown(spec, what)[0].peak(5) == peak(whole)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_table_shows_the_numbers_of_whole_predictions(variant: Variant, device: str) -> None:
    case = Case(spec_of(variant), 3, device=device)
    found, whole = memory.decisive(case), memory.memory(case)
    assert found == replace(
        whole, peaks={phase: whole.peaks[phase] for phase in (*memory.TRAINING, *memory.INFERENCE)}, gradient_bytes=None,
        optimizer_bytes=None, saved_per_image_bytes=None, saved_constant_bytes=None,
    )  # fmt: skip


@pytest.mark.parametrize("method", ["standard", "lot"])
@pytest.mark.parametrize("limit", [1, 30_000, 100_000, 10**7])
def test_fits_answers_as_with_whole_predictions(method: str, limit: int) -> None:
    case = Case(LayerSpec(method, 4, 6), 1, device="cuda")
    frame, problems = largest.table([case], limit)
    assert problems == []
    row = frame.iloc[0]
    for what in largest.PEAKS:
        expected = largest._by_predictions(case, what, limit, {})
        assert expected is not None
        assert (row[f"{what}_batch"], row[f"{what}_peak_bytes"]) == (expected.batch, expected.peak_bytes)
    assert row["parameters_bytes"] == 4 * sum(one.numel() for one in registry.build(case.spec).parameters())


def test_runs_that_are_not_alike_give_no_lines() -> None:
    events = np.array([1, 0, -1])
    one = growth.Run(10, events, np.array([100]))
    assert growth.between(one, growth.Run(20, np.array([1, 0]), np.array([200]))) is None
    assert growth.between(one, growth.Run(20, events, np.array([205]))) is None  # half a byte for an image
    assert growth.between(one, growth.Run(20, events, np.array([90]))) is None  # shrinks
    assert growth.between(one, growth.Run(20, events, np.array([400]))) is None  # grows with the square
    found = growth.between(one, growth.Run(20, events, np.array([150])))
    assert found is not None
    assert [found.peak(batch) for batch in (0, 92, 93)] == [512, 512, 1024]


def test_sizes_of_a_method_share_the_second_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[str, int]] = []
    run = growth.run

    def counted(workload: Workload, what: str, batch_size: int) -> growth.Run | None:
        ran.append((what, batch_size))
        return run(workload, what, batch_size)

    monkeypatch.setattr(growth, "run", counted)
    cases = [Case(LayerSpec(method, channels, 6), 1, device="cuda") for method in ("aol", "soc") for channels in (4, 8)]
    together, _ = largest.table(cases, 10**7)
    assert [what for what, _ in ran] == 6 * ["training", "inference"]
    alone = [largest.table([case], 10**7)[0] for case in cases]
    pd.testing.assert_frame_equal(together, pd.concat(alone, ignore_index=True))


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_equal_halves_are_run_once_and_take_the_same(variant: Variant, device: str, calls: list[int]) -> None:
    tracked, ran = [], []
    for once in (False, True):
        with FakeTensorMode():
            layers = [variant.build(dtype=torch.float32, disturbed=False).eval() for _ in range(3)]
            x = torch.empty(2, CHANNELS, IMAGE_SIZE, IMAGE_SIZE)
            held = [x, *(one for layer in layers for one in (*layer.parameters(), *layer.buffers()))]
            tracker, run = live.LiveStorages(*memory.allocator(device)), partial(outputs, layers, x)
            calls.clear()
            with torch.inference_mode(), Repeats(layers if once else [], tracker):
                tracked.append(live.peaks_by(tracker, [(phase, lambda: None, run) for phase in ("cold", "warm")], held))
            ran.append(len(calls))
    assert tracked[0] == tracked[1]
    assert ran == [3, 1 if variant.method.name != "standard" else ran[1]]


def outputs(layers: Sequence[nn.Module], x: torch.Tensor) -> list[torch.Tensor]:
    return [layer(x) for layer in layers]
