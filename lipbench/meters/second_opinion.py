"""fvcore's count of a forward pass, from a trace of the module: an independent check of the MACs, in the same conventions.

fvcore calls one multiply-accumulate a "flop". It does not see operations in custom autograd functions, and counts a complex
product as one; this module adds handles for complex products, transforms, inverses and matrix–vector products.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lipbench.meters import formulas, free

# Handles get values of a TorchScript graph; their `.type()` has the sizes and the scalar type of the trace.
Values = list[Any]
Handle = Callable[[Values, Values], float]


def count_fvcore(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int | None, tuple[str, ...]]:
    """Real MACs of `module(*inputs)` by fvcore, and the operations that it did not count; (None, reason) if it fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fvcore uses tracing, which is deprecated
        try:
            return _count(module, inputs)
        except Exception as error:  # a failed check must not fail the measurement
            return None, (f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",)


def _count(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[int, tuple[str, ...]]:
    from fvcore.nn import FlopCountAnalysis

    logging.getLogger("fvcore.nn.jit_analysis").setLevel(logging.ERROR)
    analysis = FlopCountAnalysis(module, inputs).unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    for operation, handle in HANDLES.items():
        analysis.set_op_handle(operation, handle)
    total = round(analysis.total())
    missed = [name for name in analysis.unsupported_ops() if not free.is_free_name(name.partition("::")[2])]
    return total, tuple(sorted(missed))


def _sizes(value: Any) -> list[int]:
    return list(value.type().sizes())


def _is_complex(value: Any) -> bool:
    return "Complex" in str(value.type().scalarType())


def _complex_factor(*values: Any) -> int:
    count = sum(map(_is_complex, values))
    return 1 if count == 0 else 4 if count == len(values) else 2


def _matmul(inputs: Values, outputs: Values) -> float:
    """MACs of a product: every element of the result is a sum over the inner dimension."""
    return _complex_factor(*inputs[:2]) * math.prod(_sizes(outputs[0])) * _sizes(inputs[0])[-1]


def _added_matmul(inputs: Values, outputs: Values) -> float:
    return _matmul(inputs[1:3], outputs)


def _einsum(inputs: Values, outputs: Values) -> float:
    """MACs of an einsum of two operands: one for every combination of indices."""
    equation = inputs[0].toIValue().replace(" ", "")
    operands = list(inputs[1].node().inputs())
    if len(operands) != 2 or "." in equation:
        raise NotImplementedError(f"einsum {equation} of {len(operands)} operands")
    sizes = {
        letter: size
        for letters, operand in zip(equation.split("->")[0].split(","), operands)
        for letter, size in zip(letters, _sizes(operand))
    }
    return _complex_factor(*operands) * math.prod(sizes.values())


def _complex_transform(inputs: Values, outputs: Values) -> float:
    return formulas.fft(_sizes(outputs[0]), _dimensions(inputs), real=False)


def _inverse_real_transform(inputs: Values, outputs: Values) -> float:
    return formulas.fft(_sizes(outputs[0]), _dimensions(inputs), real=True)


def _real_transform(inputs: Values, outputs: Values) -> float:
    """MACs of a real transform. The result has half of the last dimension; other sizes show whether that was even or odd."""
    points, dimensions = _sizes(outputs[0]), _dimensions(inputs)
    last = dimensions[-1]
    possible = (2 * points[last] - 2, 2 * points[last] - 1)
    given = _elements(inputs[1]) or [None]
    clues = (given[-1], _sizes(inputs[0])[last], *(points[dimension] for dimension in dimensions[:-1]))
    points[last] = next(clue for clue in clues if clue in possible)
    return formulas.fft(points, dimensions, real=True)


def _dimensions(inputs: Values) -> list[int]:
    """Transformed dimensions: the given ones, or else as many of the last ones as there are given sizes, or else all."""
    dimensions = _elements(inputs[2])
    if dimensions is None:
        sizes = _elements(inputs[1])
        return list(range(-len(sizes if sizes is not None else _sizes(inputs[0])), 0))
    return [int(dimension) for dimension in dimensions if dimension is not None]


def _elements(value: Any) -> list[int | None] | None:
    """Elements of a list (None for an element that the graph computes), a constant number as a list of one, or None."""
    if value.node().kind() == "prim::ListConstruct":
        return [element.toIValue() for element in value.node().inputs()]
    constant = value.toIValue()
    return [constant] if isinstance(constant, int) else constant


def _inverse(inputs: Values, outputs: Values) -> float:
    sizes = _sizes(inputs[0])
    return _complex_factor(inputs[0]) * math.prod(sizes) * sizes[-1]


def _solve(inputs: Values, outputs: Values) -> float:
    a, solution = _sizes(inputs[0]), _sizes(outputs[0])
    return _complex_factor(inputs[0]) * a[-1] * (math.prod(a) / 3 + math.prod(solution))


HANDLES: dict[str, Handle] = {
    **dict.fromkeys(("aten::matmul", "aten::mm", "aten::bmm", "aten::mv", "aten::dot", "aten::vdot", "aten::linear"), _matmul),
    **dict.fromkeys(("aten::addmm", "aten::baddbmm", "aten::addmv"), _added_matmul),
    "aten::einsum": _einsum,
    **dict.fromkeys(("aten::fft_rfft", "aten::fft_rfft2", "aten::fft_rfftn"), _real_transform),
    **dict.fromkeys(("aten::fft_irfft", "aten::fft_irfft2", "aten::fft_irfftn"), _inverse_real_transform),
    **dict.fromkeys(
        ("aten::fft_fft", "aten::fft_ifft", "aten::fft_fft2", "aten::fft_ifft2", "aten::fft_fftn", "aten::fft_ifftn"),
        _complex_transform,
    ),
    **dict.fromkeys(("aten::linalg_inv", "aten::linalg_inv_ex", "aten::inverse"), _inverse),
    **dict.fromkeys(("aten::linalg_solve", "aten::linalg_solve_ex"), _solve),
    # Not multiply-accumulates, though fvcore gives them a number.
    **dict.fromkeys(("aten::batch_norm", "aten::adaptive_avg_pool2d", "aten::layer_norm"), lambda inputs, outputs: 0.0),
}
