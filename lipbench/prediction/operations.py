"""The operations of each phase of a case, seen on fake tensors: what kind each is, its multiply-accumulates and its bytes.

Nothing is computed. `time.py` makes times of them: from the peaks of a GPU, or from what was measured on a machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lipbench import errors
from lipbench.cases import Case
from lipbench.meters import memory as memory_meter
from lipbench.meters.attempts import Attempts
from lipbench.meters.formulas import MACS
from lipbench.meters.free import is_free_of_macs, is_view
from lipbench.meters.macs import KNOWN
from lipbench.prediction import forms
from lipbench.prediction.memory import imagined
from lipbench.quantities import PHASES
from lipbench.workload import Workload

aten = torch.ops.aten

Kind = Literal["product", "convolution", "transform", "factorisation", "kernel", "reduction", "elementwise", "view", "unknown"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""factorisation: inverses and solves too · kernel: an operation of another package with a formula, such as a Triton kernel ·
elementwise: copies and everything else without MACs · view: also new tensors that are not written · unknown: may have MACs, but
has no formula"""
_CONVOLUTIONS = {aten.convolution, aten.convolution_backward}
_TRANSFORMS = {aten._fft_c2c, aten._fft_r2c, aten._fft_c2r}
_REDUCTIONS = {"sum", "mean", "prod", "amax", "amin", "max", "min", "norm", "linalg_vector_norm", "var", "std", "all", "any"}
_UNWRITTEN = {"empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "lift_fresh"}
_NOT_READ = {"copy_", "fill_", "zero_", "normal_", "uniform_", "bernoulli_"}
"""operations in place that do not read what they replace"""


@dataclass(frozen=True)
class Operation:
    """One operation that PyTorch dispatches below autograd."""

    name: str
    """e.g. 'bmm', without the namespace of PyTorch's own"""
    kind: Kind
    macs: float
    """real multiply-accumulates; 0 for a kind without, or unknown ones"""
    read_bytes: int
    """each operand once"""
    written_bytes: int
    dtype: str
    """of its numbers, e.g. 'float32' or 'complex64'"""
    form: str | None = None
    """what it is measured as, by `forms.AXES`; None where that is not known"""
    sizes: tuple[float, ...] = ()
    """of its form"""
    in_backward: bool = False
    """whether autograd's engine runs it"""
    recorded: bool = False
    """whether autograd makes a node of the graph for it"""
    copies: tuple[tuple[str, tuple[float, ...]], ...] = ()
    """forms and sizes of copies that its kernel makes first"""

    @property
    def bytes(self) -> int:
        return self.read_bytes + self.written_bytes

    @property
    def is_launched(self) -> bool:
        """Whether a device runs it: a view changes only what the host knows of a tensor."""
        return self.kind != "view"


def of_case(case: Case) -> tuple[dict[str, tuple[Operation, ...]], dict[str, str]]:
    """The operations of every phase of a case by the phase's name, and why a phase has none.

    The phases are forward, backward, step and inference, and parametrize for a module with two halves. Raises `LipbenchError`
    as `memory.memory` does, and for a compiled case, whose operations are not those of the module.
    """
    if case.compile:
        raise errors.compiled_not_predicted()
    attempts = Attempts()
    with imagined(case) as workload:
        attempts("step", lambda: memory_meter.make_optimizer_state(workload))  # which the first step alone has to do
        found = {name: seen for name, run in _stages(workload) if (seen := attempts(name, run)) is not None}
    if not found:
        attempts.raise_first()
    update = found.pop("step", ())
    if "backward" in found:
        found["step"] = (*found["forward"], *found["backward"], *update)
    return {name: found[name] for name in PHASES if name in found}, attempts.failures


def _stages(workload: Workload) -> Iterator[tuple[str, Callable[[], tuple[Operation, ...]]]]:
    """Name and count of each stage, to be run one after another; that of `step` is the update alone."""

    def counted(run: Callable[[], object], prepare: Callable[[], object] = lambda: None) -> tuple[Operation, ...]:
        prepare()
        recorder = _Recorder()
        with recorder:
            run()
        return tuple(recorder.operations)

    def warm() -> None:
        workload.prepare_inference()
        workload.inference()
        workload.prepare_inference()

    yield "forward", lambda: counted(workload.forward, workload.prepare_training)
    if workload.output is not None:  # otherwise the forward pass has failed, and says why
        yield "backward", lambda: counted(workload.backward)
        yield "step", lambda: counted(workload.optimizer.step)
    if workload.has_halves:
        yield "parametrize", lambda: counted(workload.parametrize, workload.prepare_training)
    yield "inference", lambda: counted(workload.inference, warm)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch gives it no types
    """Lists every operation, in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # nor this
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, torch._ops.OpOverload) or func.namespace == "prim":  # a question about a tensor
            return func(*args, **kwargs)
        if func._overloadpacket not in KNOWN:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        result = func(*args, **kwargs)
        self.operations.append(_described(func, args, kwargs, result))
        return result


def _described(func: Any, args: Any, kwargs: Mapping[str, Any], result: Any) -> Operation:
    packet, name = func._overloadpacket, func._schema.name.removeprefix("aten::")
    kind, macs = _kind(func, packet, name), 0.0
    read, written = _traffic(func, name, args, kwargs, result)
    if kind == "elementwise" and written == 0:
        kind = "view"  # such as `_unsafe_view`, or a check that answers a question
    if packet in KNOWN:
        macs = KNOWN[packet](*args, **kwargs, out_val=result) / 2
    numbers = [one.dtype for one in _tensors((result, args, kwargs)) if one.is_floating_point() or one.is_complex()]
    dtype = str(numbers[0] if numbers else torch.float32).removeprefix("torch.")
    if kind == "view":
        read = written = 0
    operands, made = _tensors((args, kwargs)), _tensors(result)
    form = forms.form_of(name, kind, args, operands, made, read + written)
    in_backward = torch._C._current_autograd_node() is not None
    return Operation(
        name, kind, macs, read, written, dtype,
        form=form[0] if form else None,
        sizes=form[1] if form else (),
        in_backward=in_backward,
        recorded=not in_backward and torch.is_grad_enabled() and any(one.requires_grad for one in operands),
        copies=forms.copies(kind, operands),
    )  # fmt: skip


def _kind(func: Any, packet: Any, name: str) -> Kind:
    if packet in _CONVOLUTIONS:
        return "convolution"
    if packet in _TRANSFORMS:
        return "transform"
    if packet in MACS:
        return "factorisation" if "linalg" in name or name in _FACTORISATIONS else "product"
    if packet in KNOWN:
        return "kernel"
    if is_view(func) or name in _UNWRITTEN:
        return "view"
    if not is_free_of_macs(func):
        return "unknown"
    return "reduction" if name in _REDUCTIONS or _REDUCTION_TAG & set(func.tags) else "elementwise"


_FACTORISATIONS = {"cholesky_solve", "geqrf"}
_REDUCTION_TAG = {torch.Tag.reduction} if hasattr(torch.Tag, "reduction") else set()


def _traffic(func: Any, name: str, args: Any, kwargs: Mapping[str, Any], result: Any) -> tuple[int, int]:
    """Bytes that an operation reads and writes. What is written in place is read too, unless it is only replaced."""
    schema = func._schema.arguments
    given = {one.name: one for one in schema}
    values = {**dict(zip((one.name for one in schema), args)), **kwargs}
    changed = {key for key in values if given[key].alias_info is not None and given[key].alias_info.is_write}
    outputs = {key for key in changed if given[key].kwarg_only} | (changed if name in _NOT_READ else set())
    outputs |= set(values) if name.endswith("_like") or name.startswith("new_") else set()  # these take a shape alone
    operands = [one for key, value in values.items() if key not in outputs for one in _tensors(value)]
    known = {one.untyped_storage()._cdata for one in operands}
    made = [one for one in _tensors(result) if one.untyped_storage()._cdata not in known]
    replaced = [one for key in changed for one in _tensors(values[key])]
    return _bytes(operands), _bytes([*replaced, *([] if replaced else made)])


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _bytes(tensors: list[Tensor]) -> int:
    """Bytes of distinct tensors; an expanded one is no larger than what it repeats."""
    distinct = {(one.untyped_storage()._cdata, one.storage_offset(), tuple(one.shape)): one for one in tensors}
    return sum(_own_bytes(one) for one in distinct.values())


def _own_bytes(tensor: Tensor) -> int:
    repeated = math.prod(size for size, stride in zip(tensor.shape, tensor.stride()) if stride == 0)
    return tensor.numel() * tensor.element_size() // max(repeated, 1)
