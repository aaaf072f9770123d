"""The formulas: against the published table, against what the meters count, and against the frozen yardstick."""

from __future__ import annotations

from importlib.resources import files

import pandas as pd
import pytest
import sympy
import torch
import yardstick

from lipbench import registry, theory
from lipbench.meters import macs, saved

PUBLISHED = pd.read_csv(str(files("lipbench.published") / "complexity.csv"), keep_default_na=False).set_index("layer")
SAMPLES = [(method, *shape) for method in registry.METHODS for shape in yardstick.SHAPES if yardstick.takes(method, *shape)]


def _values(method: str, batch_size: int, image_size: int, kernel_size: int, channels: int) -> dict[str, int]:
    return {"b": batch_size, "s": image_size, "k": kernel_size, "c": channels, **registry.METHODS[method].iterations}


@pytest.mark.parametrize("title", PUBLISHED.index)
def test_published_formulas_are_those_of_table_1(title: str) -> None:
    method = next(method for method in registry.METHODS.values() if method.title == title)
    row, published = PUBLISHED.loc[title], method.published
    assert published is not None
    assert method.published_operations == (row["input_operations"], row["parameter_operations"])
    for half, cost in (("input", published.input), ("parameter", published.parameters)):
        assert sympy.expand(cost.macs - theory.parse(row[f"{half}_macs"])) == 0
        assert sympy.expand(cost.memory - theory.parse(row[f"{half}_memory_elements"])) == 0


@pytest.mark.parametrize(("method", "batch_size", "image_size", "kernel_size", "channels"), SAMPLES)
def test_exact_formulas_equal_what_is_counted(
    method: str, batch_size: int, image_size: int, kernel_size: int, channels: int
) -> None:
    exact, values = (
        registry.implementation(method, "paper").exact,
        _values(method, batch_size, image_size, kernel_size, channels),
    )
    layer = yardstick.build(method, channels, kernel_size, image_size)
    x = torch.randn(batch_size, channels, image_size, image_size, requires_grad=True)
    expected_macs = tuple(theory.evaluate(half.macs, **values) for half in (exact.input, exact.parameters))
    expected_elements = tuple(theory.evaluate(half.memory, **values) for half in (exact.input, exact.parameters))
    assert yardstick.counted_macs(layer, x) == expected_macs
    assert yardstick.stored_elements(layer, x) == expected_elements


@pytest.mark.parametrize(("method", "batch_size", "image_size", "kernel_size", "channels"), SAMPLES)
def test_exact_formulas_of_the_backward_pass_equal_what_is_counted(
    method: str, batch_size: int, image_size: int, kernel_size: int, channels: int
) -> None:
    exact, values = (
        registry.implementation(method, "paper").exact,
        _values(method, batch_size, image_size, kernel_size, channels),
    )
    layer = yardstick.build(method, channels, kernel_size, image_size)
    x = torch.randn(batch_size, channels, image_size, image_size, requires_grad=True)
    expected = tuple(theory.evaluate(half.backward, **values) for half in (exact.input, exact.parameters))
    assert yardstick.backward_macs(layer, x) == expected
    output = layer(x)
    whole = macs.count(lambda: output.backward(torch.ones_like(output)))
    assert whole.total == theory.evaluate(exact.input.backward + exact.parameters.backward, **values)


@pytest.mark.parametrize("method", [name for name, method in registry.METHODS.items() if method.head])
def test_exact_formulas_of_heads_equal_what_is_counted(method: str) -> None:
    head, values = registry.METHODS[method].head, {"b": 3, "c": 8, **registry.METHODS[method].iterations}
    assert head is not None
    layer, x = head.layer(8, 8), torch.randn(3, 8, requires_grad=True)
    effective = layer.parameter_half(1)
    assert macs.count(lambda: layer.transform_input(x, *effective)).total == theory.evaluate(head.exact.input.macs, **values)
    assert macs.count(lambda: layer.parameter_half(1)).total == theory.evaluate(head.exact.parameters.macs, **values)
    elements = theory.evaluate(head.exact.input.memory + head.exact.parameters.memory, **values)
    assert saved.saved_elements(lambda: layer(x)) == elements
    backward = tuple(theory.evaluate(half.backward, **values) for half in (head.exact.input, head.exact.parameters))
    assert yardstick.backward_macs(layer, x) == backward


def test_yardstick_is_frozen() -> None:
    pd.testing.assert_frame_equal(yardstick.rows(), pd.read_csv(yardstick.TABLE))


def test_exponents_are_those_of_the_leading_term() -> None:
    lot = registry.METHODS["lot"].published
    assert lot is not None
    assert theory.exponent(lot.parameters.macs, theory.c) == 3
    assert theory.exponent(lot.parameters.macs, theory.s) == 2
    assert theory.exponent(lot.parameters.macs, theory.b) == 0
    assert theory.exponent(theory.C + theory.P, theory.k) == 2
    eco = registry.implementation("eco", "paper").exact
    assert [theory.exponent(eco.input.memory, symbol) for symbol in (theory.b, theory.c, theory.s)] == [1, 1, 2]
    assert theory.exponent(eco.parameters.macs, theory.c) == 3


def test_a_missing_size_is_named() -> None:
    with pytest.raises(ValueError, match="no value for b, k"):
        theory.evaluate(theory.C, s=3, c=2)
