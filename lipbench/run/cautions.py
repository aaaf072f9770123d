"""Warnings about how a layer was called, which a reader of its numbers must know."""

from __future__ import annotations

from collections.abc import Iterator

from lipbench import building, registry
from lipbench.cases import Spec
from lipbench.quantities import Caution
from lipbench.workload import Workload


def unused_sizes(spec: Spec) -> Iterator[Caution]:
    """A warning where sizes of a case are mere labels, because the layer does not take them."""
    sizes = registry.shown_sizes(spec) if spec.kernel_size else {}  # an external network has no kernel size and no width
    if unused := [name.replace("_", " ") for name, size in sizes.items() if size is None]:
        text = f"the layer takes no {' and no '.join(unused)}, which is a mere label of the case; do not compare by it"
        yield Caution("unused_size", (), text)


def copied_input(workload: Workload) -> Iterator[Caution]:
    """A warning where the layer gets a copy of its input."""
    if building.overwrites(workload.module):
        text = "the layer changes its input in place, so every call gets a copy of it, with the time and memory of copying"
        yield Caution("input_copied", (), text)
