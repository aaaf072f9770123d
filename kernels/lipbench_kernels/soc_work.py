"""The work of SOC's kernels and of the PyTorch operations they replace, counted tensor by tensor.

b images of c × s × s, kernel (c, c, k, k), t terms. M = b·c·s² elements is an image batch, P = k²·c² a kernel, C = k²·c·M the
multiply-accumulates of one convolution. A tensor that an operation reads counts once, even if it is read again from the
cache; the zeros that pad channels to a multiple of 32 do not count.
"""

from __future__ import annotations

from lipbench_kernels.launching import Work
from lipbench_kernels.soc_convolution import chunks
from lipbench_kernels.soc_resident import fits

FLOAT_BYTES = 4


def _work(convolutions: int, read: int, written: int, launches: int, *, b: int, c: int, s: int, k: int, tuned: int = 0) -> Work:
    """Work of so many convolutions that read and write so many elements."""
    return Work(convolutions * k**2 * c * b * c * s**2, FLOAT_BYTES * read, FLOAT_BYTES * written, launches, tuned)


def _taps(b: int, c: int, s: int, k: int) -> Work:
    """A copy of the kernel to (k, k, o, i)."""
    parameters = k**2 * c**2
    return _work(0, parameters, parameters, 1, b=b, c=c, s=s, k=k)


def _adjoint_taps(b: int, c: int, s: int, k: int) -> Work:
    """The same for the kernel of the transposed map; PyTorch's flip makes another copy."""
    return _taps(b, c, s, k) + _taps(b, c, s, k)


def _summed(terms: int, b: int, c: int, s: int, k: int) -> Work:
    """The sum of the partial sums of the kernel's gradient, and its copy to (o, i, k, k)."""
    parameters = k**2 * c**2
    splits, _ = chunks(b, c, s**2, k)
    return _work(0, (terms * splits + 1) * parameters, 2 * parameters, 2, b=b, c=c, s=s, k=k)


def _gradient(terms: int, launches: int, b: int, c: int, s: int, k: int) -> Work:
    """The kernel's gradient for so many terms, in partial sums."""
    splits, _ = chunks(b, c, s**2, k)
    return _work(terms, 2 * terms * b * c * s**2, terms * splits * k**2 * c**2, launches, b=b, c=c, s=s, k=k, tuned=launches)


def step(b: int, c: int, s: int, k: int) -> Work:
    """`x + (L ∗ h)/n`: h, x and the kernel in, one image out."""
    images = b * c * s**2
    return _taps(b, c, s, k) + _work(1, 2 * images + k**2 * c**2, images, 1, b=b, c=c, s=s, k=k, tuned=1)


def replaced_step(b: int, c: int, s: int, k: int) -> Work:
    """`u ← conv2d(u, L)`, `u / n`, `z + u`: 7 M moved, where the fused step moves 3 M."""
    images = b * c * s**2
    return _work(1, images + k**2 * c**2 + images + 2 * images, 3 * images, 3, b=b, c=c, s=s, k=k)


def step_backward(b: int, c: int, s: int, k: int) -> Work:
    """`∂h = (Lᵀ ∗ ∂z)/n` and `∂L = (∂z ⋆ h)/n`; the gradient of x is ∂z itself."""
    images = b * c * s**2
    by_h = _work(1, images + k**2 * c**2, images, 1, b=b, c=c, s=s, k=k, tuned=1)
    return _adjoint_taps(b, c, s, k) + by_h + _gradient(1, 1, b, c, s, k) + _summed(1, b, c, s, k)


def replaced_step_backward(b: int, c: int, s: int, k: int) -> Work:
    """The backward pass of the three operations: division, and the convolution's two gradients; the addition passes ∂z on."""
    images, parameters = b * c * s**2, k**2 * c**2
    divided = _work(0, images, images, 1, b=b, c=c, s=s, k=k)
    by_u = _work(1, images + parameters, images, 1, b=b, c=c, s=s, k=k)
    by_kernel = _work(1, 2 * images, parameters, 1, b=b, c=c, s=s, k=k)
    return divided + by_u + by_kernel


def series(b: int, c: int, s: int, k: int, t: int, resident: bool | None = None) -> Work:
    """The series forward, iterates kept: separate steps, or one launch if images are small (or if `resident` says so)."""
    images, parameters = b * c * s**2, k**2 * c**2
    if fits(c, s, s) if resident is None else resident:
        return _taps(b, c, s, k) + _work(t, images + parameters, t * images, 1, b=b, c=c, s=s, k=k, tuned=1)
    first = _work(1, images + parameters, images, 1, b=b, c=c, s=s, k=k, tuned=1)  # h_t is x
    return (
        _taps(b, c, s, k)
        + first
        + _work(t - 1, (t - 1) * (2 * images + parameters), (t - 1) * images, t - 1, b=b, c=c, s=s, k=k, tuned=t - 1)
    )


def replaced_series(b: int, c: int, s: int, k: int, t: int, resident: bool | None = None) -> Work:
    """conv2d, division and addition for each term; the first term's u and z are both x."""
    one = replaced_step(b, c, s, k)
    return Work(t * one.macs, t * one.read_bytes, t * one.written_bytes, t * one.launches)


def series_backward(b: int, c: int, s: int, k: int, t: int, resident: bool | None = None) -> Work:
    """∂x and ∂L of the series. Steps: G_{n−1}, the sum and the kernel in, G_n and the sum out, the last without G_t."""
    images, parameters = b * c * s**2, k**2 * c**2
    around = _adjoint_taps(b, c, s, k) + _summed(t, b, c, s, k)
    if fits(c, s, s) if resident is None else resident:
        by_x = _work(t, images + parameters, t * images, 1, b=b, c=c, s=s, k=k, tuned=1)
        return around + by_x + _gradient(t, min(t, 3), b, c, s, k)
    read = 2 * t * images - images + t * parameters  # G_0 and the first sum are both ∂z
    by_x = _work(t, read, (2 * t - 1) * images, t, b=b, c=c, s=s, k=k, tuned=t)
    return around + by_x + _gradient(t, t, b, c, s, k)


def replaced_series_backward(b: int, c: int, s: int, k: int, t: int, resident: bool | None = None) -> Work:
    """For each term the backward pass of its operations, and two additions that autograd makes.

    u_n is used twice (by the sum and by the next term), so that its gradient is a sum of two, for n = 0 … t − 1; L is used t
    times, so that its gradient takes t − 1 additions.
    """
    images, parameters = b * c * s**2, k**2 * c**2
    one = replaced_step_backward(b, c, s, k)
    by_u = _work(0, t * 2 * images, t * images, t, b=b, c=c, s=s, k=k)
    by_kernel = _work(0, (t - 1) * 2 * parameters, (t - 1) * parameters, t - 1, b=b, c=c, s=s, k=k)
    return Work(t * one.macs, t * one.read_bytes, t * one.written_bytes, t * one.launches) + by_u + by_kernel
