"""Lipschitz constants of single operations that are not affine, in the Euclidean norm, by name of the operation.

Each constant is the largest norm of the Jacobian. "Largest slope" is that of a function that acts on each entry alone. An
operation that is missing, or whose function returns None, has no constant here, because it is unknown or infinite: division and
products of two tensors that depend on the input, exp, pow, sqrt, log, hardshrink, threshold with a jump, GLU, layer and group
norm, rounding and comparisons. `tests/test_composition.py` compares every entry with the largest slope that it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lipbench.composition.graph import Constant, Node, nodes_in

GELU = 0.5 * (1 + math.erf(1)) + math.exp(-1) / math.sqrt(math.pi)
"""Φ(x) + x φ(x) at x = √2, where its derivative (2 − x²) φ(x) is zero: 1.128904"""
GELU_TANH = 1.1289931
"""largest slope of 0.5 x (1 + tanh(√(2/π) (x + 0.044715 x³))), at x = 1.418504: 1.12899307 by search, rounded up"""
SILU = 1.0998394
"""largest slope of x σ(x), where x tanh(x/2) = 2, at x = 2.399357: 1.09983932, rounded up"""
MISH = 1.0884982
"""largest slope of x tanh(log(1 + eˣ)), at x = 1.490571: 1.08849816 by search, rounded up"""
JUMP = 1e-8
"""Largest jump of a function between two pieces that counts as rounding."""


def constant(node: Node) -> float | None:
    """The constant of an operation with respect to all its arguments that depend on the input, as one vector.

    These are the first argument, or the first two of `maximum` and `minimum`; else there is none.
    """
    allowed = {0, 1} if node.name in PAIRS else {0}
    places = {place for place, argument in enumerate(node.args) if nodes_in(argument)}
    if not places <= allowed or nodes_in(node.kwargs) or node.name not in TABLE:
        return None
    return TABLE[node.name](node)


PAIRS = ("maximum", "minimum", "fmax", "fmin")
"""Operations of two tensors. |max(a, b) − max(a', b')| ≤ max(|a − a'|, |b − b'|); (a, b) → (max, min) reorders its arguments,
so that it is 1-Lipschitz too."""


def _given(node: Node, place: int, name: str, default: Any) -> Any:
    """An argument of the operation, by position or by name; its default where it is left out."""
    return node.args[place] if len(node.args) > place else node.kwargs.get(name, default)


def _numbers(value: Any, count: int) -> list[int]:
    """A size for every dimension, from a number or a list of one or `count` numbers."""
    values = list(value) if isinstance(value, list | tuple) else [value]
    return values if len(values) == count else values * count


def _leaky_relu(node: Node) -> float | None:
    return max(1.0, abs(float(_given(node, 1, "negative_slope", 0.01))))


def _elu(node: Node) -> float | None:
    """scale · (x, or α (exp(κ x) − 1) for x < 0): slope scale for x > 0, up to scale |α| κ below. SELU is the case 1.0507,
    1.6733."""
    alpha, scale, input_scale = (_given(node, 1, "alpha", 1), _given(node, 2, "scale", 1), _given(node, 3, "input_scale", 1))
    return None if input_scale < 0 else float(abs(scale) * max(1.0, abs(alpha) * input_scale))


def _celu(node: Node) -> float | None:
    """α (exp(x/α) − 1) below 0: slope exp(x/α) ≤ 1, for positive α."""
    return 1.0 if _given(node, 1, "alpha", 1.0) > 0 else None


def _softplus(node: Node) -> float | None:
    """log(1 + exp(β x)) ÷ β: slope σ(βx) < 1. Above the threshold t PyTorch returns x, with a jump of log(1 + exp(−t)) ÷ β."""
    beta, threshold = _given(node, 1, "beta", 1), _given(node, 2, "threshold", 20)
    return 1.0 if beta > 0 and math.log1p(math.exp(-threshold)) / beta <= JUMP else None


def _threshold(node: Node) -> float | None:
    """x above the threshold t, else a constant v: it jumps unless v = t."""
    return 1.0 if node.args[1] == node.args[2] else None


def _prelu(node: Node) -> float | None:
    weight = node.args[1]
    return max(1.0, float(weight.value.abs().max())) if isinstance(weight, Constant) else None


def _gelu(node: Node) -> float | None:
    return GELU_TANH if _given(node, 1, "approximate", "none") == "tanh" else GELU


def _softmax(node: Node) -> float | None:
    """Jacobian diag(p) − p pᵀ. Its rows have absolute sums 2 pᵢ (1 − pᵢ) ≤ 1/2 (Gershgorin); reached for two halves."""
    return 0.5


def _log_softmax(node: Node) -> float | None:
    """Jacobian I − 1 pᵀ of n entries. The norm is convex in p, hence largest at a corner, where it is √n."""
    size = node.shape[node.args[1]]
    return math.sqrt(size) if size > 1 else 0.0


def _windows(counts: list[int]) -> float:
    """√ of the largest number of windows that share an entry: each window's result changes by at most its largest change, and
    the change of an entry is counted in so many windows."""
    return math.sqrt(math.prod(counts))


def _max_pool(node: Node) -> float | None:
    kernel = node.args[1]
    dimensions = {"max_pool1d": 1, "max_pool3d_with_indices": 3}.get(node.name, 2)
    strides = _given(node, 2, "stride", []) or kernel
    rest = (_given(node, 3, "padding", 0), _given(node, 4, "dilation", 1))
    sizes = (_numbers(value, dimensions) for value in (kernel, strides, *rest))
    ceil = bool(_given(node, 5, "ceil_mode", False))
    return _windows([_shared(*each) for each in zip(node.arguments[0].shape[-dimensions:], *sizes, [ceil] * dimensions)])


def _shared(size: int, kernel: int, stride: int, padding: int = 0, dilation: int = 1, ceil: bool = False) -> int:
    """Largest number of windows that share an entry, in one dimension: at most all of them, and at most as many as the
    positions j d ≤ (k − 1) d in a window that have one remainder modulo the stride."""
    remainders = [place * dilation % stride for place in range(kernel)]
    windows = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1 + ceil
    return min(windows, max(map(remainders.count, remainders)))


def _adaptive_max_pool(node: Node) -> float | None:
    """Window i of o in n entries is ⌊i n ÷ o⌋ … ⌈(i + 1) n ÷ o⌉; windows overlap where o does not divide n."""
    dimensions = {"adaptive_max_pool1d": 1, "adaptive_max_pool3d": 3}.get(node.name, 2)
    outputs = _numbers(node.args[1], dimensions)
    counts = []
    for size, count in zip(node.arguments[0].shape[-dimensions:], outputs):
        spans = [range(i * size // count, -(-(i + 1) * size // count)) for i in range(count)]
        counts.append(max(sum(pixel in span for span in spans) for pixel in range(size)))
    return _windows(counts)


def _lp_pool(node: Node) -> float | None:
    """The p-norm of each window. For even p it changes by at most ‖δ‖_p ≤ ‖δ‖₂. PyTorch keeps the signs of odd powers, so that
    p = 1 is the sum, which changes by at most √entries ‖δ‖₂. Other p, and windows that it scales at the edge, have none."""
    dimensions = int(node.name[len("lp_pool")])
    power, kernel = _given(node, 1, "norm_type", 0), _given(node, 2, "kernel_size", 1)
    kernels = _numbers(kernel, dimensions)
    strides = _numbers(_given(node, 3, "stride", None) or kernel, dimensions)
    if _given(node, 4, "ceil_mode", False) or not (power == 1 or (power >= 2 and power % 2 == 0)):
        return None
    overlap = _windows([_shared(*each) for each in zip(node.arguments[0].shape[-dimensions:], kernels, strides)])
    return overlap * (math.sqrt(math.prod(kernels)) if power == 1 else 1.0)


def _vector_norm(node: Node) -> float | None:
    """‖·‖_p of n entries: 1 for p ≥ 2, else n^(1/p − 1/2), by the triangle inequality and ‖·‖_p ≤ n^(1/p − 1/2) ‖·‖₂."""
    given = _given(node, 1, "ord" if node.name == "linalg_vector_norm" else "p", 2)
    power = 2.0 if given is None else float(given)
    if power < 1:
        return None
    entries = math.prod(node.arguments[0].shape) / max(1, math.prod(node.shape))
    return max(1.0, float(entries ** (1 / power - 0.5)))


def _is(value: float) -> Callable[[Node], float | None]:
    return lambda node: value


TABLE: dict[str, Callable[[Node], float | None]] = {
    # slopes up to 1: piecewise linear functions, …
    **dict.fromkeys((
        "relu", "abs", "hardtanh", "clamp", "clamp_min", "clamp_max", "softshrink",
        # … 1 − tanh², σ, 1/(1 + x²), tanh², 1/(1 + |x|)², cos and others
        "tanh", "log_sigmoid_forward", "atan", "tanhshrink", "softsign", "sin", "cos", "asinh",
    ), _is(1.0)),
    "sigmoid": _is(0.25),  # σ (1 − σ) at 0
    "hardsigmoid": _is(1 / 6),  # (x + 3) ÷ 6 between −3 and 3
    "hardswish": _is(1.5),  # (2 x + 3) ÷ 6 at x = 3
    "erf": _is(2 / math.sqrt(math.pi)),  # 2/√π exp(−x²) at 0
    "silu": _is(SILU), "mish": _is(MISH), "gelu": _gelu,
    "leaky_relu": _leaky_relu, "elu": _elu, "celu": _celu, "softplus": _softplus, "threshold": _threshold,
    "_prelu_kernel": _prelu,
    # order statistics: sorted vectors are no further apart than unsorted ones, and distinct entries of them neither
    **dict.fromkeys(("maximum", "minimum", "fmax", "fmin", "sort", "topk", "kthvalue", "median", "max", "min", "amax", "amin"),
                    _is(1.0)),
    "_softmax": _softmax, "_log_softmax": _log_softmax,
    "logsumexp": _is(1.0),  # its gradient is the softmax, of norm at most 1
    "max_pool1d": _max_pool, "max_pool2d_with_indices": _max_pool, "max_pool3d_with_indices": _max_pool,
    "adaptive_max_pool1d": _adaptive_max_pool, "adaptive_max_pool2d": _adaptive_max_pool,
    "adaptive_max_pool3d": _adaptive_max_pool,
    "lp_pool1d": _lp_pool, "lp_pool2d": _lp_pool, "lp_pool3d": _lp_pool,
    "linalg_vector_norm": _vector_norm, "norm": _vector_norm,
}  # fmt: skip
