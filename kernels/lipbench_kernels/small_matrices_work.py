"""The work of the kernels for small matrices, and of the PyTorch operations that they replace.

Matrices count at their own size, without the padding of a block. Bytes that a program reads again from the cache count once.
"""

from __future__ import annotations

from lipbench_kernels.launching import Work


def _sides(n: int, r: int, c: int) -> tuple[int, int, int]:
    """Bytes of the matrices, bytes of their squares on the shorter side, and MACs of a product of the iteration."""
    return 4 * n * r * c, 4 * n * min(r, c) ** 2, n * max(r, c) * min(r, c) ** 2


def bjorck(n: int, r: int, c: int, iterations: int) -> Work:
    """The forward pass for n matrices r × c: reads them once, writes every iterate, the result and a square."""
    matrices, squares, macs = _sides(n, r, c)
    return Work(2 * iterations * macs, matrices, iterations * matrices + squares, tuned=1)


def bjorck_backward(n: int, r: int, c: int, iterations: int) -> Work:
    """Reads the gradient and every iterate."""
    matrices, squares, macs = _sides(n, r, c)
    return Work(4 * iterations * macs, (iterations + 1) * matrices, matrices + squares, tuned=1)


def replaced_bjorck(n: int, r: int, c: int, iterations: int) -> Work:
    """`bmm` and `baddbmm` per step."""
    matrices, squares, macs = _sides(n, r, c)
    read, written = 2 * matrices + squares, matrices + squares
    return Work(2 * iterations * macs, iterations * read, iterations * written, 2 * iterations)


def replaced_bjorck_backward(n: int, r: int, c: int, iterations: int) -> Work:
    """Per step four `bmm`, three scalings (by 1 + β, and of both factors by −β) and three sums of the four gradients of A."""
    matrices, squares, macs = _sides(n, r, c)
    read, written = 13 * matrices + 4 * squares, 8 * matrices + 2 * squares
    return Work(4 * iterations * macs, iterations * read, iterations * written, 10 * iterations)


def newton(f: int, n: int, iterations: int) -> Work:
    """The forward pass for f complex matrices n × n: writes Y and Z of every inner step for the gradient, Z_t and T."""
    matrices = 8 * f * n**2
    return Work(12 * (iterations - 1) * f * n**3, matrices, 2 * iterations * matrices, tuned=1)


def newton_backward(f: int, n: int, iterations: int) -> Work:
    """Reads the gradient, S and every Y and Z; writes the gradient of S and the scratch."""
    matrices = 8 * f * n**2
    return Work((28 * (iterations - 1) + 8) * f * n**3, 2 * iterations * matrices, 4 * matrices, tuned=1)


def replaced_newton(f: int, n: int, iterations: int) -> Work:
    """`bmm`, `baddbmm` with the identity, and `bmm` per step; before, the identity, two scalings and a difference."""
    matrices, identity, steps = 8 * f * n**2, 8 * n**2, iterations - 1
    read = 2 * (matrices + identity) + steps * (6 * matrices + identity)
    return Work(12 * steps * f * n**3, read, 2 * (matrices + identity) + 3 * steps * matrices, 4 + 3 * steps)


def replaced_newton_backward(f: int, n: int, iterations: int) -> Work:
    """Six `bmm`, two scalings and three sums of gradients per step; a sign and a scaling at the end."""
    matrices, steps = 8 * f * n**2, iterations - 1
    return Work(24 * steps * f * n**3, (2 + 20 * steps) * matrices, (2 + 11 * steps) * matrices, 2 + 11 * steps)
