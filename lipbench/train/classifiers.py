"""The network of a training, with the weights that its seed gives."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import nn

from lipbench import registry
from lipbench.cases import ExternalNetworkSpec
from lipbench.layers.base import TwoHalves
from lipbench.train.task import TrainingCase
from lipbench.weights import converted
from lipbench.workload import set_precision


def build(case: TrainingCase) -> nn.Module:
    """The network of a case in training mode on its device: (b, 3, s, s) → (b, classes), in float32.

    The weights are drawn on the CPU from the case's seed. Raises `LipbenchError` for a network that cannot be built.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(case.seed)
        if isinstance(case.network, ExternalNetworkSpec):
            module = registry.build(replace(case.network, classes=case.classes))
        else:
            module = registry.build_network(case.network, case.classes)
    set_precision((half for half in module.modules() if isinstance(half, TwoHalves)), case.precision)
    return converted(module, torch.float32, case.device).train()
