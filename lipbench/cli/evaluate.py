"""The verb `evaluate`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lipbench import errors
from lipbench.answer import Answer
from lipbench.cli import waiting
from lipbench.cli.completion import methods, one_of
from lipbench.cli.options import AllowList, DeviceName, Format, Output, path, whole
from lipbench.cli.printing import Printer
from lipbench.cli.training_options import AttackImages, DataFolder
from lipbench.train.task import DATASETS, IMAGE_SIZES, Evaluation, radius_key

if TYPE_CHECKING:
    from torch import nn

    from lipbench.cases import ExternalNetworkSpec, NetworkSpec
    from lipbench.train.data import DataSet

    AnyNetwork = NetworkSpec | ExternalNetworkSpec

PARTS = ("test", "validation", "train")
REMARKS = (
    "CRA ε: share of the images whose class no perturbation of Euclidean norm ε can change, for pixels in [0, 1].",
)  # fmt: skip


def evaluate(
    checkpoint: Annotated[
        Path | None, typer.Argument(metavar="[CHECKPOINT]", help="The folder of a training, or its weights.safetensors.")
    ] = None,
    llc: Annotated[Path | None, path("--llc", "FILE", "Published weights of arXiv 2311.16833, in place of a training.")] = None,
    method: Annotated[
        str | None, typer.Option(help="The method of the published weights.", autocompletion=one_of(methods))
    ] = None,
    size: Annotated[str, typer.Option(help="Their network: XS, S, M or L.")] = "XS",
    dataset: Annotated[str, typer.Option(help="Their data set.")] = "cifar10",
    data: DataFolder = None,
    part: Annotated[str, typer.Option(help="test, validation or train.")] = "test",
    attack: Annotated[bool, typer.Option("--attack", help="Also attack the network: PGD in the Euclidean norm.")] = False,
    attack_images: AttackImages = None,
    restarts: Annotated[int | None, whole("--restarts", "N", "Random starts of an attack.  [default: 1]", "rounds")] = None,
    device: Annotated[DeviceName, typer.Option(help="Where to evaluate; auto is a GPU if there is one.")] = DeviceName.auto,
    allow: AllowList = None,
    format: Format = None,
    output: Output = None,
) -> None:
    """Print what a trained network is worth: its certificate, accuracy and certified robust accuracy."""
    printer = Printer(format, output)
    if (checkpoint is None) == (llc is None) or (llc is not None and method is None):
        raise errors.what_to_evaluate()
    from lipbench.bounds import require_choice
    from lipbench.cases import NetworkSpec
    from lipbench.meters import machine
    from lipbench.train import evaluating
    from lipbench.train.attack import PGD

    require_choice("part", part, PARTS)
    chosen = machine.device_of(str(device))
    if checkpoint is not None:
        title, module, images, network = trained(checkpoint, data, allow or ())
    else:
        assert llc is not None
        assert method is not None
        title, module, images, network = published(llc, method, size, dataset, data)
    pgd = PGD(restarts=restarts or 1) if attack or attack_images or restarts else False
    with waiting.of("evaluating"):
        found = evaluating.evaluate(
            module.to(chosen), images.to(chosen), part,  # type: ignore[arg-type]  # one of `PARTS`
            attack=pgd, images=attack_images, claimed=network.claim, each_layer=isinstance(network, NetworkSpec),
        )  # fmt: skip
    printer.print(answer(title, images.name, found))


def trained(checkpoint: Path, folder: Path | None, allow: tuple[str, ...]) -> tuple[str, nn.Module, DataSet, AnyNetwork]:
    """Name, network, data and spec of a training. Raises `LipbenchError` for damaged files, and for code not allowed."""
    from lipbench.run.consent import require_consent
    from lipbench.train import checkpoints, classifiers, records
    from lipbench.train import data as data_sets

    where = checkpoint if checkpoint.is_dir() else checkpoint.parent
    if not os.path.lexists(where / records.FILE):
        raise errors.no_training(checkpoint)
    case = records.read(where).case
    require_consent([case.network], allow)
    images = data_sets.load(case.dataset, folder, split_seed=case.split_seed, all_images=case.all_images)
    module = classifiers.build(case)
    checkpoints.load_weights(module, where / checkpoints.WEIGHTS)
    return case.id, module, images, case.network


def published(
    file: Path, method: str, size: str, dataset: str, folder: Path | None
) -> tuple[str, nn.Module, DataSet, AnyNetwork]:
    """Name, network, data and spec of published weights. Raises `LipbenchError` for a file that holds others."""
    from lipbench.bounds import require_choice
    from lipbench.cases import NetworkSpec
    from lipbench.train import data as data_sets
    from lipbench.train import llc

    require_choice("dataset", dataset, DATASETS)
    spec = NetworkSpec(method, size, IMAGE_SIZES[dataset])
    images = data_sets.load(dataset, folder)
    return f"{spec.slug}, published", llc.load(file, spec, images.classes), images, spec


def answer(network: str, dataset: str, found: Evaluation) -> Answer:
    """One row for programs, and one line per quantity for people. Fails where the network has no certified accuracy."""
    import pandas as pd

    row = {
        "network": network, "dataset": dataset, "part": found.part, "images": found.images, "accuracy": found.accuracy,
        **{f"certified_{radius}": share for radius, share in found.certified.items()},
        "constant": found.constant, "verdict": found.verdict, "reason": found.reason,
        **{f"margin_{quantile}": radius for quantile, radius in found.margins.items()},
        "images_per_second": found.images_per_second,
        **{f"attacked_{radius_key(one.radius)}": one.accuracy for one in found.attacked},
        "attack": found.attacked[0].attack if found.attacked else "",
        "attacked_images": found.attacked[0].images if found.attacked else 0,
    }  # fmt: skip
    lines = _lines(network, dataset, found)
    readable = pd.DataFrame([(name, value) for name, value in lines if value], columns=["quantity", "value"])
    return Answer(pd.DataFrame([row]), readable, REMARKS, failed=not found.certified)


def _lines(network: str, dataset: str, found: Evaluation) -> list[tuple[str, str]]:
    constant = "" if found.constant is None else f"{found.constant:.6f}"
    lines = [
        ("network", network),
        ("images", f"{found.images} of {dataset}, {found.part}"),
        ("certificate", found.verdict),
        ("reason", found.reason),
        ("Lipschitz constant, at most", constant),
        ("accuracy", f"{found.accuracy:.2%}"),
        *((f"CRA {_over_255(float(radius))}", f"{share:.2%}") for radius, share in found.certified.items()),
        *((f"certified radius, {float(quantile):.0%} quantile", f"{radius:.4f}") for quantile, radius in found.margins.items()),
        ("inference", f"{found.images_per_second:.0f} images/s"),
    ]
    for one in found.attacked:
        lines.append(
            (f"attacked {_over_255(one.radius)}", f"{one.accuracy:.2%} of {one.images} images (CRA {one.certified:.2%})")
        )
    return [*lines, ("attack", found.attacked[0].attack if found.attacked else "")]


def _over_255(radius: float) -> str:
    return f"{round(radius * 255)}/255"
