"""The definitions of the methods, in the plainest form: dense matrices, explicit sums and loops, float64, no FFT.

Written from the papers, to hold the layers against. `DEFINITIONS` maps a method to `definition(x, state, setting)`:

* `x` (b, i, s, s) the input,
* `state` the layer's parameters and buffers by name, as they were before the forward pass,
* `setting` whether the layer is in training mode, and the numbers it draws.

All are differentiable, so that gradients can be compared too. The notation is that of the papers: `p` runs over kernel
positions, `f` over frequencies, `n` is the image size of a Fourier transform.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Setting:
    """What a definition depends on besides tensors."""

    training: bool
    out_channels: int
    draw: Callable[..., Tensor]
    """normal numbers of a shape, the same ones that the layer draws"""


State = dict[str, Tensor]


# Convolutions as matrices


def square(size: int) -> Iterator[tuple[int, int]]:
    """All (row, column) of a size × size window."""
    return itertools.product(range(size), range(size))


def shifts(k: int, s: int, circular: bool) -> Tensor:
    """`[a, b, m, n]` is 1 where kernel position (a, b) carries input pixel n to output pixel m; (k, k, s², s²)."""
    table = torch.zeros(k, k, s, s, s, s, dtype=torch.float64)
    for (a, b), (row, column) in itertools.product(square(k), square(s)):
        from_row, from_column = row + a - k // 2, column + b - k // 2
        if circular:
            table[a, b, row, column, from_row % s, from_column % s] += 1
        elif 0 <= from_row < s and 0 <= from_column < s:
            table[a, b, row, column, from_row, from_column] += 1
    return table.reshape(k, k, s * s, s * s)


def convolution_matrix(kernel: Tensor, s: int, circular: bool) -> Tensor:
    """The matrix of x ↦ K ∗ x on flattened images: (o s², i s²)."""
    outputs, inputs, k, _ = kernel.shape
    matrix = torch.einsum("oiab,abmn->omin", kernel, shifts(k, s, circular))
    return matrix.reshape(outputs * s * s, inputs * s * s)


def apply(matrix: Tensor, x: Tensor) -> Tensor:
    """A matrix on flattened images, back in the form of images."""
    s = x.shape[-1]
    return (x.flatten(1) @ matrix.T).reshape(len(x), -1, s, s)


def add_bias(y: Tensor, bias: Tensor) -> Tensor:
    return y + bias.reshape(1, -1, 1, 1)


def absolute_correlation(kernel: Tensor) -> Tensor:
    """`[i, j] = Σ_δ |Σ_o Σ_p K[o, i, p] K[o, j, p + δ]|`, δ in a (2k − 1) × (2k − 1) window."""
    k = kernel.shape[-1]
    total = torch.zeros(kernel.shape[1], kernel.shape[1], dtype=kernel.dtype)
    for row_shift, column_shift in itertools.product(range(1 - k, k), repeat=2):
        v = torch.zeros_like(total)
        for a, b in square(k):
            if 0 <= a + row_shift < k and 0 <= b + column_shift < k:
                v = v + torch.einsum("oi,oj->ij", kernel[:, :, a, b], kernel[:, :, a + row_shift, b + column_shift])
        total = total + v.abs()
    return total


# Fourier, by its definition


def frequency_matrices(kernel: Tensor, n: int) -> Tensor:
    """`W(f) = Σ_p K[:, :, p] exp(2πi f·(p − r)/n)` at all n × n frequencies: (n, n, o, i)."""
    k = kernel.shape[-1]
    frequencies = torch.arange(n, dtype=torch.float64)
    total = torch.zeros(n, n, *kernel.shape[:2], dtype=torch.complex128)
    for a, b in square(k):
        angle = (frequencies[:, None] * (a - k // 2) + frequencies[None, :] * (b - k // 2)) * (2 * math.pi / n)
        phase = torch.polar(torch.ones_like(angle), angle)
        total = total + phase[:, :, None, None] * kernel[:, :, a, b]
    return total


def apply_per_frequency(matrices: Tensor, x: Tensor) -> Tensor:
    """Transform x (b, i, n, n), multiply by a matrix (n, n, o, i) at each frequency, and transform back."""
    n = x.shape[-1]
    grid = torch.arange(n, dtype=torch.float64)
    angle = -2 * math.pi / n * grid[:, None] * grid[None, :]
    fourier = torch.polar(torch.ones_like(angle), angle)
    spectrum = torch.einsum("fm,gn,bimn->bifg", fourier, fourier, x.to(torch.complex128))
    product = torch.einsum("fgoi,bifg->bofg", matrices, spectrum)
    return torch.einsum("fm,gn,bofg->bomn", fourier.conj(), fourier.conj(), product).real / n**2


def adjoint(matrix: Tensor) -> Tensor:
    return matrix.transpose(-1, -2).conj()


# The methods


def standard(x: Tensor, state: State, setting: Setting) -> Tensor:
    matrix = convolution_matrix(state["weight"], x.shape[-1], circular=True)
    return add_bias(apply(matrix, x), state["bias"])


def aol(x: Tensor, state: State, setting: Setting) -> Tensor:
    """`K̂[o, i, p] = K[o, i, p] / sqrt(Σ_j |v|[i, j] + ε)`, then one circular convolution."""
    kernel = state["weight"]
    bounds = absolute_correlation(kernel).sum(1)
    effective = kernel / torch.sqrt(bounds + 1e-6).reshape(1, -1, 1, 1)
    return add_bias(apply(convolution_matrix(effective, x.shape[-1], circular=True), x), state["bias"])


def sll(x: Tensor, state: State, setting: Setting) -> Tensor:
    """`y = x − Kᵀ (T ⊙ relu(K ∗ x + bias))`, `T_i = 2 / (Σ_j |K Kᵀ|_ij q_j / q_i + ε)`."""
    q = state["q"].flatten().abs() + 1e-6
    correlation = absolute_correlation(state["weight"].transpose(0, 1))  # of output channels, where AOL takes inputs
    sums = [sum(correlation[i, j] * q[j] / q[i] for j in range(len(q))) for i in range(len(q))]
    scale = torch.stack([2 / (total + 1e-6) for total in sums])
    matrix = convolution_matrix(state["weight"], x.shape[-1], circular=False)
    hidden = torch.relu(add_bias(apply(matrix, x), state["bias"]))
    return x - apply(matrix.T, scale.reshape(1, -1, 1, 1) * hidden)


def cpl_sigma(matrix: Tensor, u: Tensor) -> Tensor:
    """One step of power iteration from u, then `⟨v, A u⟩`; only A is differentiated."""
    with torch.no_grad():
        v = matrix @ u
        v = v / (torch.linalg.vector_norm(v) + 1e-6)
        u = matrix.T @ v
        u = u / (torch.linalg.vector_norm(u) + 1e-6)
    return v @ (matrix @ u)


def cpl(x: Tensor, state: State, setting: Setting) -> Tensor:
    """`y = x − 2 / (σ² + 1e-6) · Aᵀ relu(A x + bias)`; evaluation starts from the exact leading singular vector."""
    matrix = convolution_matrix(state["weight"], x.shape[-1], circular=False)
    leading = torch.linalg.svd(matrix.detach()).Vh[0]
    sigma = cpl_sigma(matrix, state["u"].flatten() if setting.training else leading)
    hidden = torch.relu(add_bias(apply(matrix, x), state["bias"]))
    return x - 2 / (sigma**2 + 1e-6) * apply(matrix.T, hidden)


def cayley_transform(w: Tensor) -> Tensor:
    """The orthogonal matrix of one frequency: (…, o, i) → (…, o, i)."""
    rows, columns = w.shape[-2:]
    if rows < columns:
        return cayley_transform(w.transpose(-1, -2)).transpose(-1, -2)
    identity = torch.eye(columns, dtype=w.dtype)
    upper, lower = w[..., :columns, :], w[..., columns:, :]
    a = upper - adjoint(upper) + adjoint(lower) @ lower
    inverse = torch.linalg.solve(identity + a, identity.expand_as(a))
    return torch.cat([inverse @ (identity - a), -2 * lower @ inverse], dim=-2)


def cayley(x: Tensor, state: State, setting: Setting) -> Tensor:
    kernel = state["weight"]
    scaled = state["alpha"] * kernel / torch.sqrt((kernel**2).sum())
    matrices = cayley_transform(frequency_matrices(scaled, x.shape[-1]))
    return add_bias(apply_per_frequency(matrices, x), state["bias"])


def newton_inverse_root(s: Tensor, steps: int = 10) -> Tensor:
    """`S^(−1/2)` for each matrix of (…, c, c), as far as the Newton iteration comes in so many steps."""
    identity = torch.eye(s.shape[-1], dtype=s.dtype)
    norm = torch.sqrt((s.abs() ** 2).sum((-1, -2), keepdim=True)) + 1e-4
    y, z = s / norm, identity.expand_as(s)
    for _ in range(steps):
        t = (3 * identity - z @ y) / 2
        y, z = y @ t, t @ z
    return z / torch.sqrt(norm)


QUINTICS = (
    (8.507678458438804, -25.255587619523116, 18.746633009400785),
    (4.245797010091767, -3.152362986248245, 0.5855866719251922),
    (4.209330458393553, -3.1270955900540915, 0.5827046415902806),
    (4.062471829625561, -3.0247530377020047, 0.5710339217750652),
    (3.56139884506453, -2.6673884545786986, 0.5303466834563566),
    (2.5586430225486447, -1.8921192734771126, 0.44320398969175845),
    (1.9313330624474776, -1.3112627923820832, 0.3811770752397344),
    (1.875056932607618, -1.2500634660939267, 0.3750062839307668),
)  # fmt: skip
"""a, b, c of the eight steps `a A + b A Aᴴ A + c (A Aᴴ)² A`; `test_polar.py` shows that they are the best ones"""


def polar(matrix: Tensor) -> Tensor:
    """Nearly the polar factor of each matrix of (…, r, c), of any shape."""
    gram = matrix @ adjoint(matrix)
    a = matrix / torch.sqrt(torch.sqrt((gram.abs() ** 2).sum((-1, -2), keepdim=True)))
    for first, third, fifth in QUINTICS:
        square = a @ adjoint(a)
        a = first * a + third * square @ a + fifth * square @ square @ a
    return a


def lot(x: Tensor, state: State, setting: Setting) -> Tensor:
    """`Q = (V Vᴴ + 1e-4 I)^(−1/2) V` at each frequency of the zero-padded image, then crop."""

    def newton(v: Tensor) -> Tensor:
        return newton_inverse_root(v @ adjoint(v) + 1e-4 * torch.eye(v.shape[-2], dtype=v.dtype)) @ v

    return padded_frequencies(x, state, newton)


def lot_polar(x: Tensor, state: State, setting: Setting) -> Tensor:
    """The same with polar factors."""
    return padded_frequencies(x, state, polar)


def padded_frequencies(x: Tensor, state: State, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Matrices (n, n, o, i) that are changed at each frequency of the zero-padded image, then crop."""
    kernel = state["weight"]
    border, s = kernel.shape[-1] // 2, x.shape[-1]
    n = s + 2 * border
    padded = torch.zeros(*x.shape[:2], n, n, dtype=x.dtype)
    padded[:, :, border : border + s, border : border + s] = x
    y = apply_per_frequency(change(frequency_matrices(kernel, n)), padded)
    return add_bias(y[:, :, border : border + s, border : border + s], state["bias"])


def skew_kernel(kernel: Tensor) -> Tensor:
    """`(K − flip(Kᵀ)) / 2`, entry by entry."""
    k = kernel.shape[-1]
    skew = torch.zeros_like(kernel)
    for a, b in square(k):
        skew[:, :, a, b] = (kernel[:, :, a, b] - kernel[:, :, k - 1 - a, k - 1 - b].T) / 2
    return skew


def matricisations(kernel: Tensor) -> tuple[Tensor, ...]:
    """The four matrices (o k, i k), (o k, i k), (o, i k k), (o k k, i) of a kernel, whose least norm bounds SOC's σ."""
    o, i, k, _ = kernel.shape
    return (
        kernel.permute(0, 2, 1, 3).reshape(o * k, i * k),
        kernel.permute(0, 3, 1, 2).reshape(o * k, i * k),
        kernel.reshape(o, i * k * k),
        kernel.permute(0, 2, 3, 1).reshape(o * k * k, i),
    )


def exponential_series(matrix: Tensor, vector: Tensor, terms: int) -> Tensor:
    """`Σ_{n=0..terms} Aⁿ x / n!` for x in the columns of `vector`."""
    power, total = vector, vector
    for n in range(1, terms + 1):
        power = matrix @ power
        total = total + power / math.factorial(n)
    return total


def change_channels(x: Tensor, channels: int) -> Tensor:
    """Keep the first channels, or add channels of zeros."""
    if channels <= x.shape[1]:
        return x[:, :channels]
    return torch.cat([x, torch.zeros(len(x), channels - x.shape[1], *x.shape[2:], dtype=x.dtype)], dim=1)


def bjorck(matrix: Tensor, start: Tensor, steps: int = 20, power_steps: int = 10) -> Tensor:
    """`A ← 1.5 A − 0.5 A Aᵀ A`, from A over an estimate of its spectral norm that is not differentiated."""
    with torch.no_grad():
        v = start
        for _ in range(power_steps):
            u = matrix @ v
            u = u / torch.linalg.vector_norm(u)
            v = matrix.T @ u
            v = v / torch.linalg.vector_norm(v)
        norm = u @ matrix @ v
    a = matrix / norm
    for _ in range(steps):
        a = 1.5 * a - 0.5 * a @ a.T @ a
    return a


Blocks = dict[tuple[int, int], Tensor]
"""The matrices of a block kernel, by their (row, column) offset."""


def block_convolution(first: Blocks, second: Blocks) -> Blocks:
    """At each offset the sum of matrix products over all pairs of offsets that add to it."""
    product: Blocks = {}
    for ((a, b), left), ((c, d), right) in itertools.product(first.items(), second.items()):
        term, offset = left @ right, (a + c, b + d)
        product[offset] = product[offset] + term if offset in product else term
    return product


def bcop_kernel(orthogonal: list[Tensor], outputs: int, inputs: int, k: int) -> Tensor:
    """Kernel (o, i, k, k) from 2k − 1 orthogonal c × c matrices, c = max(i, o)."""
    c = max(inputs, outputs)
    identity = torch.eye(c, dtype=orthogonal[0].dtype)
    h = orthogonal[0][:inputs, :outputs]
    if k == 1 and inputs == outputs:
        return h.reshape(outputs, inputs, 1, 1)
    projectors = [matrix[:, : c // 2] @ matrix[:, : c // 2].T for matrix in orthogonal[1:]]
    blocks: Blocks = {(0, 0): identity}
    for p, q in zip(projectors[0::2], projectors[1::2]):
        not_p, not_q = identity - p, identity - q
        blocks = block_convolution(blocks, {(0, 0): p @ q, (0, 1): p @ not_q, (1, 0): not_p @ q, (1, 1): not_p @ not_q})
    rows = []
    for row in range(k):
        columns = [blocks[column, row] for column in range(k)]  # the row of the kernel is the column of the blocks
        rows.append(torch.stack([(h @ m).T if inputs <= outputs else h.T @ m for m in columns], dim=-1))
    return torch.stack(rows, dim=-2)


def bcop(x: Tensor, state: State, setting: Setting) -> Tensor:
    """One circular convolution with the kernel that block convolution builds."""
    weight = state["weight"]
    starts = setting.draw(*weight.shape[:2], 1)
    return bcop_convolution(x, [bjorck(matrix, start.flatten()) for matrix, start in zip(weight, starts)], state, setting)


def bcop_polar(x: Tensor, state: State, setting: Setting) -> Tensor:
    """The same from polar factors."""
    return bcop_convolution(x, [polar(matrix) for matrix in state["weight"]], state, setting)


def bcop_convolution(x: Tensor, orthogonal: list[Tensor], state: State, setting: Setting) -> Tensor:
    k = (len(orthogonal) + 1) // 2
    kernel = bcop_kernel(orthogonal, setting.out_channels, x.shape[1], k)
    return add_bias(apply(convolution_matrix(kernel, x.shape[-1], circular=True), x), state["bias"])


def soc_sigma(skew: Tensor, state: State, training: bool) -> Tensor:
    """The least of `uᵀ L v` over the four matricisations, after one step of power iteration in training mode."""
    norms = []
    for index, matrix in enumerate(matricisations(skew)):
        u, v = state[f"left{index}"], state[f"right{index}"]
        if training:
            with torch.no_grad():
                u = matrix @ v / torch.linalg.vector_norm(matrix @ v)
                v = matrix.T @ u / torch.linalg.vector_norm(matrix.T @ u)
        norms.append(u @ matrix @ v)
    return min(norms, key=lambda norm: float(norm.detach()))


def soc_matrix(skew: Tensor, sigma: Tensor, s: int) -> Tensor:
    """The scaled skew-symmetric map whose exponential the layer approximates: (c s², c s²)."""
    scale = 1.0 if skew.shape[-1] == 1 else 0.7
    return convolution_matrix(scale * skew / sigma, s, circular=False)


def soc(x: Tensor, state: State, setting: Setting) -> Tensor:
    """`Σ_{n=0..t} Lⁿ x / n! + bias`, 5 terms in training and 12 in evaluation."""
    skew = skew_kernel(state["weight"])
    matrix = soc_matrix(skew, soc_sigma(skew, state, setting.training), x.shape[-1])
    padded = change_channels(x, len(skew))
    series = exponential_series(matrix, padded.flatten(1).T, 5 if setting.training else 12)
    return add_bias(change_channels(series.T.reshape(padded.shape), setting.out_channels), state["bias"])


def eco(x: Tensor, state: State, setting: Setting) -> Tensor:
    """`exp(S / σ)`, truncated, at the frequencies of a dilated 3 × 3 kernel that starts at (0, 0); one circular shift a tap."""
    skew = [(matrix - matrix.T) / 2 for matrix in state["weight"]]
    terms = 5 if setting.training else 10
    blocks = []
    for matrix, u, v in zip(skew, state["left"], state["right"]):
        if setting.training:
            with torch.no_grad():
                u = matrix @ v / torch.linalg.vector_norm(matrix @ v)
                v = matrix.T @ u / torch.linalg.vector_norm(matrix.T @ u)
        identity = torch.eye(len(matrix), dtype=matrix.dtype)
        blocks.append(exponential_series(matrix / (u.T @ matrix @ v), identity, terms))
    if len(blocks) == 1:
        return add_bias(torch.einsum("oi,bihw->bohw", blocks[0], x), state["bias"])
    dilation, y = math.ceil(x.shape[-1] / 3), torch.zeros_like(x)
    placed = [[blocks[number] for number in row] for row in ((0, 1, 1), (2, 3, 4), (2, 4, 3))]
    for a, b in square(3):
        tap = torch.zeros_like(blocks[0])
        for g, h in square(3):
            tap = tap + math.cos(2 * math.pi * (a * g + b * h) / 3) / 9 * placed[g][h]
        shifted = torch.roll(x, ((1 - a) * dilation, (1 - b) * dilation), (2, 3))
        y = y + torch.einsum("oi,bihw->bohw", tap, shifted)
    return add_bias(y, state["bias"])


def sandwich(x: Tensor, state: State, setting: Setting) -> Tensor:
    """`√2 Aᴴ e^ψ relu(√2 e^(−ψ) B x + bias)` with `[A B]` from the Cayley transform at each frequency."""
    kernel = state["weight"]
    scaled = state["alpha"] * kernel / torch.sqrt((kernel**2).sum())
    both = cayley_transform(frequency_matrices(scaled, x.shape[-1]))
    a, b = both[..., : setting.out_channels], both[..., setting.out_channels :]
    psi = state["psi"][:, None, None]
    hidden = torch.relu(add_bias(math.sqrt(2) * torch.exp(-psi) * apply_per_frequency(b, x), state["bias"]))
    return math.sqrt(2) * apply_per_frequency(adjoint(a), torch.exp(psi) * hidden)


DEFINITIONS: dict[str, Callable[[Tensor, State, Setting], Tensor]] = {
    "standard": standard,
    "aol": aol,
    "bcop": bcop,
    "cayley": cayley,
    "cpl": cpl,
    "lot": lot,
    "sll": sll,
    "soc": soc,
    "eco": eco,
    "sandwich": sandwich,
    "bcop-polar": bcop_polar,
    "lot-polar": lot_polar,
}
