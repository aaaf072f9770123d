"""Consent to run the code of external layers that a run names: the run may come from someone else."""

from __future__ import annotations

from collections.abc import Iterable

from lipbench import errors, external
from lipbench.cases import Spec


def require_consent(specs: Iterable[Spec], named: Iterable[str]) -> None:
    """Raises `LipbenchError` for specs that would import an external module which the user has not named."""
    known = set(map(external.absolute, named))
    names = dict.fromkeys(spec.method for spec in specs if external.is_external(spec.method))
    if unnamed := [name for name in names if name not in known]:
        raise errors.not_allowed(unnamed)
