"""The verb `verify`: certificates of methods, of external layers, or of the cases of a run, as rows."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import torch

from lipbench import certify, errors, external, registry
from lipbench.cases import PAPER, Case, ExternalNetworkSpec, LayerSpec, Spec, network_of
from lipbench.quantities import Bound, Certificate
from lipbench.workload import Workload

COLUMNS = (
    "method", "implementation", "network", "channels", "image_size", "kernel_size", "weights", "mode", "largest", "smallest",
    "kind", "how",
    "at_image_size", "residual", "verdict", "reason",
)  # fmt: skip
VIOLATES, FAILED = "violates", "failed"


@dataclass(frozen=True)
class Shapes:
    """Shapes and implementations to build layers with."""

    channels: Sequence[int] = (16,)
    image_sizes: Sequence[int] = (8,)
    kernel_sizes: Sequence[int] = (1, 3)
    implementations: Sequence[str] = (PAPER,)


def claiming_methods(implementations: Sequence[str]) -> list[str]:
    """Names of the methods that claim to be 1-Lipschitz and have all of these implementations."""
    known = registry.methods().items()
    return [name for name, method in known if method.lipschitz and set(implementations) <= set(method.implementations)]


def specs(methods: Iterable[str], shapes: Shapes) -> list[LayerSpec]:
    """Every method at every shape, method by method. Raises `LipbenchError` for an unknown name or implementation."""
    names = list(map(external.absolute, methods))
    for name in names:
        registry.check_name(name)
        for implementation in () if external.is_external(name) else shapes.implementations:
            registry.implementation(name, implementation)
    sizes = list(itertools.product(shapes.channels, shapes.image_sizes, shapes.kernel_sizes, shapes.implementations))
    return [LayerSpec(name, *size) for name in names for size in sizes]


def verify(chosen: Iterable[Spec], precision: str = "ieee") -> pd.DataFrame:
    """Certify the chosen specs: one row, in `COLUMNS`, per spec, weights (random, and after 100 SGD steps), mode and bound.

    `verdict` is that of `certify.verdict` in evaluation mode, with a `reason`, and '' in training mode. For a layer that could
    not be examined it is 'unsupported' or 'failed', with a `reason`.
    """
    return pd.DataFrame([row for spec in chosen for row in _rows(spec, precision)], columns=list(COLUMNS))


def _rows(spec: Spec, precision: str) -> Iterator[dict[str, object]]:
    place = {"method": spec.method, "implementation": spec.implementation, "network": network_of(spec),
             "channels": spec.channels or None, "image_size": spec.image_size,
             "kernel_size": spec.kernel_size or None}  # fmt: skip
    weights = "random"
    try:
        torch.manual_seed(0)
        workload = Workload.build(_case(spec, precision), registry.build(spec))
        each_layer = not isinstance(spec, ExternalNetworkSpec)
        found = certify.certify(workload.module, workload.x, each_layer=each_layer)
        yield from _judged({**place, "weights": weights}, found)
        weights = "trained"
        if isinstance(spec, LayerSpec):
            certify.train(workload.module, workload.x)
            yield from _judged({**place, "weights": weights}, certify.certify(workload.module, workload.x))
    except errors.UnsupportedError as error:
        yield {**place, "weights": weights, "verdict": "unsupported", "reason": str(error)}
    except errors.LipbenchError:
        raise
    except Exception as error:  # an external layer may raise anything
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        yield {**place, "weights": weights, "verdict": FAILED, "reason": reason}


def _case(spec: Spec, precision: str) -> Case:
    """The case of a spec: on the CPU, or on a GPU for Triton kernels. Raises `LipbenchError` where these cannot run."""
    device = "cuda" if registry.needs_triton(spec) and torch.cuda.is_available() else "cpu"
    registry.check_device(spec, device)
    return Case(spec, batch_size=2, precision=precision, device=device)


def _judged(place: dict[str, object], found: Certificate) -> Iterator[dict[str, object]]:
    """Rows of a certificate. Those in evaluation mode have the verdict of the whole certificate."""
    verdict, reason = certify.verdict(found)
    judged = {"mode": "evaluation", "verdict": verdict, "reason": reason}
    for bound in found.evaluation:
        yield {**place, **_values(bound), **judged}
    if not found.evaluation:
        yield {**place, **judged}
    if found.growing:
        yield {**place, "how": "variance over a batch", **judged}
    for bound in found.training:
        yield {**place, **_values(bound), "mode": "training", "verdict": "", "reason": ""}


def _values(bound: Bound) -> dict[str, object]:
    return {"largest": bound.largest, "smallest": bound.smallest, "kind": bound.kind, "how": bound.how,
            "at_image_size": bound.image_size, "residual": bound.residual}  # fmt: skip


def readable(rows: pd.DataFrame) -> pd.DataFrame:
    """A table for a terminal, one row per weights and mode: the best bound, and the bounds found in other ways."""
    keys = ["method", "implementation", "network", "channels", "image_size", "kernel_size", "weights", "mode"]
    table = pd.DataFrame([_line(group) for _, group in rows.groupby(keys, sort=False, dropna=False)])
    usual = {"network": "", "implementation": PAPER}
    return table.drop(columns=[name for name, value in usual.items() if not table.empty and (table[name] == value).all()])


def _line(group: pd.DataFrame) -> dict[str, object]:
    first = group.iloc[0]
    verdict = next((row for _, row in group.iterrows() if row["verdict"] not in ("", "ok")), first)
    return {
        "method": first["method"], "implementation": first["implementation"], "network": first["network"],
        "c": first["channels"], "s": first["image_size"], "k": first["kernel_size"],
        "weights": first["weights"], "mode": "" if pd.isna(first["mode"]) else first["mode"],
        "σ max": _constant(first["largest"], first["kind"]),
        "σ min": f"{first['smallest']:.6f}" if pd.notna(first["smallest"]) else "",
        "by": _way(first),
        "and": ", ".join(f"{_constant(row['largest'], row['kind'])} by {_way(row)}" for _, row in group.iloc[1:].iterrows()),
        "verdict": f"{verdict['verdict']}: {verdict['reason']}" if verdict["reason"] else verdict["verdict"],
    }  # fmt: skip


def _constant(value: float, kind: str) -> str:
    if pd.isna(value):
        return ""
    sign = {"lower bound": "≥ ", "upper bound": "≤ "}.get(kind, "")
    excess = f" (1 + {value - 1:.1e})" if 0 < value - 1 < 0.1 and value - 1 > 1e-12 else ""
    return f"{sign}{value:.6f}{excess}"


def _way(row: pd.Series) -> str:
    if pd.isna(row["how"]):
        return ""
    size = f" at s = {row['at_image_size']:.0f}" if pd.notna(row["at_image_size"]) else ""
    residual = f", residual {row['residual']:.0e}" if pd.notna(row["residual"]) and row["residual"] > 0 else ""
    return f"{row['how']}{size}{residual}"
