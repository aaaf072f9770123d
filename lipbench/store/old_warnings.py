"""Warnings of schema 1 and 2, which were plain texts: derives their kind and phases."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from lipbench.quantities import PHASES, Caution, CautionKind
from lipbench.store.typed import from_json

_TEXTS: dict[CautionKind, str] = {
    "contended": r"others used the machine during (?P<phases>[a-z_, ]+); ",
    "unsettled": r"the median of (?P<phases>[a-z_, ]+) was not settled at the time limit; ",
    "low_clock": r"the GPU's [a-z ]+ held its clock at \d+% of the maximum during (?P<phases>[a-z_, ]+); ",
    "interpreted": r"interpreted, not a timing: ",
    "one_process": r"one process: ",
    "threads": r"torch runs \d+ threads instead of \d+; ",
    "precision": r"precision \w+ has no effect on a CPU; ",
    "no_certificate": r"no certificate could be found( in training mode)? \(",
    "graph_break": r"torch\.compile left the graph: ",
    "recompiled": r"torch\.compile compiled (?P<phases>[a-z_, ]+) again after the first call; ",
    "inexact": r"the compiled output differs from the uncompiled one by ",
    "uncompared": r"the compiled output could not be compared with the uncompiled one \(",
    "fallback": r"fallback to paper in \d+ layers?: ",
}
"""warning kind → pattern of the beginning of its texts, as schema 1 and 2 wrote them"""


def with_kinds(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a round of schema 1 or 2, as read from JSON, to the warnings of schema 3.

    Raises `TypeError` or `AttributeError` for values that are not a round.
    """
    texts = from_json(tuple[str, ...], values.get("warnings", ()), "warnings")
    return {**values, "warnings": [asdict(as_caution(text)) for text in texts]}


def as_caution(text: str) -> Caution:
    """The warning of schema 3 for a text of schema 1 or 2; of kind "other" if no pattern matches."""
    for kind, beginning in _TEXTS.items():
        if found := re.match(beginning, text):
            named = found.groupdict().get("phases") or ""
            return Caution(kind, tuple(name for name in named.split(", ") if name in PHASES), text)
    return Caution("other", (), text)
