"""Consent to run the code of external layers that a run names: the run may come from someone else."""

from __future__ import annotations

from collections.abc import Iterable

from lipbench import adapters, errors, external
from lipbench.cases import Spec


def require_consent(specs: Iterable[Spec], named: Iterable[str]) -> None:
    """Raises `LipbenchError` for specs that would import an external module which the user has not named.

    The peers, which are this package's adapters, need no consent. A name covers its callable with any settings, which are
    numbers and texts.
    """
    known = {*map(external.code, named), *adapters.PEERS}
    names = dict.fromkeys(external.code(spec.method) for spec in specs if external.is_external(spec.method))
    if unnamed := [name for name in names if name not in known]:
        raise errors.not_allowed(unnamed)
