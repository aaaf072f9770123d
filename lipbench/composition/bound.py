"""A proved upper bound of a module's Lipschitz constant, from the constants of its operations.

The graph of the module is cut at its operations that are not affine. Between the cuts it is affine: an operand u is
Σ Aᵢ zᵢ + constant, where the zᵢ are the cut values before it: the input, and results of operations. If ‖δzᵢ‖ ≤ Lᵢ ‖δx‖, then
for any weights wᵢ > 0, by the Cauchy–Schwarz inequality,

    ‖δu‖ = ‖Σ (Aᵢ Lᵢ ÷ wᵢ) (wᵢ δzᵢ ÷ Lᵢ)‖ ≤ ‖[A₁ L₁ ÷ w₁ … A_m L_m ÷ w_m]‖ √(Σ wᵢ²) ‖δx‖.

Let nᵢ = ‖Aᵢ‖ Lᵢ. Weights 1 give √m ‖[A₁ L₁ … A_m L_m]‖. Weights √nᵢ give at most Σ nᵢ, the triangle inequality, and less where
the Aᵢ have different ranges. Weights nᵢ give √(Σ nᵢ²) where the ranges are orthogonal, as in a concatenation. The smallest
of the three counts. An operation with constant K has results with ‖δz‖ ≤ K ‖δu‖.

A better bound exists where the zᵢ depend on different parts of the input. If every zᵢ is the input, or an operation on operands
uᵢ = Cᵢ x + constant, then Σ wᵢ² ‖δzᵢ‖² ≤ ‖[wᵢ Kᵢ Cᵢ]‖² ‖δx‖² with the blocks one above the other, where entries of the input
that its A does not read are left out of its block. This bound is exact for parts of the input that go separate ways.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lipbench.composition import elementary, linear
from lipbench.composition.graph import Constant, Graph, Node, Symbol, cost, evaluate, needed
from lipbench.composition.modules import dtype_name, graph_of, point
from lipbench.composition.tape import UntraceableError
from lipbench.layers.base import TwoHalves
from lipbench.meters import lipschitz
from lipbench.meters.noise import Map
from lipbench.meters.search import image_size
from lipbench.quantities import Bound

WORK_LIMIT = 1e11
"""Largest estimated number of multiply-accumulates and written entries of all spectra of a module; about a minute on a core."""
LayerConstant = Callable[[TwoHalves, Tensor], Bound]
"""(layer, images of its input's shape) → its best bound"""


def upper_bound(module: nn.Module, like: Tensor, layer_constant: LayerConstant) -> tuple[Bound | None, str]:
    """An upper bound of a module's Lipschitz constant, in its present mode, and "", or None and the reason why there is none.

    `like` has the shape of one image, (1, …), in float64. Layers with two halves enter with `layer_constant`, all other
    modules, and layers without one, with the operations that they apply. Buffers of the module
    may change: give a copy.
    """
    opened: set[nn.Module] = set()
    try:
        while True:
            graph = graph_of(module, like, opened)
            try:
                largest = _Bounds(graph, layer_constant).constant((graph.result,))
                break
            except _NoConstantError as found:
                opened.add(found.layer)
    except UntraceableError as reason:
        return None, str(reason)
    except Exception as error:  # an external module may raise anything, and may be built in ways that the tape does not know
        return None, " ".join(f"{type(error).__name__}: {error}".split())
    return Bound(largest, None, "upper bound", "composition", image_size(like)), ""


class _NoConstantError(Exception):
    """A layer with two halves has only a lower bound: its operations must be traced."""

    def __init__(self, layer: nn.Module) -> None:
        self.layer = layer


# ------------------------------------------------------------------------------------------------------------- the bounds


@dataclass(frozen=True)
class _Cut:
    """A cut value: the input, the result of an operation that is not affine, or the maximum and minimum of two tensors."""

    nodes: tuple[Node, ...]

    @property
    def like(self) -> Tensor:
        """A zero of the value's shape, batch of one first; several tensors as one vector."""
        if len(self.nodes) == 1:
            shape = self.nodes[0].shape
            return torch.zeros(shape if shape[:1] == (1,) and len(shape) > 1 else (1, *shape), dtype=torch.float64)
        return torch.zeros(1, sum(math.prod(node.shape) for node in self.nodes), dtype=torch.float64)

    def given(self, value: Tensor) -> dict[Node, Tensor]:
        pieces = torch.split(value.flatten(), [math.prod(node.shape) for node in self.nodes])
        return {node: piece.reshape(node.shape) for node, piece in zip(self.nodes, pieces)}


class _Bounds:
    """Bounds of the constants of all operations in a graph, each with respect to the input."""

    def __init__(self, graph: Graph, layer_constant: LayerConstant) -> None:
        self._source = graph.source
        self._layer_constant = layer_constant
        self._known: dict[_Cut, float] = {_Cut((graph.source,)): 1.0}
        self._pairs: dict[frozenset[object], dict[str, Node]] = {}
        for node in needed([graph.result], set()):
            if node.name in elementary.PAIRS and len(node.arguments) == 2:
                self._pairs.setdefault(_operands_of(node), {})["max" if "max" in node.name else "min"] = node
        self._work = 0.0

    def constant(self, targets: Sequence[Symbol]) -> float:
        """A bound of the constant of the map from the input to `targets`, taken as one vector."""
        cuts = self._cuts(targets)
        for cut in cuts:  # in order, so that a deep network needs no deep recursion
            if cut not in self._known:
                self._known[cut] = self._gain(cut) * self.constant(_operands(cut))
        maps = [(cut, self._known[cut]) for cut in cuts if self._known[cut] > 0]
        norms = [self._norm(targets, [(cut, scale)]) for cut, scale in maps]
        maps, norms = _without_zeros(maps, norms)
        if len(maps) <= 1:
            return sum(norms)
        together = min(self._weighted(targets, maps, norms, power) for power in (0.0, 0.5, 1.0))
        return min(sum(norms), together, self._by_parts(targets, maps))

    def _weighted(
        self, targets: Sequence[Symbol], maps: Sequence[tuple[_Cut, float]], norms: Sequence[float], power: float
    ) -> float:
        """‖[Aᵢ Lᵢ ÷ wᵢ]‖ √(Σ wᵢ²) with wᵢ = nᵢ^power."""
        weights = [norm**power for norm in norms]
        scaled = [(cut, scale / weight) for (cut, scale), weight in zip(maps, weights)]
        return self._norm(targets, scaled) * math.sqrt(sum(weight**2 for weight in weights))

    def _by_parts(self, targets: Sequence[Symbol], maps: Sequence[tuple[_Cut, float]]) -> float:
        """‖[Aᵢ]‖ ‖[Kᵢ Cᵢ]‖, where all operands are affine in the input; else infinite."""
        source = _Cut((self._source,))
        above = [cut for cut, _ in maps if cut != source]
        if any(self._cuts(_operands(cut)) != [source] for cut in above):
            return math.inf
        gains = [self._gain(cut) for cut in above]
        read = self._read(targets, source) if len(above) < len(maps) else None

        inside = [needed(_operands(cut), {self._source}) for cut in above]

        def stacked(x: Tensor) -> Tensor:
            parts = [] if read is None else [(x * read).reshape(1, -1)]
            for cut, gain, order in zip(above, gains, inside):
                found = _broadcast(evaluate(_operands(cut), source.given(x), order))
                parts.append(gain * torch.cat([_as_real(part).reshape(1, -1) for part in found], dim=1))
            return torch.cat(parts, dim=1)

        nodes = [operand for cut in above for operand in _operands(cut)]
        first = self._spectrum(_batched(stacked), source.like, cost(nodes, {self._source}))
        return first * self._norm(targets, [(cut, 1.0) for cut, _ in maps])

    def _read(self, targets: Sequence[Symbol], cut: _Cut) -> Tensor:
        """1 for every entry of a cut value that `targets` depend on, else 0: the columns of its A that are not zero, by the
        gradient of a random combination."""
        x = cut.like.requires_grad_()
        with torch.enable_grad():
            out = self._affine(targets, [(cut, 1.0)])(x)
        (gradient,) = torch.autograd.grad(out, x, point(out, 0))
        return (gradient != 0).double()

    def _cuts(self, targets: Sequence[Symbol]) -> list[_Cut]:
        """The cut values that `targets` are affine in, in order. Raises `UntraceableError` for other operations."""
        found: dict[_Cut, int] = {}
        seen: set[Node] = set()
        waiting = [target for target in targets if isinstance(target, Node)]
        while waiting:
            node = waiting.pop()
            if node in seen:
                continue
            seen.add(node)
            if node.dtype not in (torch.float64, torch.complex128):
                raise UntraceableError(_refusal(node))
            if node is not self._source and linear.is_affine(node) and not self._is_result(node):
                waiting += node.arguments
            else:
                cut = self._cut(node)
                found[cut] = max(member.place for member in cut.nodes)
        return sorted(found, key=lambda cut: found[cut])

    def _is_result(self, node: Node) -> bool:
        """Whether a node is one of the results of an operation that is not affine."""
        return node.name == "item" and not linear.is_affine(node.arguments[0])

    def _cut(self, node: Node) -> _Cut:
        if node is self._source:
            return _Cut((node,))
        if node.name == "item" and node.args[1] != 0:
            raise UntraceableError(_refusal(node.arguments[0]))
        partners = self._pairs.get(_operands_of(node), {}) if node.name in elementary.PAIRS else {}
        return _Cut(tuple(partners[name] for name in sorted(partners)) if partners else (node,))

    def _gain(self, cut: _Cut) -> float:
        """The constant of the operation behind a cut value."""
        node = _operation(cut)
        if node.layer is not None:
            return self._of_layer(node)
        found = elementary.constant(node)
        is_complex = any(operand.dtype.is_complex for operand in node.arguments)
        if found is None or (is_complex and node.name != "abs"):
            raise UntraceableError(_refusal(node))
        return found

    def _of_layer(self, node: Node) -> float:
        assert isinstance(node.layer, TwoHalves)
        bound = self._layer_constant(node.layer, torch.zeros(node.arguments[0].shape, dtype=torch.float64))
        if bound.kind not in ("exact", "upper bound"):
            raise _NoConstantError(node.layer)
        return bound.largest

    # ---------------------------------------------------------------------------------------------------- affine parts

    def _norm(self, targets: Sequence[Symbol], maps: Sequence[tuple[_Cut, float]]) -> float:
        """‖[A₁ s₁ … A_m s_m]‖ of the cut values with their scales."""
        apply = self._affine(targets, maps)
        likes = [cut.like for cut, _ in maps]
        like = likes[0] if len(maps) == 1 else torch.zeros(1, sum(part.numel() for part in likes), dtype=torch.float64)
        if len(maps) > 1 and all(part.dim() == 4 and part.shape[2:] == likes[0].shape[2:] for part in likes):
            like = torch.cat(likes, dim=1)
        return self._spectrum(apply, like, cost(targets, {node for cut, _ in maps for node in cut.nodes}))

    def _affine(self, targets: Sequence[Symbol], maps: Sequence[tuple[_Cut, float]]) -> Map:
        """The affine map from the scaled cut values, one after the other, to `targets`; other cut values are zero."""
        zeros: dict[Node, Tensor] = {}
        for cut in self._cuts(targets):
            zeros |= cut.given(cut.like)
        nodes = needed(targets, set(zeros))

        def apply(x: Tensor) -> Tensor:
            pieces = torch.split(x.flatten(), [cut.like.numel() for cut, _ in maps])
            given = dict(zeros)
            for piece, (cut, scale) in zip(pieces, maps):
                given |= cut.given(scale * piece)
            return _joined(_broadcast(evaluate(targets, given, nodes)))

        return _batched(apply)

    def _spectrum(self, apply: Map, like: Tensor, work: float) -> float:
        """The largest singular value of an affine map. Raises `UntraceableError` where it is not known for certain."""
        self._work += work * min(like.numel(), lipschitz.DENSE_LIMIT)
        if self._work > WORK_LIMIT:
            raise UntraceableError("not computed: too large")
        if not lipschitz.is_affine(apply, like):
            raise UntraceableError("a part that should be affine is not")
        found = lipschitz.exact_singular_values(apply, like)
        if found is None:
            found = lipschitz.extreme_singular_values(apply, like, both=False)
        if found is None or found.kind != "exact":
            raise UntraceableError("the norm of a linear part did not converge")
        return found.largest * (1 + found.residual) + found.uncertainty


def _without_zeros(maps: list[tuple[_Cut, float]], norms: list[float]) -> tuple[list[tuple[_Cut, float]], list[float]]:
    kept = [place for place, norm in enumerate(norms) if norm > 0]
    return [maps[place] for place in kept], [norms[place] for place in kept]


def _operation(cut: _Cut) -> Node:
    node = cut.nodes[0]
    return node.arguments[0] if node.name == "item" else node


def _operands(cut: _Cut) -> tuple[Symbol, ...]:
    """What the operation behind a cut value is applied to: its arguments that depend on the input."""
    node = _operation(cut)
    if node.name in elementary.PAIRS:
        return tuple(argument for argument in node.args if isinstance(argument, Node | Constant))
    return tuple(dict.fromkeys(node.arguments))


def _operands_of(node: Node) -> frozenset[object]:
    return frozenset(map(id, node.args))


def _refusal(node: Node) -> str:
    if node.dtype.is_floating_point and node.dtype != torch.float64:
        return f"it computes in {dtype_name(node.dtype)}"
    if len(node.arguments) > 1:
        return f"the constant of {node.name} of two tensors that depend on the input is unknown"
    return f"the constant of {node.name} is unknown"


def _batched(apply: Map) -> Map:
    """A map of one image as a map of a batch."""
    return lambda x: torch.cat([apply(image) for image in torch.split(x, 1)])


def _broadcast(found: list[Tensor]) -> list[Tensor]:
    """The operands of a maximum, each repeated to the shape of the result."""
    return found if len(found) == 1 else list(torch.broadcast_tensors(*found))  # type: ignore[no-untyped-call]  # torch gives it no types


def _joined(found: list[Tensor]) -> Tensor:
    """Targets as one batch of one; a single tensor keeps its shape."""
    real = [_as_real(part) for part in found]
    if len(real) > 1:
        return torch.cat([part.reshape(1, -1) for part in real], dim=1)
    return real[0] if real[0].dim() > 1 and real[0].shape[0] == 1 else real[0].reshape(1, *real[0].shape)


def _as_real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
