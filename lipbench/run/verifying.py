"""The verb `verify`: certificates of methods, of external layers, or of the cases of a run, as rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from lipbench import adapters, cases, certify, errors, external, registry, traces, training
from lipbench.cases import PAPER, Case, LayerSpec, NetworkSpec, Spec, network_of
from lipbench.quantities import Bound, Certificate
from lipbench.run import certifying
from lipbench.run.apart import Apart, EndedError
from lipbench.workload import Workload

COLUMNS = (
    "method", "implementation", "network", "channels", "image_size", "kernel_size", "weights", "mode", "largest", "smallest",
    "kind", "how",
    "at_image_size", "residual", "verdict", "reason", "traceback",
)  # fmt: skip
NUMBERS = ("channels", "image_size", "kernel_size", "largest", "smallest", "at_image_size", "residual")
"""columns whose values are numbers or missing; those of the others are texts or missing"""
Row = dict[str, object]
VIOLATES, FAILED = "violates", "failed"


@dataclass(frozen=True)
class Shapes:
    """Shapes and implementations to build layers with."""

    channels: Sequence[int] = (16,)
    image_sizes: Sequence[int] = (8,)
    kernel_sizes: Sequence[int] = (1, 3)
    implementations: Sequence[str] = (PAPER,)
    settings: str = ""
    """further arguments of external layers"""
    claim: float = 1.0
    """the Lipschitz constant that external layers claim"""


def claiming_methods(implementations: Sequence[str]) -> list[str]:
    """Names of the methods that claim to be 1-Lipschitz and have all of these implementations."""
    known = registry.methods().items()
    return [name for name, method in known if method.lipschitz and set(implementations) <= set(method.implementations)]


def specs(methods: Iterable[str], shapes: Shapes) -> list[LayerSpec]:
    """Every method at every shape, method by method, without implementations that it lacks if it has others of them.

    Raises `LipbenchError` for an unknown name or implementation.
    """
    names = [external.absolute(name, shapes.settings) for name in adapters.expand(methods)]
    external.check_options(names, shapes.settings, shapes.claim)
    lacking = registry.lacking(names, shapes.implementations)
    for name in (name for name in names if not external.is_external(name)):
        for implementation in shapes.implementations:
            if (name, implementation) not in lacking:
                registry.implementation(name, implementation)
    sizes = list(itertools.product(shapes.channels, shapes.image_sizes, shapes.kernel_sizes, shapes.implementations))
    return [
        LayerSpec(name, *size, shapes.claim if external.is_external(name) else 1.0)
        for name in names for size in sizes if (name, size[-1]) not in lacking
    ]  # fmt: skip


def verify(
    chosen: Iterable[Spec],
    precision: str = "ieee",
    timeout_s: float | None = None,
    tell: Callable[[int, int, str], None] = lambda done, total, what: None,
) -> pd.DataFrame:
    """Certify the chosen specs: one row, in `COLUMNS`, per spec, weights, mode and bound.

    `weights` are 'random' for methods, which is with noise, and 'initial' for external layers and networks, whose own
    initialisation it is; for both also 'trained': after 100 SGD steps, or a few for external networks.
    `verdict` is that of `certify.verdict` in evaluation mode, and '' in training mode. For a layer that could not be examined
    it is 'unsupported' or 'failed'. `reason` says why, and what a reader must know of the bounds. Each external layer or
    network is built and certified in a fresh process, for at most `timeout_s`, by default 300. `tell` is called before each
    spec, with how many are done, of how many, and its name. Raises `LipbenchError` for one that cannot be loaded or called.
    """
    rows: list[Row] = []
    chosen = list(chosen)
    with Apart(timeout_s) as apart:
        for spec in filter(apart.is_for, chosen):
            apart.check(spec)
        for number, spec in enumerate(chosen):
            tell(number, len(chosen), spec.slug)
            rows += _from_apart(apart, spec, precision) if apart.is_for(spec) else _rows(spec, precision)
    found = pd.DataFrame([{"traceback": "", **row} for row in rows], columns=list(COLUMNS))
    return found.drop_duplicates(ignore_index=True)  # of specs that differ only in a size that their layer does not take


def _from_apart(apart: Apart, spec: Spec, precision: str) -> list[Row]:
    """The rows of a spec from a fresh process; a row with the reason if that gives none."""
    question = {"case": cases.to_dict(Case(spec, batch_size=2)), "precision": precision}
    try:
        return [_checked(row) for row in apart.ask(__name__, spec, question)]
    except EndedError as error:
        why, traceback = str(error), error.traceback
    except (ValueError, TypeError):  # a layer may forge an answer
        why, traceback = "its process gave an answer that is none", ""
    return [{**_place(spec), "weights": "initial", "verdict": FAILED, "reason": why, "traceback": traceback}]


def answer(question: dict[str, Any]) -> list[Row]:
    """Answer in a fresh process: the rows of one spec."""
    return list(_rows(cases.from_dict(question["case"]).spec, question["precision"]))


def _checked(row: Row) -> Row:
    """A row of another process. Raises `ValueError` or `TypeError` for anything else."""
    for name, value in row.items():
        kind: Any = float | int | None if name in NUMBERS else str | None
        if name not in COLUMNS or not isinstance(value, kind):
            raise ValueError(f"{name} is {value!r}")
    return {name: traces.plain(value) if isinstance(value, str) else value for name, value in row.items()}


def _place(spec: Spec) -> Row:
    return {"method": spec.method, "implementation": spec.implementation, "network": network_of(spec),
            "channels": spec.channels or None, "image_size": spec.image_size,
            "kernel_size": spec.kernel_size or None}  # fmt: skip


def _shown_place(spec: Spec) -> Row:
    """The same without the sizes that the layer does not take. This loads an external layer."""
    return _place(spec) | registry.shown_sizes(spec)


def _rows(spec: Spec, precision: str) -> Iterator[Row]:
    place = _shown_place(spec)
    is_external = external.is_external(spec.method)
    weights = "initial" if is_external else "random"
    try:
        torch.manual_seed(0)
        workload = Workload.build(_case(spec, precision), registry.build(spec), "initial" if is_external else "noise")
        yield from _judged({**place, "weights": weights}, _certified(workload))
        weights = "trained"
        if _is_trainable(workload) and (is_external or isinstance(spec, LayerSpec)):
            remarks = _train(workload)
            found = _certified(workload)
            yield from _judged({**place, "weights": weights}, replace(found, remarks=(*remarks, *found.remarks)))
    except errors.UnsupportedError as error:
        yield {**place, "weights": weights, "verdict": "unsupported", "reason": str(error)}
    except errors.LipbenchError:
        raise
    except Exception as error:  # an external layer may raise anything
        reason, traceback = traces.line(error), traces.text(error)
        yield {**place, "weights": weights, "verdict": FAILED, "reason": reason, "traceback": traceback}


def _is_trainable(workload: Workload) -> bool:
    return any(parameter.requires_grad for parameter in workload.module.parameters())


def _train(workload: Workload) -> tuple[str, ...]:
    """Train the module of a workload in place: a layer as far as `verify` says, a network for a few steps. Returns remarks."""
    if isinstance(workload.case.spec, LayerSpec):
        change = training.train(workload.module, workload.x)
        return () if change >= training.LEFT else ("the weights did not move in training steps",)
    workload.leave_initial()
    return (f"after {training.FEW_STEPS} SGD steps", *workload.remarks)


def _certified(workload: Workload) -> Certificate:
    spec = workload.case.spec
    each_layer = isinstance(spec, NetworkSpec)
    remake = certifying.remaker(workload)
    return certifying.certified(workload.module, workload.x, each_layer=each_layer, remake=remake, claimed=spec.claim)


def _case(spec: Spec, precision: str) -> Case:
    """The case of a spec: on the CPU, or on a GPU for Triton kernels. Raises `LipbenchError` where these cannot run."""
    device = "cuda" if registry.needs_triton(spec) and torch.cuda.is_available() else "cpu"
    registry.check_device(spec, device)
    return Case(spec, batch_size=2, precision=precision, device=device)


def _judged(place: dict[str, object], found: Certificate) -> Iterator[dict[str, object]]:
    """Rows of a certificate. Those in evaluation mode have the verdict of the whole certificate."""
    verdict, why = certify.verdict(found)
    reason = "; ".join(dict.fromkeys(filter(None, (why, *(one for one in found.remarks if one not in why)))))
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
