"""Operations without MACs: element-wise work, reductions, copies, views, new tensors, random numbers, and bookkeeping.

A rule decides by the tags and the schema of an operation. `FREE` has the names that no rule reaches. What neither knows may
have MACs, and is listed as uncounted.
"""

from __future__ import annotations

from typing import Any

import torch

aten = torch.ops.aten

_FREE_TAGS = {
    torch.Tag.pointwise,
    getattr(torch.Tag, "reduction", torch.Tag.pointwise),
    torch.Tag.inplace_view,  # `set_`, `detach_`, `resize_`, `t_` and the like change what a tensor says of its memory
}

FREE = frozenset({
    # copies and rearrangements
    "_to_copy", "clone", "copy_", "cat", "stack", "constant_pad_nd", "repeat", "roll", "flip", "tril", "triu", "index",
    "index_put", "index_put_", "_index_put_impl_", "index_select", "gather", "scatter", "scatter_", "scatter_add",
    "scatter_add_", "index_add", "index_add_", "masked_select", "embedding", "embedding_dense_backward", "slice_backward",
    "select_backward", "diagonal_backward", "unfold_backward", "slice_scatter", "select_scatter", "as_strided_scatter",
    "diag_embed", "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "im2col", "col2im", "reflection_pad2d",
    "reflection_pad2d_backward", "replication_pad2d", "replication_pad2d_backward", "complex", "polar", "_unsafe_view",
    "sort", "topk", "nonzero", "_local_scalar_dense", "max_pool2d_with_indices", "max_pool2d_with_indices_backward",
    "adaptive_max_pool2d", "adaptive_max_pool2d_backward", "reflection_pad1d", "reflection_pad3d", "replication_pad1d",
    "replication_pad3d", "upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "_upsample_nearest_exact1d",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact3d", "index_fill", "index_reduce", "masked_scatter",
    "scatter_reduce", "segment_reduce", "take", "put", "_unsafe_index", "_unsafe_index_put", "_unsafe_masked_index",
    "_unsafe_masked_index_put_accumulate", "unsafe_split", "unsafe_split_with_sizes", "block_diag", "_chunk_cat", "_stack",
    "diagonal_scatter", "nonzero_static", "_embedding_bag", "_embedding_bag_forward_only", "_embedding_bag_dense_backward",
    "_pack_padded_sequence", "_reshape_copy", "lift", "lu_unpack", "record_stream", "_resize_output", "_lazy_clone",
    "_pin_memory", "_to_dense", "_to_sparse", "_coalesce", "_unique", "_unique2", "unique_consecutive", "unique_dim",
    "unique_dim_consecutive", "isin", "searchsorted", "bucketize", "bincount", "histc", "histogram", "_copy_from",
    # new tensors and random numbers
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "new_zeros", "new_ones", "new_full", "zeros",
    "zeros_like", "ones", "ones_like", "full", "full_like", "fill", "fill_", "zero_", "eye", "arange", "linspace",
    "scalar_tensor", "rand", "rand_like", "randn", "randn_like", "randint", "randperm", "normal", "normal_", "uniform_",
    "bernoulli", "bernoulli_", "native_dropout", "native_dropout_backward", "lift_fresh",
    # reductions and scans, which older versions do not tag
    "sum", "mean", "prod", "amax", "amin", "aminmax", "max", "min", "all", "any", "argmax", "argmin", "norm",
    "linalg_vector_norm", "var", "var_mean", "std", "std_mean", "logsumexp", "median", "cumsum", "cumprod", "trace",
    "_softmax", "_softmax_backward_data", "_log_softmax", "_log_softmax_backward_data", "_adaptive_avg_pool2d",
    "avg_pool2d", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "avg_pool1d", "avg_pool3d", "_adaptive_avg_pool3d",
    "adaptive_avg_pool3d", "adaptive_max_pool3d", "max_pool3d_with_indices", "max_unpool2d", "max_unpool3d",
    "fractional_max_pool2d", "fractional_max_pool3d", "cummax", "cummin", "_cummax_helper", "_cummin_helper", "logcumsumexp",
    "_logcumsumexp", "kthvalue", "mode", "nanmedian", "_aminmax", "dist", "native_norm", "renorm", "embedding_renorm",
    "_masked_softmax", "_safe_softmax", "softmax", "log_softmax", "_foreach_powsum",
    # normalisations and element-wise functions that are not tagged
    "native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_functional",
    "_native_batch_norm_legit_no_training", "_batch_norm_with_update", "_batch_norm_with_update_functional",
    "_batch_norm_no_update", "batch_norm", "cudnn_batch_norm", "miopen_batch_norm", "native_layer_norm",
    "native_group_norm", "_fused_rms_norm", "_weight_norm", "_weight_norm_interface", "_prelu_kernel",
    "glu", "hardswish", "log_sigmoid",
    "log_sigmoid_forward", "rrelu_with_noise", "linalg_cross", "floor_divide", "_add_relu", "_masked_scale",
    "_standard_gamma_grad", "_dirichlet_grad", "binomial", "_thnn_fused_lstm_cell", "_thnn_fused_gru_cell",
    # losses
    "binary_cross_entropy", "binary_cross_entropy_with_logits", "mse_loss", "huber_loss", "smooth_l1_loss", "soft_margin_loss",
    "nll_loss", "nll_loss_forward", "nll_loss2d", "nll_loss2d_forward", "multi_margin_loss", "multilabel_margin_loss",
    "multilabel_margin_loss_forward",
    # an optimizer's element-wise update, and checks
    "_fused_sgd_", "_fused_adam_", "_fused_adamw_", "_linalg_check_errors", "_assert_async",
    # copies, views and reductions that are made of other operations, under their names in a trace
    "pad", "reshape", "reshape_as", "flatten", "unflatten", "contiguous", "type_as", "to", "size", "device", "mH", "mT",
    "adjoint", "matrix_H", "numpy_T", "conj", "resolve_conj", "resolve_neg", "linalg_norm", "frobenius_norm", "max_pool2d",
    "chunk", "split", "moveaxis", "movedim", "swapaxes", "rot90", "tile", "repeat_interleave",
})  # fmt: skip
"""Names of operations without MACs that no rule shows, by kind. Bilinear and bicubic interpolation are not among them: their
weights make products."""


def is_free_of_macs(operation: Any) -> bool:
    """Whether an operation (`OpOverload`) is known to have no MACs."""
    if not isinstance(operation, torch._ops.OpOverload):
        return False
    if _is_free_by_rule(operation):
        return True
    if operation.namespace == "profiler":
        return True  # marks in a profile
    return operation.namespace in ("aten", "prim", "prims") and is_free_name(operation._schema.name.partition("::")[2])


def is_free_name(name: str) -> bool:
    """The same for the name of a PyTorch operation, e.g. 'mul' or '_foreach_mul_', for any overload.

    An operation in place or not, a copying view and a backward pass are also known by the operation that they belong to.
    """
    name = name.removeprefix("_foreach_")
    stems = (name, f"{name}_", name.removesuffix("_"), name.removesuffix("_copy"), name.removesuffix("_backward"))
    return any(stem in FREE or any(map(_is_free_by_rule, _overloads(stem))) for stem in stems if stem)


def _overloads(name: str) -> list[Any]:
    packet = getattr(aten, name, None)
    return [] if packet is None else [getattr(packet, overload) for overload in packet.overloads()]


def _is_free_by_rule(operation: Any) -> bool:
    """Whether tags or schema of an operation of PyTorch show that it has no MACs."""
    if _FREE_TAGS & set(operation.tags):
        return True
    tensors = sum("Tensor" in str(argument.type) for argument in operation._schema.arguments)
    if operation.namespace in ("aten", "prim", "prims"):
        return is_view(operation) or tensors == 0 or _is_question(operation) or _is_random(operation, tensors)
    return False


def is_view(operation: Any) -> bool:
    """Whether every result is an alias of an argument and nothing is written."""
    returns = operation._schema.returns
    return bool(returns) and all(result.alias_info is not None and not result.alias_info.is_write for result in returns)


def _is_question(operation: Any) -> bool:
    """Whether it answers with plain values, such as a size or a truth, and writes nothing."""
    schema = operation._schema
    gives = any("Tensor" in str(result.type) for result in schema.returns)
    writes = any(argument.alias_info is not None and argument.alias_info.is_write for argument in schema.arguments)
    return bool(schema.returns) and not gives and not writes


def _is_random(operation: Any, tensors: int) -> bool:
    """Whether it draws random numbers from one tensor of parameters or shapes; attention with dropout takes several."""
    return torch.Tag.nondeterministic_seeded in operation.tags and tensors == 1
