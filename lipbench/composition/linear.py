"""Operations that are affine in some of their arguments: the proof that a part of a graph is affine.

The arguments that are not named must be constants. Nothing else is affine, and what is missing here is no error: a module with
such an operation has no upper bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from lipbench.composition.graph import Node, nodes_in


@dataclass(frozen=True)
class _Rule:
    """Positions of arguments that an operation is affine in."""

    jointly: frozenset[int]
    """in all of these together"""
    one_of: frozenset[int] = frozenset()
    """and in one of these, while the others of them are constants: factors of a product"""


_ALL = _Rule(frozenset(range(32)))
_FIRST = _Rule(frozenset({0}))
_FACTORS = _Rule(frozenset(), frozenset({0, 1}))

_RULES: dict[str, _Rule] = {
    # sums, copies and arrangements of entries
    **dict.fromkeys((
        "add", "sub", "rsub", "neg", "cat", "stack", "clone", "copy", "positive", "hstack", "vstack", "write", "slice_scatter",
        "select_scatter", "diagonal_scatter", "complex", "block_diag",
    ), _ALL),
    **dict.fromkeys((
        "item", "view", "_unsafe_view", "_reshape_alias", "reshape", "alias", "detach", "lift_fresh", "contiguous", "expand",
        "permute", "transpose", "t", "mT", "unsqueeze", "squeeze", "select", "slice", "narrow", "as_strided", "split",
        "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk", "unbind", "unfold", "diagonal",
        "repeat", "repeat_interleave", "flip", "roll", "rot90", "tril", "triu", "diag_embed", "movedim", "swapaxes", "flatten",
        "unflatten", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle", "im2col", "col2im",
        "real", "imag", "view_as_real", "view_as_complex", "_conj", "conj", "_conj_physical", "conj_physical", "resolve_conj",
        "resolve_neg", "_neg_view", "_to_copy", "index", "index_select", "gather", "take", "masked_select", "trace",
    ), _FIRST),
    # sums over dimensions, pooling, padding, interpolation
    **dict.fromkeys((
        "sum", "mean", "cumsum", "avg_pool1d", "avg_pool2d", "avg_pool3d", "_adaptive_avg_pool2d",
        "_adaptive_avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d",
        "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d", "replication_pad1d",
        "replication_pad2d", "replication_pad3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d",
        "_upsample_nearest_exact1d", "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "upsample_linear1d",
        "upsample_bilinear2d", "upsample_trilinear3d", "upsample_bicubic2d", "_upsample_bilinear2d_aa",
        "_upsample_bicubic2d_aa", "grid_sampler_2d", "grid_sampler_3d",
    ), _FIRST),
    # transforms
    **dict.fromkeys(("_fft_r2c", "_fft_c2r", "_fft_c2c", "fft_fftshift", "fft_ifftshift"), _FIRST),
    # products with a constant
    **dict.fromkeys((
        "mul", "mm", "bmm", "mv", "dot", "vdot", "matmul", "linalg_vecdot", "inner", "outer", "ger", "kron",
    ), _FACTORS),
    **dict.fromkeys(("addmm", "baddbmm", "addbmm", "addmv", "addr", "addcmul"), _Rule(frozenset({0}), frozenset({1, 2}))),
    "linear": _Rule(frozenset({2}), frozenset({0, 1})),
    "convolution": _Rule(frozenset({2}), frozenset({0, 1})),
    "_trilinear": _Rule(frozenset(), frozenset({0, 1, 2})),
    "div": _FIRST,
    "addcdiv": _Rule(frozenset({0, 1})),
    # solutions of equations with constant matrices
    "_linalg_solve_ex": _Rule(frozenset({1})), "linalg_solve_triangular": _Rule(frozenset({1})), "triangular_solve": _FIRST,
    "linalg_lu_solve": _Rule(frozenset({2})), "cholesky_solve": _FIRST,
    # choices that do not depend on the input
    "where": _Rule(frozenset({1, 2})), "masked_fill": _Rule(frozenset({0, 2})), "masked_scatter": _Rule(frozenset({0, 2})),
    "index_put": _Rule(frozenset({0, 2})), "_unsafe_index": _FIRST, "_unsafe_index_put": _Rule(frozenset({0, 2})),
    "index_add": _Rule(frozenset({0, 3})), "index_copy": _Rule(frozenset({0, 3})), "scatter": _Rule(frozenset({0, 3})),
    "scatter_add": _Rule(frozenset({0, 3})), "lerp": _Rule(frozenset({0, 1})),
}  # fmt: skip
_ROUNDED = ("rounding_mode",)


def is_affine(node: Node) -> bool:
    """Whether an operation is affine in the arguments that depend on the input."""
    if node.name == "native_batch_norm":
        return _positions(node) == {0} and node.args[5] is False  # with running statistics
    if node.name == "_native_batch_norm_legit_no_training":
        return _positions(node) == {0}
    rule = _RULES.get(node.name)
    if rule is None or any(node.kwargs.get(name) is not None for name in _ROUNDED):
        return False
    if nodes_in(node.kwargs):
        return False
    dependent = _positions(node)
    return dependent <= rule.jointly | rule.one_of and len(dependent & rule.one_of) <= 1


def _positions(node: Node) -> set[int]:
    """Positions of the arguments that depend on the input."""
    return {place for place, argument in enumerate(node.args) if nodes_in(argument)}
