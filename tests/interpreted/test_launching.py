"""Which configuration serves: in the interpreter the first, unless one is asked for; and what is told of it."""

from __future__ import annotations

import pytest
import torch
from lipbench_kernels import aol_bound, launching, soc_series
from torch import Tensor


def gradient(precision: str = "ieee") -> Tensor:
    kernel = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    return torch.autograd.grad(aol_bound.aol_bound(kernel, precision=precision).sum(), kernel)[0]


def test_the_first_configuration_serves_and_is_told() -> None:
    gradient()
    chosen = launching.chosen()
    key = "(outputs=5, inputs=4, K=3, PRECISION=ieee)"
    assert chosen[f"aol_bound.correlate{key}"] == chosen[f"aol_bound.spread{key}"] == "narrow"
    assert set(launching.tuning_s()) == set(chosen)
    assert launching.tuning_s()[f"aol_bound.spread{key}"] == 0


def test_every_turn_uses_other_configurations_and_gives_the_same() -> None:
    expected, seen = gradient(), []
    before = launching.chosen()
    for number in range(5):
        with launching.turn(number) as launched:
            torch.testing.assert_close(gradient(), expected)
        seen.append(launched)
    names = list(aol_bound.CONFIGS)
    assert seen[:4] == [{("aol_bound.correlate", name), ("aol_bound.spread", name)} for name in names]
    assert seen[4] == seen[0]
    assert launching.chosen() == before


def test_one_kernel_uses_the_named_configuration_and_others_choose() -> None:
    """Backward passes too, which PyTorch may run in another thread."""
    images, kernel = torch.randn(2, 3, 3, 3, requires_grad=True), torch.randn(3, 3, 1, 1, requires_grad=True)
    with launching.only({"soc_convolution.gradient": "large"}) as launched:
        soc_series.soc_step(images, images, kernel, 1).sum().backward()
    assert launched == {("soc_convolution.gradient", "large")}
    assert "narrow" in {name for key, name in launching.chosen().items() if key.startswith("soc_convolution.step")}


def test_what_is_not_there_is_named_and_nothing_stays_behind() -> None:
    with (
        pytest.raises(ValueError, match=r"got 'spread'; choose from aol_bound\.correlate"),
        launching.only({"spread": "narrow"}),
    ):
        pass
    with pytest.raises(ValueError, match="got 'huge'; choose from narrow, small"):  # noqa: SIM117
        with launching.only({"aol_bound.correlate": "huge"}):
            gradient()
    with launching.turn(1) as launched:
        gradient()
    assert {name for _, name in launched} == {"small"}
