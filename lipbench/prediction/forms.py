"""What the time of an operation depends on, for rates that were measured: its form, and its sizes.

`calibration` measures every form on a grid of sizes, which are counts and lengths. Times are interpolated between their
logarithms. An operation without a form has no measured rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

Form = tuple[str, tuple[float, ...]]
"""name of a form, and its sizes in the order of `AXES`"""
AXES: Mapping[str, tuple[str, ...]] = {
    "product": ("matrices", "side"),
    "product of rearranged matrices": ("matrices", "side"),
    "matrix-vector product": ("matrices", "elements"),
    "convolution": ("images", "channels", "side", "kernel"),
    "gradients of a convolution": ("images", "channels", "side", "kernel"),
    "input gradient of a convolution": ("images", "channels", "side", "kernel"),
    "weight gradient of a convolution": ("images", "channels", "side", "kernel"),
    "transposed convolution": ("images", "channels", "side", "kernel"),
    "gradients of a transposed convolution": ("images", "channels", "side", "kernel"),
    "input gradient of a transposed convolution": ("images", "channels", "side", "kernel"),
    "weight gradient of a transposed convolution": ("images", "channels", "side", "kernel"),
    "real transform": ("images", "side"),
    "inverse real transform": ("images", "side"),
    "complex transform": ("images", "side"),
    "inverse real transform of rearranged images": ("images", "side"),
    "complex transform of rearranged images": ("images", "side"),
    "real transform of rearranged images": ("images", "side"),
    "inverse": ("matrices", "side"),
    "solve": ("matrices", "side"),
    "cholesky": ("matrices", "side"),
    "qr": ("matrices", "side"),
    "elementwise": ("bytes",),
    "complex elementwise": ("bytes",),
    "rearrangement": ("bytes", "run"),
    "gradient of a slice": ("bytes",),
    "fill": ("bytes",),
    "reduction": ("bytes",),
    "reduction of some dimensions": ("bytes",),
    "norm": ("bytes",),
    "norm of some dimensions": ("bytes",),
}
"""form → what its sizes are: `side` of square matrices and images, of other shapes the side of those with as many elements;
`run`: bytes that are next to each other in both tensors"""
LONG_RUN_BYTES = 1024
"""from here on, a rearrangement is as fast as an elementwise operation"""
_FILLS = {
    "zeros",
    "zeros_like",
    "zero_",
    "fill_",
    "ones",
    "ones_like",
    "full",
    "full_like",
    "new_zeros",
    "new_ones",
    "new_full",
    "eye",
}


def form_of(
    name: str, kind: str, arguments: Sequence[Any], operands: Sequence[Tensor], made: Sequence[Tensor], moved: int
) -> Form | None:
    """The form of an operation, by its name, its `operations.Kind`, the tensors that it reads and makes, and their bytes."""
    if kind == "product":
        return _product([one for one in operands if one.dim()][-2:])
    if kind == "convolution":
        return _convolution(name, arguments, made)
    if kind == "transform":
        return _transform(name, arguments, made)
    if kind == "factorisation":
        return _factorisation(name, operands)
    if kind in ("kernel", "unknown", "view"):
        return None
    if kind == "reduction":
        whole = all(one.numel() <= 1 for one in made) or made[0].numel() * 8 > operands[0].numel()
        form = "norm" if name == "linalg_vector_norm" else "reduction"
        return (form if whole else f"{form} of some dimensions"), (moved,)
    if name in _FILLS:
        return "fill", (moved,)
    if name == "slice_backward":
        return "gradient of a slice", (moved,)
    return _elementwise([one for one in (*operands, *made) if one.dim()], moved)


def _product(factors: Sequence[Tensor]) -> Form:
    one, other = factors
    inner, columns = one.shape[-1], other.shape[-1] if other.dim() > 1 else 1
    rows = one.shape[-2] if one.dim() > 1 else 1
    matrices = max(1, math.prod(one.shape[:-2]))
    if min(rows, columns) == 1:
        return "matrix-vector product", (matrices, rows * inner * columns)
    form = "product" if matrices == 1 or all(_has_rows_or_columns(one) for one in factors) else "product of rearranged matrices"
    return form, (matrices, (rows * inner * columns) ** (1 / 3))


def _has_rows_or_columns(factor: Tensor) -> bool:
    """Whether the elements of each row, or of each column, are next to each other. If not, PyTorch multiplies several
    matrices one by one, as copies."""
    return 1 in (factor.stride(-1), factor.stride(-2))


def _convolution(name: str, arguments: Sequence[Any], made: Sequence[Tensor]) -> Form | None:
    backward = name == "convolution_backward"
    x, weight = arguments[1:3] if backward else arguments[:2]
    transposed, groups = (arguments[7], arguments[9]) if backward else (arguments[6], arguments[8])
    if x.dim() != 4 or groups != 1 or 0 in x.shape:
        return None
    positions = x if transposed else arguments[0] if backward else made[0]
    sizes = (x.shape[0], math.sqrt(weight.shape[0] * weight.shape[1]), math.sqrt(positions.shape[2:].numel()),
             math.sqrt(weight.shape[2:].numel()))  # fmt: skip
    kind = "transposed convolution" if transposed else "convolution"
    if not backward:
        return kind, sizes
    for_input, for_weight, _ = arguments[10]
    if not (for_input or for_weight):
        return None
    gradient = "gradients" if for_input and for_weight else "input gradient" if for_input else "weight gradient"
    return f"{gradient} of a {kind}", sizes


_TRANSFORMS = {"_fft_r2c": "real transform", "_fft_c2r": "inverse real transform", "_fft_c2c": "complex transform"}


def _transform(name: str, arguments: Sequence[Any], made: Sequence[Tensor]) -> Form:
    x, dimensions = arguments[:2]
    full = made[0] if name == "_fft_c2r" else x
    points = math.prod(full.shape[dimension] for dimension in dimensions)
    rearranged = "" if x.is_contiguous() else " of rearranged images"
    return f"{_TRANSFORMS[name]}{rearranged}", (full.numel() / points, math.sqrt(points))


_FACTORISATIONS = {"linalg_inv_ex": "inverse", "_linalg_solve_ex": "solve", "linalg_cholesky_ex": "cholesky", "linalg_qr": "qr"}


def _factorisation(name: str, operands: Sequence[Tensor]) -> Form | None:
    if name not in _FACTORISATIONS:
        return None
    a = operands[0]
    return _FACTORISATIONS[name], (max(1, math.prod(a.shape[:-2])), math.sqrt(a.shape[-2] * a.shape[-1]))


def _elementwise(tensors: Sequence[Tensor], moved: int) -> Form:
    run = run_bytes(tensors)
    if run < min(LONG_RUN_BYTES, max((one.numel() * one.element_size() for one in tensors), default=0)):
        return "rearrangement", (moved, run)
    return "complex elementwise" if any(one.is_complex() for one in tensors) else "elementwise", (moved,)


def run_bytes(tensors: Sequence[Tensor]) -> int:
    """Bytes that lie next to each other in all of the largest tensors, in the order of the last one; a repeated element counts.

    Tensors of other shapes, as of a cut or padded image, share the rows of their last dimension at most.
    """
    most = max((one.numel() for one in tensors), default=0)
    large = [one for one in tensors if one.numel() == most] or list(tensors)
    if not large:
        return 0
    last = large[-1]
    same = [one for one in large if one.shape == last.shape]
    order = sorted(range(last.dim()), key=lambda dimension: (last.stride(dimension), last.shape[dimension]))
    run = 1
    for dimension in order:
        if last.shape[dimension] > 1 and any(one.stride(dimension) != run for one in same):
            break
        run *= last.shape[dimension]
    others = [one for one in tensors if one.dim() == last.dim() and one.shape[-1] not in (1, last.shape[-1])]
    if others:
        run = min(run, *(one.shape[-1] for one in others))
    return run * last.element_size()


def copies(kind: str, operands: Sequence[Tensor]) -> tuple[Form, ...]:
    """Copies that a product makes of its factors first: of those that are marked as conjugate, and of a single matrix that has
    neither rows nor columns in one piece."""
    if kind != "product":
        return ()
    found: list[Form] = []
    for one in operands:
        moved = 2 * one.numel() * one.element_size()
        if one.dim() == 2 and not _has_rows_or_columns(one):
            found.append(("rearrangement", (moved, one.element_size())))
        elif one.is_conj():
            found.append(("complex elementwise", (moved,)))
    return tuple(found)
