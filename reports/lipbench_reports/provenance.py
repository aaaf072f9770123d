"""The provenance of a run: its machine, command and limits, as names and texts."""

from __future__ import annotations

import re
from collections.abc import Mapping

from lipbench_reports.cells import BYTES, with_unit
from lipbench_reports.tables import as_text, as_texts


def pairs(value: object) -> list[tuple[str, str]]:
    """The pairs of a mapping as texts, without empty ones."""
    if not isinstance(value, Mapping):
        return []
    return [(str(key).replace("_", " "), as_text(entry)) for key, entry in value.items() if as_text(entry)]


_NOT_ON_A_CPU = ("cudnn_benchmark", "cudnn_deterministic", "deterministic_algorithms")
_SAID_APART = ("torch", "lipbench")
"""packages that the page names elsewhere"""


def machine(value: object) -> tuple[list[tuple[str, str]], list[tuple[str, list[str]]]]:
    """The properties of the machine as pairs, bytes with a unit; and its nested properties as lists.

    Packages that the page names elsewhere are left out, and so are settings of a GPU where there is none.
    """
    pairs, lists = [], []
    found = value if isinstance(value, Mapping) else {}
    for key, entry in found.items():
        name = str(key).removesuffix("_bytes").replace("_", " ")
        if isinstance(entry, Mapping):
            dropped = {*_SAID_APART, *(() if found.get("gpu") else _NOT_ON_A_CPU)}
            items = [f"{inner} {text}".replace("_", " ") for inner, text in entry.items() if inner not in dropped]
            lists += [(name, items)] if items else []
        elif str(key).endswith("_bytes") and isinstance(entry, int | float):
            pairs.append((name, with_unit(float(entry), BYTES)))
        elif as_text(entry):
            pairs.append((name, as_text(entry)))
    return pairs, lists


def measured(run: Mapping[str, object], on_gpu: bool) -> str:
    """One or two sentences: the device and day of the measurement, and whether a GPU was measured."""
    machine = run.get("machine")
    found = machine if isinstance(machine, Mapping) else {}
    where, day = as_text(found.get("gpu")) or as_text(found.get("cpu")), as_text(run.get("started"))[:10]
    said = f"Measured on {where or 'an unknown machine'}{f', {day}' if day else ''}."
    return said if on_gpu else f"{said} Nothing in this report was measured on a GPU."


def command(run: Mapping[str, object]) -> list[str]:
    """The command, split so that each option stands with its values."""
    text = " ".join(as_texts(run.get("command")))
    return re.split(r"\s+(?=--)", text) if text else []


def origin(run: Mapping[str, object]) -> list[tuple[str, str]]:
    """When the run was started, and with which version of lipbench."""
    shown = [("started", run.get("started")), ("lipbench", run.get("version"))]
    return [(name, as_text(value)) for name, value in shown if as_text(value)]
