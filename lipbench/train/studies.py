"""Studies of Optuna in a journal file: the finished draws of a search, which several workers add to and Optuna's tools read.

A study holds finished trials alone. Which draws are being trained at the moment is said by claims (`store.claims`), because
Optuna's journal has no heartbeat: a trial that a killed worker left as running would stay so for ever.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from lipbench import errors
from lipbench.store import typed
from lipbench.train.task import RADII, TrainingRecord, TrainingStatus, radius_key

if TYPE_CHECKING:
    from optuna import Study

FOLDER, FILE = "search", "journal.log"
_ATTRIBUTE = "draw"
"""name of the user attribute of a trial that holds a `Drawn`"""


@dataclass(frozen=True)
class Drawn:
    """The result of one draw: a learning rate and a weight decay that a network was trained with."""

    index: int
    """number of the draw, from 0"""
    training: str
    """id of the training's case, the name of its folder"""
    learning_rate: float
    weight_decay: float
    status: TrainingStatus
    reason: str
    """why the status is not 'ok', or why there is no certified robust accuracy"""
    accuracy: float | None
    """on the validation images; None where the training did not end well"""
    certified: float
    """certified robust accuracy at the first of `RADII` on the validation images; 0 where there is none"""
    seconds: float
    """training time"""
    epochs: float

    @property
    def rank(self) -> tuple[float, float, int]:
        """The best draw has the largest: by certified robust accuracy, then accuracy, then the earlier one."""
        return self.certified, self.accuracy or 0.0, -self.index


def drawn(index: int, record: TrainingRecord, folder: Path) -> Drawn:
    """The result of a draw from the record of its training. Raises `LipbenchError` for one evaluated on other images."""
    evaluation = record.evaluation if record.status == "ok" else None
    if evaluation and evaluation.part != "validation":
        raise errors.evaluated_elsewhere(folder, evaluation.part)
    certified = evaluation.certified.get(radius_key(RADII[0])) if evaluation else None
    case = record.case
    return Drawn(
        index, case.id, case.learning_rate, case.weight_decay, record.status,
        record.reason or (evaluation.reason if evaluation else ""), evaluation.accuracy if evaluation else None,
        certified or 0.0, record.seconds, record.epochs,
    )  # fmt: skip


class Studies:
    """The studies of one output directory, which has `search/journal.log`.

    Raises `LipbenchError` where Optuna is not installed, and for a journal that cannot be read or written.
    """

    def __init__(self, out: Path) -> None:
        try:
            import optuna
        except ImportError:
            raise errors.no_train_extra("a search", "optuna") from None
        from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._optuna, self._path = optuna, (out / FOLDER / FILE).absolute()
        self._known: dict[str, Study] = {}
        with _readable(self._path):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Optuna's default lock is a link to the journal. It is never released after a kill where its target is not found,
            # as with a relative path or with another mount point of the same folder.
            lock = JournalFileOpenLock(str(self._path))
            self._storage = optuna.storages.JournalStorage(JournalFileBackend(str(self._path), lock))

    def results(self, name: str) -> Mapping[int, Drawn]:
        """The finished draws of a study, by their number. The first one counts where two workers have added the same."""
        found: dict[int, Drawn] = {}
        with _readable(self._path):
            for trial in self._study(name).get_trials(deepcopy=False):
                if _ATTRIBUTE in trial.user_attrs:  # others were added by hand
                    one: Drawn = typed.from_json(Drawn, trial.user_attrs[_ATTRIBUTE])
                    found.setdefault(one.index, one)
        return found

    def add(self, name: str, one: Drawn, ranges: Mapping[str, tuple[float, float]], started: str) -> None:
        """Add a finished draw: a complete trial, or a pruned one if its training did not end well.

        `ranges` are those of the learning rate and the weight decay, and `started` is ISO 8601.
        """
        states = self._optuna.trial.TrialState
        complete = one.status == "ok"
        trial = self._optuna.create_trial(
            state=states.COMPLETE if complete else states.PRUNED,
            value=one.certified if complete else None,
            params={"learning_rate": one.learning_rate, "weight_decay": one.weight_decay},
            distributions={
                name: self._optuna.distributions.FloatDistribution(*ends, log=True) for name, ends in ranges.items()
            },
            user_attrs={_ATTRIBUTE: asdict(one)},
        )
        if started:
            trial.datetime_start = datetime.fromisoformat(started)
        with _readable(self._path):
            self._study(name).add_trial(trial)

    def _study(self, name: str) -> Study:
        if name not in self._known:  # each call of `create_study` writes to the journal
            self._known[name] = self._optuna.create_study(
                study_name=name, storage=self._storage, direction="maximize", load_if_exists=True
            )
        return self._known[name]


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises `LipbenchError` for what a damaged journal, or one that cannot be opened, makes Optuna raise in the block."""
    try:
        yield
    except OSError as error:
        raise errors.not_writable(path, error.strerror or str(error)) from error
    except (ValueError, TypeError, KeyError, AttributeError, AssertionError) as error:
        raise errors.unreadable_journal(path, typed.said(error)) from error
