"""A workload whose stages run what `torch.compile` makes of its module."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from lipbench import errors
from lipbench.workload import Group, Workload, image_size, parameter_halves


class CompiledWorkload(Workload):
    """A workload whose stages run what `torch.compile` makes of its module: one graph each, wherever the module allows that.

    Training compiles the module whole, and its parameter halves once more to be timed alone; the optimizer's update stays
    as it is. In evaluation the input halves are compiled, and the parameter halves remain what the cache holds: it is looked
    up, and filled where it is empty, outside the graph, since no graph can decide by version counters. Module, data and
    optimizer are those of the workload it is made from, which goes on to run uncompiled.

    Raises `UnsupportedError` where there is no C++ compiler for a graph on the CPU.
    """

    def __init__(self, workload: Workload) -> None:
        vars(self).update(vars(workload))  # shared: what each had of its own would count as memory twice
        from torch._dynamo.utils import counters  # here, since importing it takes a second that an uncompiled case can spare

        if workload.case.device == "cpu":
            _require_cxx_compiler()
        counters.clear()
        self._counters = counters
        self._network = torch.compile(self.module, dynamic=False)
        self._parameters = torch.compile(parameter_halves, dynamic=False)
        self._looked_up = [(half, _LookedUp()) for half in self.halves]
        self.recompiled: dict[str, None] = {}
        """stages during which something was compiled after their first call"""

    def forward(self) -> Tensor:
        output: Tensor = self._network(self.x)
        self.output = output
        return output

    def parametrize(self) -> None:
        self.effective = self._parameters(self.halves)

    def inference(self) -> Tensor:
        with torch.inference_mode(), self._caches_outside():
            output: Tensor = self._network(self._images)
        self.output = output
        return output

    def groups(self) -> list[Group]:
        return [replace(group, prepare=self._watched(group)) for group in super().groups()]

    @property
    def graphs(self) -> int:
        """How many were compiled since this was made."""
        return int(self._counters["stats"]["unique_graphs"])

    def graph_breaks(self) -> list[str]:
        """Why what was compiled since this was made left the graph, one line each."""
        return [reason.splitlines()[0] for reason in self._counters["graph_break"]]

    def _watched(self, group: Group) -> Callable[[], None]:
        """The preparation of a group, which also looks whether anything was compiled since its first call."""
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
        """Have every half take, while the graph runs, what its cache gives it before."""
        for half, effective in self._looked_up:
            effective.found = half.effective_parameters(image_size(half))
            vars(half)["effective_parameters"] = effective
        try:
            yield
        finally:
            for half, effective in self._looked_up:
                del vars(half)["effective_parameters"]
                effective.found = ()  # the cache holds them; what has left it takes no memory


class _LookedUp:
    """In the place of a half's `effective_parameters`: what that gave before."""

    found: tuple[Tensor, ...] = ()

    def __call__(self, image_size: int) -> tuple[Tensor, ...]:
        return self.found


def _require_cxx_compiler() -> None:
    from torch._inductor import cpp_builder, exc

    try:
        cpp_builder.get_cpp_compiler()
    except exc.InvalidCxxCompiler as error:
        raise errors.no_cxx_compiler() from error
