"""Counts MACs and stored elements of any layer at chosen sizes on fake tensors, and finds the sizes that a layer accepts.

A training forward pass runs under `FakeTensorMode`: the counts depend on shapes alone, so nothing is computed.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn
from torch._subclasses import fake_tensor

from lipbench import building, errors, origin
from lipbench.cases import LayerSpec
from lipbench.errors import LipbenchError
from lipbench.meters import macs, memory
from lipbench.prediction import fakes

DEFAULTS: dict[str, tuple[int, ...]] = {
    "b": (2, 4, 8),
    "s": (16, 32, 64, 128, 256),
    "c": (8, 16, 32, 64, 128),
    "k": (1, 3, 5, 7, 9, 11),
    "t": (3, 5, 8),
}
"""Default sizes. b, s and c are powers of two, where logarithms are whole numbers and every count is exact."""
PROBES: tuple[dict[str, int], ...] = (
    {"b": 6, "s": 48, "c": 24, "k": 5},
    {"b": 3, "s": 20, "c": 40, "k": 3},
    {"b": 5, "s": 14, "c": 12, "k": 1},
)
"""sizes outside the grid, at which fits are validated"""
OPTIONS = {"b": "--batch-size", "s": "--image-size", "c": "--channels", "k": "--kernel-size"}
_DATA_DEPENDENT = (
    fake_tensor.DataDependentOutputException,
    fake_tensor.DynamicOutputShapeException,
    fake_tensor.UnsupportedFakeTensorException,
    fake_tensor.UnsupportedOperatorException,
)
_FAKE_WORDS = ("fake", "Fake", ".numpy()")
"""words that identify an error of another type as caused by fake tensors"""


class Counter:
    """Counts of one layer by sizes, cached."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.refused: dict[tuple[int, ...], str] = {}
        """(b, s, c, k, t) → why the layer cannot be built or run"""
        self.uncounted: set[str] = set()
        """operations without a formula"""
        self._totals: dict[tuple[int, ...], tuple[int, int] | None] = {}
        self._layers: dict[tuple[int, int, int], nn.Module] = {}  # all are kept: fake tensors take no memory
        self._mode = fake_tensor.FakeTensorMode(allow_non_fake_inputs=True)

    def totals(self, b: int, s: int, c: int, k: int, t: int = 0) -> tuple[int, int] | None:
        """Real MACs and stored elements of a training forward pass; None where the layer refuses the sizes.

        In the order of `theory.QUANTITIES`. `t` is set as the layer's number of iterations, unless 0. Raises `LipbenchError`
        where the layer cannot run on fake tensors.
        """
        key = (b, s, c, k, t)
        if key not in self._totals:
            try:
                self._totals[key] = self._count(b, s, c, k, t)
            except _DATA_DEPENDENT as error:
                raise errors.needs_values(self.method, _first_line(error)) from error
            except Exception as error:  # an external layer may raise anything
                if isinstance(error, LipbenchError) and not isinstance(error, errors.UnsupportedError):
                    raise
                if any(word in str(error) for word in _FAKE_WORDS):
                    raise errors.needs_values(self.method, _first_line(error)) from error
                self.refused[key] = _first_line(error)
                self._totals[key] = None
        return self._totals[key]

    def iterations(self, s: int, c: int, k: int) -> int:
        """The layer's number of iterations: its attribute `iterations` if that is an integer, else 0."""
        found = vars(self._layer(s, c, k)).get("iterations", 0)
        return found if isinstance(found, int) and not isinstance(found, bool) else 0

    def _count(self, b: int, s: int, c: int, k: int, t: int) -> tuple[int, int]:
        layer = self._layer(s, c, k)
        if t:
            layer.__dict__["iterations"] = t
        counted: list[macs.Counted] = []
        with self._mode, torch.enable_grad(), _silence():
            spec = LayerSpec(self.method, c, s, k)
            x = torch.empty(b, *building.input_shape(spec, layer), requires_grad=True)
            given = x.clone()  # which the layer may change in place; its graph keeps nothing
            elements = memory.saved_elements(lambda: counted.append(macs.count(lambda: building.output_of(spec, layer, given))))
        self.uncounted |= set(counted[0].unsupported)
        return counted[0].total, elements

    def _layer(self, s: int, c: int, k: int) -> nn.Module:
        if (s, c, k) not in self._layers:
            with _silence():
                self._layers[s, c, k] = fakes.build(LayerSpec(self.method, c, s, k), self._mode).train()
        return self._layers[s, c, k]


@contextmanager
def _silence() -> Iterator[None]:
    """Silence PyTorch's log of a traceback for shapes that do not fit: here this is an expected result."""
    log = logging.getLogger(fake_tensor.__name__)
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def _first_line(error: Exception) -> str:
    line = str(error).partition("\n")[0] if isinstance(error, LipbenchError) else origin.described(error)
    return line.rstrip(".")


# ------------------------------------------------------------------------------------------------------------ what to vary


@dataclass(frozen=True)
class Plan:
    """Sizes that a layer accepts."""

    axes: Mapping[str, tuple[int, ...]]
    """s, c, k, and t where there are iterations: values of the grid"""
    batch_sizes: tuple[int, ...]
    """at least two; fits use the first two"""
    probes: tuple[dict[str, int], ...]
    """sizes at which fits are validated"""
    left_out: tuple[str, ...]
    """sizes that the layer refuses, and why, one line per axis"""


def plan(counter: Counter, given: Mapping[str, tuple[int, ...]]) -> Plan:
    """Find one combination of sizes that works, then the values of each axis that work with it."""
    wanted = {**{symbol: DEFAULTS[symbol] for symbol in OPTIONS}, **given}
    if len(wanted["b"]) < 2:
        raise errors.too_few_sizes(counter.method, OPTIONS["b"], wanted["b"][0], "a slope needs two")
    start = _start(counter, wanted)
    own = counter.iterations(start["s"], start["c"], start["k"])
    if own:
        start["t"] = DEFAULTS["t"][0]
    taken = {symbol: _taken(counter, start, symbol, wanted[symbol]) for symbol in OPTIONS}
    left_out = tuple(_left_out(counter, start, wanted, taken))
    axes = {symbol: taken[symbol] for symbol in "sck"}
    if own:
        axes["t"] = DEFAULTS["t"]
    probes = _probes(taken, {symbol for symbol in OPTIONS if symbol not in given}, own)
    each_once = {tuple(probe.items()): probe for probe in probes}
    return Plan(axes, taken["b"], tuple(each_once.values()), left_out)


def _start(counter: Counter, wanted: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Sizes that work: preferably a kernel larger than 1 × 1, then the fewest channels and the largest image."""
    kernels = sorted(wanted["k"], key=lambda k: (k == 1, k))
    for k, c, s in itertools.product(kernels, sorted(wanted["c"]), sorted(wanted["s"], reverse=True)):
        for b in wanted["b"]:
            if counter.totals(b, s, c, k) is not None:
                return {"b": b, "s": s, "c": c, "k": k}
    raise errors.refuses_all(counter.method, next(iter(counter.refused.values())))


def _taken(counter: Counter, start: Mapping[str, int], symbol: str, values: Sequence[int]) -> tuple[int, ...]:
    return tuple(value for value in values if counter.totals(**{**start, symbol: value}) is not None)


def _left_out(
    counter: Counter, start: Mapping[str, int], wanted: Mapping[str, Sequence[int]], taken: Mapping[str, Sequence[int]]
) -> Iterator[str]:
    """Refused sizes, one line per axis. Raises `LipbenchError` if fewer than two values of an axis other than k remain."""
    for symbol, option in OPTIONS.items():
        refused = [value for value in wanted[symbol] if value not in taken[symbol]]
        if not refused:
            continue
        at = {**start, symbol: refused[0]}
        why = counter.refused[at["b"], at["s"], at["c"], at["k"], at.get("t", 0)]
        if symbol != "k" and len(taken[symbol]) < 2:
            raise errors.too_few_sizes(counter.method, option, ", ".join(map(str, taken[symbol])), why)
        yield f"without {option[2:].replace('-', ' ')} {', '.join(map(str, refused))} ({why})"


def _probes(taken: Mapping[str, Sequence[int]], free: set[str], iterations: int) -> Iterator[dict[str, int]]:
    """Combinations of sizes to validate a fit: mixtures of grid values, also with the values of `PROBES` on `free` axes."""
    t = {"t": iterations} if iterations else {}
    for index, probe in enumerate(PROBES):
        mixed = {
            "b": taken["b"][1 + index % (len(taken["b"]) - 1)],
            "s": taken["s"][index % len(taken["s"])],
            "c": taken["c"][-1 - index % len(taken["c"])],
            "k": taken["k"][(index + 1) % len(taken["k"])],
        }
        yield {**mixed, **t}
        chosen = {symbol for symbol in free if len(taken[symbol]) > 1}
        yield {**mixed, **{symbol: probe[symbol] for symbol in chosen}, **t}
    if taken["k"][0] == 1:
        yield {**mixed, "k": 1, **t}
