"""Formulas that ship with the package are what counting finds now, and what the exact formulas say."""

from __future__ import annotations

import pandas as pd
import pytest
import samples

from lipbench import registry, theory
from lipbench.analysis import beside
from lipbench.cases import Case, LayerSpec
from lipbench.prediction import complexity
from lipbench.store.rounds import Record

UNSEEN = ({"b": 7, "s": 30, "c": 10, "k": 3}, {"b": 5, "s": 18, "c": 6, "k": 1}, {"b": 3, "s": 42, "c": 26, "k": 5})


@pytest.mark.parametrize("method", ["standard", "aol", "cpl", "sll"])
def test_shipped_formulas_are_those_that_are_found(method: str) -> None:
    assert beside.shipped()[method] == complexity.fit_layer(method)


@pytest.mark.parametrize("method", sorted(beside.shipped()))
def test_shipped_formulas_equal_the_exact_ones(method: str) -> None:
    """Which other tests hold against counts. Run `tests/fits.py` where this fails."""
    entry = registry.METHODS[method]
    for row in beside.shipped()[method]:
        exact = getattr(getattr(entry.implementations["paper"].exact, row.half), row.quantity)
        for sizes in UNSEEN:
            if method == "eco" and sizes["k"] > 3:
                continue
            found = row.at_kernel_1 if row.at_kernel_1 is not None and sizes["k"] == 1 else row.sum
            expected = theory.evaluate(exact, **sizes, **entry.iterations)
            value = theory.evaluate(found, **sizes, **entry.iterations)
            assert value == (pytest.approx(expected, rel=1e-5) if method == "eco" else expected), (
                row.half,
                row.quantity,
                sizes,
            )


def test_sizes_that_no_tensor_has_are_not_predicted() -> None:
    vast = [Case(LayerSpec("standard", 2**16, 2**12), 2**16), Case(LayerSpec("cayley", 2**16, 2**12), 2**16)]
    step = {"step": samples.timing(0.1)}
    found = beside.estimate([], [Record(case, 1, (samples.ok(step),)) for case in vast])
    assert found.predicted.empty
    assert [case.id in problem for case, problem in zip(vast, found.problems, strict=True)] == [True, True]


def test_what_does_not_ship_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "shipped", dict)
    counted = beside.estimate(["standard", "aol"], []).fitted
    monkeypatch.undo()
    assert list(counted["method"].unique()) == ["standard", "aol"]
    pd.testing.assert_frame_equal(counted, beside.estimate(["standard", "aol"], []).fitted)
