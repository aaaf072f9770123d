"""Trainings as plain data: what is trained, on what budget, and what came of it. Nothing here imports torch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from lipbench import errors
from lipbench.bounds import require_choice, require_positive
from lipbench.cases import DEVICES, PRECISIONS, ExternalNetworkSpec, NetworkSpec

DATASETS = ("digits", "fashion-mnist", "cifar10", "cifar100", "tiny-imagenet")
CLASSES: Mapping[str, int] = {"digits": 10, "fashion-mnist": 10, "cifar10": 10, "cifar100": 100, "tiny-imagenet": 200}
IMAGE_SIZES: Mapping[str, int] = {"digits": 8, "fashion-mnist": 32, "cifar10": 32, "cifar100": 32, "tiny-imagenet": 64}
"""height and width of the images that a network receives"""
LOSSES = ("offset", "annealed", "cross-entropy")
RADII = (36 / 255, 72 / 255, 108 / 255, 1.0)
"""radii of certified robust accuracy, for pixels in [0, 1]; the first one is that of the published search"""
ATTACKED_IMAGES = 128
"""number of images that are attacked unless told otherwise"""
Unit = Literal["epochs", "seconds", "steps"]
Part = Literal["train", "validation", "test"]
TrainingStatus = Literal["running", "ok", "not finite", "out of memory", "failed"]
"""running: not finished, which `--resume` continues · not finite: loss or weights became infinite or NaN"""


def radius_key(radius: float) -> str:
    """A radius as it is written in `Evaluation.certified`."""
    return f"{radius:.6g}"


@dataclass(frozen=True, order=True)
class Budget:
    """What a training may use: epochs, optimizer steps, or seconds of training time (evaluation is not counted)."""

    unit: Unit
    amount: float

    def __post_init__(self) -> None:
        require_choice("unit of a budget", self.unit, get_args(Unit))
        whole = self.unit == "seconds" or float(self.amount).is_integer()
        if not (math.isfinite(self.amount) and self.amount > 0 and whole):
            raise errors.bad_budget(self.unit, self.amount)

    def __str__(self) -> str:
        return f"{self.amount:g} {self.unit}"


@dataclass(frozen=True, order=True)
class TrainingCase:
    """One training of one network. Equal cases mean the same training."""

    network: NetworkSpec | ExternalNetworkSpec
    dataset: str
    budget: Budget
    learning_rate: float
    """peak of the one-cycle schedule"""
    weight_decay: float
    loss: str = "offset"
    batch_size: int = 256
    seed: int = 0
    """of the weights, the order of the images and their augmentation"""
    split_seed: int = 0
    """of the choice of validation images"""
    all_images: bool = False
    """whether the validation images are trained on too, as in the final training after a search"""
    precision: str = "ieee"
    device: str = "cpu"
    threads: int = 1
    compile: bool = False

    def __post_init__(self) -> None:
        require_choice("dataset", self.dataset, DATASETS)
        require_choice("loss", self.loss, LOSSES)
        require_choice("precision", self.precision, PRECISIONS)
        require_choice("device", self.device, DEVICES)
        require_positive(batch_size=self.batch_size, threads=self.threads)
        if not 0 < self.learning_rate < math.inf:
            raise errors.bad_rate("learning rate", self.learning_rate)
        if not 0 <= self.weight_decay < math.inf:
            raise errors.bad_rate("weight decay", self.weight_decay)

    @property
    def classes(self) -> int:
        return CLASSES[self.dataset]

    @property
    def id(self) -> str:
        """Readable slug, the same on every machine; the name of the training's folder."""
        written = [
            self.network.slug, self.dataset, self.loss, f"{self.budget.amount:g}{self.budget.unit}",
            f"lr{self.learning_rate:.6g}", f"wd{self.weight_decay:.6g}", f"b{self.batch_size}", self.precision, self.device,
            f"t{self.threads}", f"seed{self.seed}",
        ]  # fmt: skip
        written += [f"split{self.split_seed}"] if self.split_seed else []
        written += ["all"] if self.all_images else []
        written += ["compiled"] if self.compile else []
        return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join(written))


@dataclass(frozen=True)
class Point:
    """A point of a learning curve, after some steps."""

    step: int
    epoch: float
    """passes over the training images"""
    seconds: float
    """training time used"""
    learning_rate: float
    loss: float
    """mean over the steps since the point before, with augmented images"""
    accuracy: float
    """share of the training images of these steps that were classified correctly"""
    validation_accuracy: float | None = None
    """None where there are no validation images, in a training on all images"""
    validation_certified: float | None = None
    """share of the validation images certified at the first of `RADII`, under the layers' claim; no certificate is computed"""


@dataclass(frozen=True)
class Attacked:
    """Accuracy under an attack: the share of images that are classified correctly and for which it found no other class."""

    attack: str
    """its name and settings in words"""
    radius: float
    accuracy: float
    images: int
    """number of images attacked; the first of the part"""
    certified: float
    """certified robust accuracy at this radius on the same images"""
    clean: float
    """accuracy on the same images"""


@dataclass(frozen=True)
class Evaluation:
    """What a trained network is worth on one part of the data."""

    part: Part
    images: int
    accuracy: float
    certified: dict[str, float]
    """`radius_key` → certified robust accuracy; empty where the network has no upper bound"""
    constant: float | None
    """proved Lipschitz constant of pixels → logits, preprocessing included; margins are divided by it where it is above 1"""
    verdict: str
    """of the certificate, as `certify.verdict` gives it"""
    reason: str
    """why there is no certified robust accuracy, or why the verdict is not 'ok'; "" where it is"""
    margins: dict[str, float]
    """quantile ("0.05", …) → largest certified radius below which this share of the images lies; 0 where misclassified"""
    images_per_second: float
    attacked: tuple[Attacked, ...] = ()


@dataclass(frozen=True)
class TrainingRecord:
    """The result of one training."""

    case: TrainingCase
    status: TrainingStatus
    reason: str = ""
    """why the status is not 'ok', or by how much a budget in seconds was missed; one line"""
    started: str = ""
    """ISO 8601, UTC"""
    machine: str = ""
    version: str = ""
    parameters: int = 0
    """number of trainable values"""
    train_images: int = 0
    steps: int = 0
    epochs: float = 0.0
    """passes over the training images done, the last one in part"""
    seconds: float = 0.0
    """training time used: the schedule's clock, without evaluation, checkpoints and set-up"""
    loading_seconds: float = 0.0
    """the part of `seconds` that was spent on choosing and augmenting images"""
    evaluation_seconds: float = 0.0
    peak_bytes: int | None = None
    """largest number of bytes allocated in a training step; None where it was not found"""
    interruptions: int = 0
    """number of times that the training was resumed"""
    curve: tuple[Point, ...] = ()
    evaluation: Evaluation | None = None
