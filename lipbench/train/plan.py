"""From what is asked for to the cases to train."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from lipbench import errors, external
from lipbench.bounds import require_choice
from lipbench.cases import ExternalNetworkSpec, NetworkSpec
from lipbench.run import isolate
from lipbench.run.executor import Wanted
from lipbench.run.processes import Processes
from lipbench.train.task import CLASSES, DATASETS, IMAGE_SIZES, Budget, TrainingCase

LEARNING_RATE, WEIGHT_DECAY = 0.05, 10**-4.5
"""defaults of every method, none of which is tuned for one"""
BATCH_SIZES = {"digits": 32}
"""default batch sizes of small data sets"""
BATCH_SIZE = 256
"""that of all others, as published"""


@dataclass(frozen=True)
class Request:
    """Networks, losses and seeds to train in every combination, and what all trainings share."""

    methods: Sequence[str]
    sizes: Sequence[str]
    networks: Sequence[str]
    """external ones"""
    dataset: str
    budget: Budget
    losses: Sequence[str] = ("offset",)
    seeds: Sequence[int] = (0,)
    learning_rate: float = LEARNING_RATE
    weight_decay: float = WEIGHT_DECAY
    batch_size: int | None = None
    """None: that of the data set"""
    implementation: str = "paper"
    precision: str = "ieee"
    compile: bool = False
    device: str = "auto"
    threads: int | None = None
    """None: all cores that can be used"""
    settings: str = ""
    """further arguments of external layers and networks"""
    claim: float = 1.0
    """of external networks"""

    @property
    def specs(self) -> list[NetworkSpec | ExternalNetworkSpec]:
        """The networks, for the images of the data set. Raises `LipbenchError` for a size or option that there is not."""
        image, classes = IMAGE_SIZES[self.dataset], CLASSES[self.dataset]
        external.check_options((*self.methods, *self.networks), self.settings, self.claim)
        built: list[NetworkSpec | ExternalNetworkSpec] = [
            NetworkSpec(external.absolute(method, self.settings), size, image, implementation=self.implementation)
            for size, method in itertools.product(self.sizes, self.methods)
        ]
        for name in self.networks:
            if not external.is_external(name):
                require_choice("external network", name, ())
        own = [
            ExternalNetworkSpec(external.absolute(name, self.settings), image, classes, self.claim) for name in self.networks
        ]
        return [*built, *own]


def budget(*, epochs: int | None = None, seconds: float | None = None, steps: int | None = None) -> Budget:
    """The one budget that is given. Raises `LipbenchError` for none, or for several."""
    given = [
        (unit, amount) for unit, amount in (("epochs", epochs), ("seconds", seconds), ("steps", steps)) if amount is not None
    ]
    if len(given) != 1:
        raise errors.one_budget(len(given))
    return Budget(*given[0])  # type: ignore[arg-type]  # one of `Unit`


def cases(request: Request, processes: Processes) -> list[TrainingCase]:
    """The cases of a request, in the order in which they are trained: all networks with one seed before the next seed.

    Raises `LipbenchError` for what does not exist, or cannot be trained on this machine.
    """
    require_choice("dataset", request.dataset, DATASETS)
    specs = request.specs
    if not specs:
        raise errors.nothing_to_train()
    networks = [spec.method for spec in specs if isinstance(spec, ExternalNetworkSpec)]
    methods = list(dict.fromkeys(spec.method for spec in specs if isinstance(spec, NetworkSpec)))
    place = isolate.survey(
        processes, Wanted(methods, (request.implementation,) if methods else (), request.device, request.threads, networks)
    )  # fmt: skip
    return [
        TrainingCase(
            spec, request.dataset, request.budget, request.learning_rate, request.weight_decay, loss,
            request.batch_size or BATCH_SIZES.get(request.dataset, BATCH_SIZE), seed,
            precision=request.precision, device=place.device, threads=request.threads or place.cores, compile=request.compile,
        )
        for seed, loss, spec in itertools.product(request.seeds, request.losses, specs)
    ]  # fmt: skip
