"""A workload whose stages run its module compiled by `torch.compile`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from lipbench import errors
from lipbench.workload import Group, Workload, image_size, parameter_halves


class CompiledWorkload(Workload):
    """A workload whose stages run its module compiled by `torch.compile`: one graph each, wherever the module allows that.

    For training, the whole module is compiled, and its parameter halves once more, so that they can be timed alone; the
    optimizer's update is not compiled. For evaluation, the input halves are compiled, and the parameter halves come from the
    cache: it is read, and filled where it is empty, outside the graph, since a graph cannot check version counters. Module,
    data and optimizer are shared with the given workload, which still runs uncompiled.

    Raises `UnsupportedError` where there is no C++ compiler for a graph on the CPU.
    """

    def __init__(self, workload: Workload) -> None:
        vars(self).update(vars(workload))  # shared: copies would count as memory twice
        self.inference_only = workload.inference_only
        from torch._dynamo.utils import counters  # here, since the import takes a second and only a compiled case needs it

        if workload.case.device == "cpu":
            require_cxx_compiler()
        counters.clear()
        self._counters = counters
        self._network = torch.compile(self.module, dynamic=False)
        self._parameters = torch.compile(parameter_halves, dynamic=False)
        self._looked_up = [(half, _LookedUp()) for half in self.halves]
        self.recompiled: dict[str, None] = {}
        """stages during which `torch.compile` compiled again after their first call"""

    def apply(self, x: Tensor) -> Tensor:
        with self.autocast:
            output: Tensor = self._network(x)
        return output

    def parametrize(self) -> None:
        self.effective = self._parameters(self.halves)

    def inference(self) -> Tensor:
        with torch.inference_mode(), self._caches_outside():
            return super().inference()

    def groups(self) -> list[Group]:
        return [replace(group, prepare=self._watched(group)) for group in super().groups()]

    @property
    def graphs(self) -> int:
        """Number of graphs compiled since this workload was made."""
        return int(self._counters["stats"]["unique_graphs"])

    def graph_breaks(self) -> list[str]:
        """Reasons of the graph breaks since this workload was made, one line each."""
        return [reason.splitlines()[0] for reason in self._counters["graph_break"]]

    def _watched(self, group: Group) -> Callable[[], None]:
        """The preparation of a group, which also checks whether anything was compiled since the group's first call."""
        iterations = expected = 0

        def prepare() -> None:
            nonlocal iterations, expected
            if iterations > 1 and self.graphs > expected:
                self.recompiled.update(dict.fromkeys(group.stages))
            iterations, expected = iterations + 1, self.graphs
            group.prepare()

        return prepare

    @contextmanager
    def _caches_outside(self) -> Iterator[None]:
        """Read every half's cache first; within the block, the halves return these effective parameters."""
        for half, effective in self._looked_up:
            effective.found = half.effective_parameters(image_size(half))
            vars(half)["effective_parameters"] = effective
        try:
            yield
        finally:
            for half, effective in self._looked_up:
                del vars(half)["effective_parameters"]
                effective.found = ()  # the cache holds them; those that it dropped must not stay in memory


class _LookedUp:
    """A replacement for a half's `effective_parameters` that returns what was read from the cache before."""

    found: tuple[Tensor, ...] = ()

    def __call__(self, image_size: int) -> tuple[Tensor, ...]:
        return self.found


def require_cxx_compiler() -> None:
    """Raises `UnsupportedError` where there is no C++ compiler for a graph on the CPU."""
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise errors.no_cxx_compiler() from error
