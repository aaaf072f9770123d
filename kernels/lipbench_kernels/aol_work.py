"""The work of AOL's kernels and of the PyTorch operations they replace, counted tensor by tensor.

Kernel (o, i, k, k). P = k² o i elements are the kernel, N = (2k − 1)² i² its correlation with itself, o i² the MACs of one pair
of taps. `weighted` is 1 with weights, as SLL has them. A tensor that an operation reads counts once, even if it is read
again from the cache.
"""

from __future__ import annotations

from lipbench_kernels.launching import Work

FLOAT_BYTES = 4
PITCH = 32
"""multiple to which the kernels' summed axis is padded with zeros"""
FIELDS = 16
"""signs in one int32 word"""


def shifts(k: int) -> int:
    """Number of shifts that are computed: half of the window, δ = 0 included."""
    return ((2 * k - 1) ** 2 + 1) // 2


def splits(i: int, k: int) -> int:
    """Number of programs that share the shifts of a block, so that a layer of few channels fills a GPU too."""
    return min(shifts(k), max(1, 512 // _up(i, 64) ** 2))


def forward_macs(o: int, i: int, k: int, weighted: int = 0) -> int:
    """Pairs of taps at half of the shifts, δ = 0 included, then B w and Bᵀ w."""
    return (k**4 + k**2) // 2 * o * i**2 + 2 * weighted * i**2


def backward_macs(o: int, i: int, k: int) -> int:
    """All pairs of taps, for the gradient of the kernel."""
    return k**4 * o * i**2


def forward(o: int, i: int, k: int, weighted: int = 0) -> Work:
    """Copy of the kernel, fused kernel, sum over the splits, sums over rows and columns and their sum."""
    padded, parts, signs = k**2 * i * _up(o, PITCH) * PITCH, splits(i, k), _signs(i, k)
    copy = _work(k**2 * o * i, padded)
    fused = _work(padded, parts * i**2 + signs, forward_macs(o, i, k), tuned=1)
    joined = _work(parts * i**2, i**2) if parts > 1 else _nothing()
    return copy + fused + joined + _rows_and_columns(i, weighted)


def backward(o: int, i: int, k: int, weighted: int = 0) -> Work:
    """Copy of the kernel, fused kernel, copy of its gradient; with weights their gradient, else a vector of ones."""
    kernel, padded = k**2 * o * i, k**2 * o * _up(i, PITCH) * PITCH
    fused = _work(padded + _signs(i, k) + 2 * i, kernel, backward_macs(o, i, k), tuned=1)
    weights = _rows_and_columns(i, 1) if weighted else _work(0, i)
    return _work(kernel, padded) + fused + _work(kernel, kernel) + weights


def replaced_forward(o: int, i: int, k: int, weighted: int = 0) -> Work:
    """`conv2d(Kᵀ, Kᵀ, padding=k − 1)`, `abs`, `sum`, with weights `mv`; copies that a convolution may make are left out."""
    correlation = _correlation(i, k)
    convolution = _work(k**2 * o * i, correlation, _convolution_macs(o, i, k))
    absolute = _work(correlation, correlation)
    if not weighted:
        return convolution + absolute + _work(correlation, i)
    return convolution + absolute + _work(correlation, i**2) + _work(i**2 + i, i, i**2)


def replaced_backward(o: int, i: int, k: int, weighted: int = 0) -> Work:
    """Backward of those: with weights that of `mv`; `sgn` and a product; the convolution's two gradients, and their sum."""
    kernel, correlation = k**2 * o * i, _correlation(i, k)
    product = _work(2 * i, i**2) + _work(i**2 + i, i, i**2) if weighted else _nothing()
    absolute = _work(correlation, correlation) + _work(correlation + (i**2 if weighted else i), correlation)
    convolution = _work(2 * correlation + 2 * kernel, 2 * kernel, 2 * _convolution_macs(o, i, k), launches=2)
    return product + absolute + convolution + _work(2 * kernel, kernel)


def _rows_and_columns(i: int, weighted: int) -> Work:
    """`B w + Bᵀ w`, or both sums of B: three operations."""
    once = _work(i**2 + weighted * i, i, weighted * i**2)
    return once + once + _work(2 * i, i)


def _convolution_macs(o: int, i: int, k: int) -> int:
    """MACs of the convolution as PyTorch computes it, including products with the padding."""
    return k**2 * (2 * k - 1) ** 2 * o * i**2


def _correlation(i: int, k: int) -> int:
    return (2 * k - 1) ** 2 * i**2


def _signs(i: int, k: int) -> int:
    """Words of signs."""
    return shifts(k) * i * _up(i, FIELDS)


def _up(size: int, block: int) -> int:
    """Number of blocks needed for so many elements."""
    return -(-size // block)


def _work(read: int, written: int, macs: int = 0, launches: int = 1, tuned: int = 0) -> Work:
    """Work of elements of 4 bytes read and written."""
    return Work(macs, FLOAT_BYTES * read, FLOAT_BYTES * written, launches, tuned)


def _nothing() -> Work:
    return Work(0, 0, 0, 0)
