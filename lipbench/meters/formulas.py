"""MACs of PyTorch's operations: formulas in the shapes of their arguments, and a list of operations without MACs.

Transforms and factorisations have no standard count. Here they count, in real multiply-accumulates: FFT of n points
5/2 · n log₂ n (complex), half of that for real data; inverse of n × n: n³; solve with m right sides: n³/3 + n² m; LU: n³/3;
matrix–vector product: n m. For complex matrices, all but the FFT count four times; the FFT's count is real already.

The comparison paper counts a complex multiply-accumulate as one, also one of a complex and a real number; `per_published`
converts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten

Formula = Callable[..., float]


def _complex_factor(*tensors: Tensor) -> int:
    """Real MACs per MAC between these tensors."""
    return 4 if all(tensor.is_complex() for tensor in tensors) else 2 if any(tensor.is_complex() for tensor in tensors) else 1


def product(a: Tensor, b: Tensor, *_: Any, **__: Any) -> float:
    """MACs of (…, n, k) · (…, k, m), (…, n, k) · (k,) or (k,) · (k,)."""
    columns = b.shape[-1] if b.dim() > 1 else 1
    return _complex_factor(a, b) * a.numel() * columns


def added_product(_: Tensor, a: Tensor, b: Tensor, *__: Any, **___: Any) -> float:
    """MACs of a product that is added to a first argument."""
    return product(a, b)


def convolution(x: Tensor, weight: Tensor, *settings: Any, out_val: Tensor, **_: Any) -> float:
    """MACs of a convolution: one per weight and position of the output, or of the input if transposed. Padding counts.

    `settings` are bias, stride, padding, dilation, transposed, …
    """
    transposed = len(settings) > 4 and settings[4]
    positions = (x if transposed else out_val).shape[2:]
    return _complex_factor(x, weight) * x.shape[0] * weight.numel() * math.prod(positions)


def convolution_backward(gradient: Tensor, x: Tensor, weight: Tensor, *settings: Any, **_: Any) -> float:
    """MACs of the backward pass: those of the forward pass for each wanted gradient of input and weight; none for the bias.

    `settings` are bias sizes, stride, padding, dilation, transposed, output padding, groups, output mask.
    """
    transposed, wanted = bool(settings[4]), settings[7]
    gradients = int(wanted[0]) + int(wanted[1])
    positions = (x if transposed else gradient).shape[2:]
    return _complex_factor(x, weight) * x.shape[0] * weight.numel() * math.prod(positions) * gradients


def fft(sizes: Sequence[int], dimensions: Sequence[int], real: bool) -> float:
    """MACs of all transforms of a tensor of these sizes over these dimensions."""
    points = math.prod(sizes[dimension] for dimension in dimensions)
    return (1.25 if real else 2.5) * math.prod(sizes) * math.log2(points)


def _fft_c2c(x: Tensor, dimensions: list[int], *_: Any, **__: Any) -> float:
    return fft(x.shape, dimensions, real=False)


def _fft_r2c(x: Tensor, dimensions: list[int], *_: Any, **__: Any) -> float:
    return fft(x.shape, dimensions, real=True)


def _fft_c2r(x: Tensor, dimensions: list[int], *_: Any, out_val: Tensor, **__: Any) -> float:
    return fft(out_val.shape, dimensions, real=True)


def inverse(a: Tensor, *_: Any, **__: Any) -> float:
    """MACs of the inverse of a (…, n, n)."""
    return _complex_factor(a) * a.numel() * a.shape[-1]


def lu(a: Tensor, *_: Any, **__: Any) -> float:
    """MACs of the LU factorisation of a (…, n, n)."""
    return _complex_factor(a) * a.numel() * a.shape[-1] / 3


def solve(a: Tensor, b: Tensor, *_: Any, out_val: Any, **__: Any) -> float:
    """MACs of a solve with a (…, n, n) and right sides b (…, n, m), or (…, n), or (…, m, n) from the right."""
    return lu(a) + _substitution(a, out_val[0])


def lu_solve(a: Tensor, *_: Any, out_val: Tensor, **__: Any) -> float:
    """MACs of a solve with a given factorisation a (…, n, n): the second half of `solve`."""
    return _substitution(a, out_val)


def triangular_solve(a: Tensor, *_: Any, out_val: Tensor, **__: Any) -> float:
    """MACs of a solve with a triangular matrix: half of `lu_solve`."""
    return _substitution(a, out_val) / 2


def _substitution(a: Tensor, solution: Tensor) -> float:
    """MACs of forward and backward substitution: n² for each of the solution's vectors of length n."""
    return _complex_factor(a) * solution.numel() * a.shape[-1]


MACS: dict[Any, Formula] = {
    aten.mm: product,
    aten.bmm: product,
    aten.mv: product,
    aten.dot: product,
    aten.vdot: product,
    aten.addmm: added_product,
    aten.addmm_: added_product,
    aten.addmv: added_product,
    aten.addmv_: added_product,
    aten.baddbmm: added_product,
    aten.baddbmm_: added_product,
    aten.addbmm: added_product,
    aten.convolution: convolution,
    aten.convolution_backward: convolution_backward,
    aten._fft_c2c: _fft_c2c,
    aten._fft_r2c: _fft_r2c,
    aten._fft_c2r: _fft_c2r,
    aten.linalg_inv_ex: inverse,
    aten._linalg_solve_ex: solve,
    aten.linalg_lu_factor_ex: lu,
    aten.linalg_lu_solve: lu_solve,
    aten.linalg_solve_triangular: triangular_solve,
}
"""operation → formula for its real MACs, in its arguments and its result `out_val`"""


def _as_flops(macs: Formula) -> Formula:
    """A formula in the form that `FlopCounterMode(custom_mapping=…)` needs: it gives FLOPs, and takes tensors, not shapes."""

    def flops(*arguments: Any, **named: Any) -> float:
        return 2 * macs(*arguments, **named)

    flops._get_raw = True  # type: ignore[attr-defined]  # otherwise it gets shapes, which do not show complex numbers
    return flops


_TRANSFORMS = (aten._fft_c2c, aten._fft_r2c, aten._fft_c2r)


def per_published(operation: Any, arguments: Sequence[Any]) -> int:
    """Real MACs per MAC in the paper's convention: 4 for transforms and complex numbers, 2 for complex times real, else 1."""
    if operation in _TRANSFORMS:
        return 4
    numbers = [one for one in arguments if isinstance(one, Tensor) and (one.is_complex() or one.is_floating_point())]
    return _complex_factor(*numbers)


FORMULAS = {operation: _as_flops(formula) for operation, formula in MACS.items()}
"""operation → formula for its FLOPs; these replace and extend PyTorch's formulas"""

FREE = frozenset({
    # copies and rearrangements
    "_to_copy", "clone", "copy_", "cat", "stack", "constant_pad_nd", "repeat", "roll", "flip", "tril", "triu", "index",
    "index_put", "index_put_", "_index_put_impl_", "index_select", "gather", "scatter", "scatter_", "scatter_add",
    "scatter_add_", "index_add", "index_add_", "masked_select", "embedding", "embedding_dense_backward", "slice_backward",
    "select_backward", "diagonal_backward", "unfold_backward", "slice_scatter", "select_scatter", "as_strided_scatter",
    "diag_embed", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "col2im", "reflection_pad2d",
    "reflection_pad2d_backward", "replication_pad2d", "replication_pad2d_backward", "complex", "polar", "_unsafe_view",
    "sort", "topk", "nonzero", "_local_scalar_dense", "max_pool2d_with_indices", "max_pool2d_with_indices_backward",
    "adaptive_max_pool2d", "adaptive_max_pool2d_backward",
    # new tensors and random numbers
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full", "zeros",
    "zeros_like", "ones", "ones_like", "full", "full_like", "fill", "fill_", "zero_", "eye", "arange", "linspace",
    "scalar_tensor", "rand", "rand_like", "randn", "randn_like", "randint", "randperm", "normal", "normal_", "uniform_",
    "bernoulli", "bernoulli_", "native_dropout", "native_dropout_backward", "lift_fresh",
    # reductions and scans, which older versions do not tag
    "sum", "mean", "prod", "amax", "amin", "aminmax", "max", "min", "all", "any", "argmax", "argmin", "norm",
    "linalg_vector_norm", "var", "var_mean", "std", "std_mean", "logsumexp", "median", "cumsum", "cumprod", "trace",
    "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data", "_adaptive_avg_pool2d",
    "_adaptive_avg_pool2d_backward", "avg_pool2d", "avg_pool2d_backward",
    # an optimizer's element-wise update, and checks
    "_fused_sgd_", "_fused_adam_", "_fused_adamw_", "_linalg_check_errors", "_assert_async",
    # copies, views and reductions that are made of other operations, under their names in a trace
    "pad", "reshape", "reshape_as", "flatten", "unflatten", "contiguous", "type_as", "to", "size", "device", "mH", "mT",
    "adjoint", "matrix_H", "numpy_T", "conj", "resolve_conj", "resolve_neg", "linalg_norm", "frobenius_norm", "max_pool2d",
    "chunk", "split", "moveaxis", "movedim", "swapaxes", "rot90", "tile", "repeat_interleave",
})  # fmt: skip
"""Names of operations without MACs that have no tag to show it."""

_FREE_TAGS = {torch.Tag.pointwise, getattr(torch.Tag, "reduction", torch.Tag.pointwise)}


def is_free_of_macs(operation: Any) -> bool:
    """Whether an operation (`OpOverload`) is known to do only element-wise work, reductions, copies or views."""
    if not isinstance(operation, torch._ops.OpOverload):
        return False
    if _FREE_TAGS & set(operation.tags):
        return True
    if operation.namespace == "profiler":
        return True  # marks in a profile
    if operation.namespace not in ("aten", "prim", "prims"):
        return False
    return is_free_name(operation._schema.name.partition("::")[2]) or _is_view(operation)


def is_free_name(name: str) -> bool:
    """The same for the name of a PyTorch operation, e.g. 'mul' or '_foreach_mul_', for any overload.

    An in-place operation is also checked by the name of its out-of-place version, whose tags are more complete.
    """
    name = name.removeprefix("_foreach_")
    for candidate in (name, name.removesuffix("_")):
        if candidate in FREE:
            return True
        packet = getattr(aten, candidate, None) if candidate else None
        overloads = [getattr(packet, overload) for overload in packet.overloads()] if packet is not None else []
        if any(_FREE_TAGS & set(overload.tags) or _is_view(overload) for overload in overloads):
            return True
    return False


def _is_view(operation: Any) -> bool:
    """Whether every result is an alias of an argument and nothing is written."""
    returns = operation._schema.returns
    return bool(returns) and all(result.alias_info is not None and not result.alias_info.is_write for result in returns)
