"""What this process can measure: whether names exist and can run here, and which device 'auto' means."""

from __future__ import annotations

import itertools

import torch

from lipbench import errors, external, registry
from lipbench.cases import PAPER
from lipbench.meters import machine
from lipbench.run.executor import Wanted


def find_device(wanted: Wanted) -> tuple[str, str | None]:
    """The device, 'cpu' or 'cuda', and the name of the GPU, None on a CPU. Raises `LipbenchError` as `Executor.survey` does."""
    for name in wanted.methods:
        registry.check_name(name)
    for name in wanted.networks:
        registry.check_network_name(name)
    known = [registry.find(name) for name in wanted.methods if not external.is_external(name)]
    offered = {PAPER, *(implementation for method in known for implementation in method.implementations)}
    for implementation in wanted.implementations:
        if implementation not in offered:
            raise errors.unknown_choice("implementation", implementation, offered)
    device = machine.device_of(wanted.device)
    for method, name in itertools.product(known, wanted.implementations):
        if name in method.implementations:
            registry.check_machine(method.implementations[name], device)
    gpu = torch.cuda.get_device_properties(torch.cuda.current_device()).name if device == "cuda" else None
    return device, gpu
