"""The state of a training and its steps: network, optimizer, order of the images, random numbers and time used."""

from __future__ import annotations

import math
import time
from typing import Any

import torch
from torch import Tensor, nn

from lipbench.meters import heap, machine, peaks
from lipbench.state import State
from lipbench.train import chance, checkpoints, classifiers, losses
from lipbench.train.augmentation import augmented
from lipbench.train.checkpoints import Checkpoint
from lipbench.train.data import DataSet
from lipbench.train.order import Order
from lipbench.train.schedule import Pace, one_cycle
from lipbench.train.task import TrainingCase
from lipbench.training import refresh
from lipbench.weights import forget_graphs
from lipbench.workload import autocast

MOMENTUM = 0.9
"""of SGD without Nesterov's (arXiv 2311.16833)"""
REFRESH_STEPS = 200
"""steps after which iterated state is brought to convergence, as published for SOC"""


class NotFiniteError(ArithmeticError):
    """The loss or a weight is infinite or not a number."""


class Clock:
    """Training time: of the laps that are asked for, on a device that has finished its work."""

    def __init__(self, device: str) -> None:
        self._device = device
        self.skip()

    def lap(self) -> float:
        """Seconds since the last call."""
        before = self._mark
        self.skip()
        return self._mark - before

    def skip(self) -> None:
        """Leave out the time since the last call."""
        if self._device == "cuda":
            torch.cuda.synchronize()
        self._mark = time.perf_counter()


class Training:
    """A training that is under way. Its steps depend on the case and on the state alone."""

    def __init__(self, case: TrainingCase, images: DataSet) -> None:
        """Build the network, and run one step to load and compile all that steps need; its effects are undone."""
        machine.set_precision(case.precision)
        if case.device == "cpu":
            heap.keep_freed_memory()
        self.case, self.images = case, images
        self._data_bytes = torch.cuda.memory_allocated() if case.device == "cuda" else 0
        self.module = classifiers.build(case)
        self.network: nn.Module = _compiled(self.module) if case.compile else self.module
        self.loss = losses.build(case.loss, case.classes, case.network.claim * images.constant)
        self.optimizer = torch.optim.SGD(
            [{"params": list(self.module.parameters())}], case.learning_rate, MOMENTUM, weight_decay=case.weight_decay
        )  # fmt: skip
        self.order = Order(len(images.train), case.batch_size, case.seed)
        self.generator = torch.Generator().manual_seed(case.seed + 1)
        """of the augmentation"""
        self.pace = Pace(case.budget, len(images.train) / self.order.batch_size)
        self.loading_seconds = self.rate = 0.0
        self.steps_since, self._losses, self._hits = 0, 0.0, 0
        """steps since the last point of the curve, with the sums of their losses and of correctly classified images"""
        self._cpu_peak_bytes = self._try_a_step()
        chance.seed_all(case.seed)
        self.clock = Clock(case.device)

    def _try_a_step(self) -> int | None:
        """Run a step without an update and undo its effects; its peak memory on a CPU, or None on a GPU."""
        chance.seed_all(self.case.seed)
        state = State(self.module)
        places = torch.arange(self.order.batch_size)
        x, labels = augmented(self.images, self.images.train, places, torch.Generator().manual_seed(self.case.seed))

        def step() -> None:
            with autocast(self.case.precision, x.device.type):
                logits = self.network(x)
            self.loss(logits.float(), labels).backward()

        peak = None
        if self.case.device == "cpu" and not self.case.compile:
            parameters, buffers = (
                sum(one.nbytes for one in held) for held in (self.module.parameters(), self.module.buffers())
            )
            # Parameters, their momentum and buffers are held in every step, and the peak has all else.
            peak = peaks.on_cpu([("step", lambda: None, step)], 2 * parameters + buffers)["step"].total_bytes
        else:
            step()
        self.module.zero_grad(set_to_none=True)
        forget_graphs(self.module)
        state.restore()
        return peak

    @property
    def machine(self) -> str:
        """Processor or GPU, with the threads of a CPU."""
        found = machine.describe(self.case.device, self.case.threads)
        return found.gpu or f"{found.cpu}, {self.case.threads} {'thread' if self.case.threads == 1 else 'threads'}"

    @property
    def parameters(self) -> int:
        return sum(one.numel() for one in self.module.parameters() if one.requires_grad)

    @property
    def epochs(self) -> float:
        """Passes over the training images done."""
        return self.pace.steps / self.pace.steps_per_epoch

    def peak_bytes(self) -> int | None:
        """Largest number of bytes in use, without the data set: of all steps on a GPU, of one step on a CPU."""
        return torch.cuda.max_memory_allocated() - self._data_bytes if self.case.device == "cuda" else self._cpu_peak_bytes

    def step(self) -> None:
        """Choose and augment images, and train on them; the time of both counts. Raises `NotFiniteError`."""
        self.rate = self.case.learning_rate * one_cycle(self.pace.share)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate
        x, labels = augmented(self.images, self.images.train, self.order.batch(), self.generator)
        loading = self.clock.lap()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.case.precision, x.device.type):
            logits = self.network(x)
        loss = self.loss(logits.float(), labels)
        loss.backward()
        self.optimizer.step()
        self._count(loss.item(), int((logits.detach().argmax(1) == labels).sum()))
        if (self.pace.steps + 1) % REFRESH_STEPS == 0:
            refresh(self.module)
        self.loading_seconds += loading
        self.pace.step(loading + self.clock.lap())

    def _count(self, loss: float, hits: int) -> None:
        if not math.isfinite(loss):
            raise NotFiniteError(f"the loss is {loss} in step {self.pace.steps + 1}; a smaller learning rate may help")
        self.steps_since += 1
        self._losses += loss
        self._hits += hits

    def refresh(self) -> None:
        """Bring iterated state to convergence; this counts as training time."""
        self.clock.skip()
        refresh(self.module)
        self.pace.spend(self.clock.lap())

    def check_weights(self) -> None:
        """Raises `NotFiniteError` for a weight that is infinite or not a number."""
        for name, parameter in self.module.named_parameters():
            if not torch.isfinite(parameter).all():
                raise NotFiniteError(f"{name} is not finite after step {self.pace.steps}; a smaller learning rate may help")

    def means(self) -> tuple[float, float]:
        """Mean loss and accuracy of the steps since the last call."""
        images = self.steps_since * self.order.batch_size
        found = self._losses / max(1, self.steps_since), self._hits / max(1, images)
        self.steps_since, self._losses, self._hits = 0, 0.0, 0
        return found

    # ------------------------------------------------------------------------------------------------------- checkpoints

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All that the next steps depend on: tensors by name, and JSON-ready values."""
        tensors, values = chance.states(self.case.device)
        tensors |= {"order": self.order.generator.get_state(), "permutation": self.order.permutation}
        tensors |= {"augmentation": self.generator.get_state()}
        found = {f"random/{name}": tensor for name, tensor in tensors.items()}
        found |= {f"module/{name}": tensor for name, tensor in checkpoints.tensors_of(self.module).items()}
        for place, parameter in enumerate(self.module.parameters()):
            momentum = self.optimizer.state[parameter].get("momentum_buffer")
            if momentum is not None:
                found[f"momentum/{place}"] = momentum
        return found, {
            "random": values, "numbers": checkpoints.numbers_of(self.module), "position": self.order.position,
            "steps": self.pace.steps, "seconds": self.pace.seconds, "loading_seconds": self.loading_seconds, "rate": self.rate,
            "since": [self.steps_since, self._losses, self._hits],
        }  # fmt: skip

    def restore(self, stored: Checkpoint) -> None:
        """Continue from a checkpoint. Raises `KeyError`, `TypeError`, `ValueError` or `RuntimeError` where it does not fit."""
        values, tensors = stored.values, stored.part("random/")
        if why := checkpoints.restore(self.module, stored.part("module/"), values["numbers"]):
            raise ValueError(why)
        momenta = stored.part("momentum/")
        for place, parameter in enumerate(self.module.parameters()):
            if str(place) in momenta:
                self.optimizer.state[parameter]["momentum_buffer"] = momenta[str(place)].to(parameter).view_as(parameter)
        self.order.generator.set_state(tensors["order"])
        self.order.permutation, self.order.position = tensors["permutation"], int(values["position"])
        self.generator.set_state(tensors["augmentation"])
        self.pace.steps, self.pace.seconds = int(values["steps"]), float(values["seconds"])
        self.loading_seconds, self.rate = float(values["loading_seconds"]), float(values["rate"])
        self.steps_since, self._losses, self._hits = values["since"]
        chance.restore(tensors, values["random"])
        self.clock.skip()


def _compiled(module: nn.Module) -> nn.Module:
    from lipbench.compiled import require_cxx_compiler

    if next(module.parameters()).device.type == "cpu":
        require_cxx_compiler()
    found: nn.Module = torch.compile(module, dynamic=False)  # type: ignore[assignment]  # a module becomes a module
    return found
