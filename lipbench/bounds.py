"""Allowed values of sizes, conditions and limits; the command line and the specs have the same largest ones."""

from __future__ import annotations

import re

from lipbench import errors

LARGEST_CLAIM = 1e6
"""largest Lipschitz constant that a layer may claim"""
LARGEST = {
    "channels": 2**16, "image_size": 2**12, "kernel_size": 2**8, "batch_size": 2**16, "classes": 2**16, "threads": 2**12,
    "rounds": 2**16, "steps": 2**32, "bytes": 2**62, "seconds": 10**8,
}  # fmt: skip
"""Largest number of a size, condition or limit: the bytes of one tensor of a case fit into 64 bits"""


def require_positive(**values: int) -> None:
    """Raises `LipbenchError` for a value that is not a whole number from 1 to its largest in `LARGEST`."""
    for name, value in values.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise errors.not_positive(name.replace("_", " "), value)
        if value > LARGEST[name]:
            raise errors.too_large(name.replace("_", " "), value, LARGEST[name])


def bytes_of(option: str, text: str) -> int:
    """A size as people write it, in bytes: "24GB" and "24e9" are decimal, "24GiB" is binary, "1000" is in bytes.

    Raises `LipbenchError` for anything else, and for less than one byte or more than the largest.
    """
    found = re.fullmatch(r"([0-9]+\.?[0-9]*(?:e[0-9]{1,2})?) *(?:([kmgtp]?)(i?)b?)", text.strip().lower())
    if found is None or (found[3] and not found[2]):
        raise errors.no_size(option, text)
    if len(text) > 50:
        raise errors.too_large(option, text[:50], LARGEST["bytes"])
    unit: int = (1024 if found[3] else 1000) ** " kmgtp".index(found[2] or " ")
    size = round(float(found[1]) * unit)
    if size < 1:
        raise errors.no_size(option, text)
    if size > LARGEST["bytes"]:
        raise errors.too_large(option, text, LARGEST["bytes"])
    return size


def require_claim(value: float) -> None:
    """Raises `LipbenchError` for what no layer can claim as its Lipschitz constant."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LARGEST_CLAIM:
        raise errors.no_constant(value, LARGEST_CLAIM)


def require_choice(option: str, value: str, known: tuple[str, ...]) -> None:
    """Raises `LipbenchError` for a value that is not among the known ones."""
    if value not in known:
        raise errors.unknown_choice(option, value, known)
