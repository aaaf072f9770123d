"""Theoretical numbers for a phase of a case: the exact costs of this code, and the leading terms of Table 1."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from fractions import Fraction

import sympy

from lipbench import networks, registry, theory
from lipbench.cases import AUTOCAST, Case, ExternalNetworkSpec, LayerSpec, NetworkSpec
from lipbench.layers.base import Method
from lipbench.theory import HALVES, Complexity


def expected(case: Case, phase: str) -> dict[str, float]:
    """Theoretical costs of one phase of a case; NaN where there is no formula.

    `theory_*` are the exact costs of the case's implementation; `published_*` are the leading terms of Table 1, where a complex
    number counts as one. MACs exist for forward, parametrize and inference; exact ones also for backward and step (an update
    has none). Elements are those kept for the backward pass, for forward and step. A network's MACs are the sum over its
    layers; no formula covers what its activations keep, so its elements are NaN. None covers autocast, where the
    numbers kept have two sizes. Table 1 does not cover what recomputation keeps.
    """
    nothing = dict.fromkeys(("theory_macs", "theory_memory_elements", "published_macs", "published_memory_elements"), math.nan)
    method = registry.methods().get(case.spec.method)
    if method is None or isinstance(case.spec, ExternalNetworkSpec):
        return nothing
    found: dict[str, float] = {}
    exact = method.costs(case.spec.implementation, recompute=case.recompute)
    if exact is not None:
        found |= _numbers("theory", case, phase, method, exact)
    if method.published is not None:
        found |= _numbers("published", case, phase, method, method.published)
    if case.recompute:
        found["published_memory_elements"] = math.nan
    return {**nothing, **found}


_MAC_HALVES = {"forward": HALVES, "backward": HALVES, "step": HALVES, "parametrize": ("parameters",), "inference": ("input",)}
"""phase → halves of its MACs. Evaluation may compute its parameters differently, so first_inference has no formula."""
_MAC_PASSES = {"backward": ("backward",), "step": ("macs", "backward")}
"""phase → fields of `Cost` that add up to its MACs; default: the forward pass alone"""
_MEMORY_PHASES = ("forward", "step")


def _numbers(convention: str, case: Case, phase: str, method: Method, complexity: Complexity) -> dict[str, float]:
    iterations = {**method.iterations, **(method.evaluation_iterations if phase == "inference" else {})}
    found: dict[str, float] = {}
    terms = [
        (getattr(getattr(layer, half), name), sizes)
        for layer, sizes in _layers(case, method, complexity)
        for half in _MAC_HALVES.get(phase, ())
        for name in _MAC_PASSES.get(phase, ("macs",))
    ]
    if terms and all(expression is not None for expression, _ in terms):
        found[f"{convention}_macs"] = round(math.fsum(_evaluate(expression, sizes, iterations) for expression, sizes in terms))
    if phase in _MEMORY_PHASES and isinstance(case.spec, LayerSpec) and case.precision not in AUTOCAST:
        elements = complexity.input.memory + complexity.parameters.memory
        found[f"{convention}_memory_elements"] = round(_evaluate(elements, _sizes(case, case.spec), iterations))
    return found


def _evaluate(expression: sympy.Expr, sizes: Mapping[str, int], iterations: Mapping[str, int]) -> Fraction:
    needed = _symbols(expression)
    return _evaluate_once(expression, tuple((name, size) for name, size in {**sizes, **iterations}.items() if name in needed))


@functools.cache
def _symbols(expression: sympy.Expr) -> frozenset[str]:
    """The names of the sizes that an expression depends on: the parameter half is evaluated once for all batch sizes."""
    names = {str(symbol) for symbol in sympy.sympify(expression).free_symbols}
    return frozenset(names | {"s", "k"} if "n" in names else names)


@functools.lru_cache(maxsize=4096)  # a network repeats its layers, and a run its cases
def _evaluate_once(expression: sympy.Expr, values: tuple[tuple[str, int], ...]) -> Fraction:
    return theory.evaluate_unrounded(expression, **dict(values))


def _layers(case: Case, method: Method, complexity: Complexity) -> Iterator[tuple[Complexity, dict[str, int]]]:
    """The formulas and sizes of each layer of a case."""
    spec = case.spec
    if isinstance(spec, LayerSpec):
        yield complexity, _sizes(case, spec)
        return
    assert isinstance(spec, NetworkSpec), "no formula is asked for an external network"
    for channels, image_size, kernel_size in networks.convolution_shapes(spec):
        yield complexity, {"b": case.batch_size, "c": channels, "s": image_size, "k": kernel_size}
    yield _head(case, method, complexity), {"b": case.batch_size, "c": networks.head_features(spec), "s": 1, "k": 1}


def _head(case: Case, method: Method, complexity: Complexity) -> Complexity:
    """Costs of a network's head: a linear layer where the method has one, else a 1 × 1 convolution.

    Table 1 has no row for linear layers; their exact cost serves for both conventions, since they have no complex numbers.
    """
    return complexity if method.head is None else method.head.costs(recompute=case.recompute)


def _sizes(case: Case, spec: LayerSpec) -> dict[str, int]:
    return {"b": case.batch_size, "c": spec.channels, "s": spec.image_size, "k": spec.kernel_size}


def leading_exponent(method_name: str, quantity: str, phase: str) -> float:
    """Exponent in c of Table 1's formula for `macs` or `memory`: of one half for parametrize and inference, else of both.

    A backward pass and a training step cost a constant times the forward pass. NaN for a method that is not in Table 1.
    """
    method = registry.methods().get(method_name)
    if method is None or method.published is None:
        return math.nan
    halves = HALVES if phase not in ("parametrize", "inference") else _MAC_HALVES[phase]
    total = sum((getattr(getattr(method.published, half), quantity) for half in halves), sympy.Integer(0))
    return float(theory.exponent(total, theory.c))
