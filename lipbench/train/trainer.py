"""One training in this process: from a case to its record, with checkpoints from which it continues exactly."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lipbench import __version__, errors, traces
from lipbench.cases import NetworkSpec
from lipbench.run import failures
from lipbench.store.files import write_errors
from lipbench.train import checkpoints, data, evaluating, records
from lipbench.train.running import NotFiniteError, Training
from lipbench.train.task import RADII, Part, Point, TrainingCase, TrainingRecord

EVERY_S = 30.0
"""seconds between checkpoints"""
TELL_S = 1.0
"""seconds between two records of a training that is running"""
POINTS = 20
"""of a learning curve, after equal shares of the budget"""
TOLERANCE = 0.02
"""relative difference from a budget in seconds beyond which the record says so"""
CURVE_IMAGES = 500
"""largest number of validation images of a point"""
Watch = Callable[[TrainingRecord], None]


def train(
    case: TrainingCase, folder: Path, data_folder: Path | None = None, *, resume: bool = False, watch: Watch | None = None,
    evaluate_part: Part | None = "test", attack_images: int = 0, every_s: float = EVERY_S,
) -> TrainingRecord:  # fmt: skip
    """Train a case and return its record; what happens in the training becomes its status, never an exception.

    `folder` is that of this training alone. It gets record.json, a checkpoint every `every_s` seconds, and weights.safetensors
    at the end. `watch` gets the record about once a second; what it raises is passed on, and the training can be resumed.
    `evaluate_part` is evaluated at the end, and its first `attack_images` under an attack too. The generators of PyTorch, NumPy
    and Python are seeded.

    Raises `LipbenchError` for data or a checkpoint that cannot be read, and for a folder that holds a training, unless `resume`
    is given. A finished training is then returned as it is.
    """
    record = _begun(case, folder, resume)
    if record.status != "running":
        return record
    images = data.load(
        case.dataset, data_folder, split_seed=case.split_seed, all_images=case.all_images, device=case.device
    )  # fmt: skip
    path = folder / checkpoints.FILE
    stored = checkpoints.read(path) if record.started and path.exists() else None
    session = _Session(record, folder, images, watch, every_s)
    try:
        session.run(stored)
        session.finish(evaluate_part, attack_images)
    except NotFiniteError as error:
        session.end("not finite", str(error))
    except Exception as error:  # a layer may raise anything
        if session.is_passing_on:
            raise
        out_of_memory = failures.of_exception(error).status == "out_of_memory"
        said = str(error) if isinstance(error, errors.LipbenchError) else traces.line(error)
        session.end("out of memory" if out_of_memory else "failed", said)
    return session.record


def _begun(case: TrainingCase, folder: Path, resume: bool) -> TrainingRecord:
    """The stored record of a training that is continued, or a new one, without a start."""
    with write_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    if not (folder / records.FILE).exists():
        return TrainingRecord(case, "running", version=__version__)
    if not resume:
        raise errors.training_exists(folder)
    record = records.read(folder)
    if record.case != case:
        raise errors.unreadable_training(folder / records.FILE, f"it is that of {record.case.id}")
    return replace(record, interruptions=record.interruptions + 1) if record.status == "running" else record


class _Session:
    """A training together with its files: when it is stored, shown and evaluated."""

    def __init__(self, record: TrainingRecord, folder: Path, images: data.DataSet, watch: Watch | None, every_s: float) -> None:
        self.record = replace(
            record, started=record.started or datetime.now(UTC).isoformat(timespec="seconds"), train_images=len(images.train)
        )  # fmt: skip
        self.folder, self.images, self.watch, self.every_s = folder, images, watch, every_s
        self.is_passing_on = False
        """whether an exception is one of `watch`, or of a checkpoint that does not fit"""
        self._stored_at = self._told_at = time.monotonic()

    def run(self, stored: checkpoints.Checkpoint | None) -> None:
        """Train until the budget is used, from a checkpoint if there is one."""
        self.training = training = Training(self.record.case, self.images)
        self.record = replace(self.record, machine=training.machine, parameters=training.parameters)
        if stored is not None:
            self._resume(stored)
        self._tell()
        while not training.pace.is_over:
            training.step()
            if len(self.record.curve) < math.floor(training.pace.share * POINTS + 1e-9):
                self._add_point()
            now = time.monotonic()
            if now - self._stored_at >= self.every_s:
                self._store()
            if now - self._told_at >= min(TELL_S, self.every_s):
                self._tell()
        if training.steps_since:
            self._add_point()
        training.check_weights()

    def _resume(self, stored: checkpoints.Checkpoint) -> None:
        path = self.folder / checkpoints.FILE
        self.is_passing_on = True
        try:
            self.training.restore(stored)
            before = records.from_dict(stored.values["record"])
        except Exception as error:  # a damaged file may hold anything
            raise errors.unreadable_checkpoint(path, traces.line(error)) from error
        if before.case != self.record.case:
            raise errors.unreadable_checkpoint(path, f"it is that of {before.case.id}")
        self.is_passing_on = False
        self.record = replace(self.record, curve=before.curve, evaluation_seconds=before.evaluation_seconds)

    def _add_point(self) -> None:
        """Evaluate the validation images and add a point to the curve, outside the training's clock."""
        training = self.training
        training.check_weights()
        training.refresh()
        began = time.perf_counter()
        found: tuple[float | None, float | None] = (None, None)
        if len(self.images.validation):
            training.module.eval()
            found = evaluating.accuracy_and_certified(training.module, self.images, "validation", RADII[0], CURVE_IMAGES)
            training.module.train()
        point = Point(
            training.pace.steps, training.epochs, training.pace.seconds, training.rate, *training.means(), *found
        )  # fmt: skip
        spent = self.record.evaluation_seconds + time.perf_counter() - began
        self.record = replace(self.record, curve=(*self.record.curve, point), evaluation_seconds=spent)
        training.clock.skip()

    def _now(self) -> TrainingRecord:
        training = self.training
        return replace(
            self.record, steps=training.pace.steps, epochs=training.epochs, seconds=training.pace.seconds,
            loading_seconds=training.loading_seconds, peak_bytes=training.peak_bytes(),
        )  # fmt: skip

    def _tell(self) -> None:
        """Write the record and pass it on."""
        self.record = self._now()
        self._write()
        if self.watch is not None:
            self.is_passing_on = True
            self.watch(self.record)
            self.is_passing_on = False
        self._told_at = time.monotonic()
        self.training.clock.skip()

    def _write(self) -> None:
        with write_errors(self.folder):
            records.write(self.record, self.folder)

    def _store(self) -> None:
        """Write a checkpoint."""
        tensors, values = self.training.state()
        with write_errors(self.folder):
            checkpoints.write(self.folder / checkpoints.FILE, tensors, {**values, "record": records.to_dict(self._now())})
        self._stored_at = time.monotonic()
        self.training.clock.skip()

    def finish(self, part: Part | None, attack_images: int) -> None:
        """Store the weights, evaluate them, and end; the checkpoint remains until then."""
        self._store()
        self._tell()
        module = self.training.module.eval()
        self.training.refresh()
        with write_errors(self.folder):
            checkpoints.write_weights(module, self.folder / checkpoints.WEIGHTS, records.case_to_dict(self.record.case))
        if part is not None:
            began = time.perf_counter()
            case = self.record.case
            found = evaluating.evaluate(
                module, self.images, part, attack=attack_images > 0, images=attack_images, seed=case.seed,
                claimed=case.network.claim, each_layer=isinstance(case.network, NetworkSpec),
            )  # fmt: skip
            spent = self.record.evaluation_seconds + time.perf_counter() - began
            self.record = replace(self.record, evaluation=found, evaluation_seconds=spent)
        self.end("ok", self._missed())
        (self.folder / checkpoints.FILE).unlink(missing_ok=True)

    def _missed(self) -> str:
        """Why a budget in seconds was not met within `TOLERANCE`; "" where it was."""
        budget, used = self.record.case.budget, self.training.pace.seconds
        if budget.unit != "seconds" or abs(used / budget.amount - 1) <= TOLERANCE:
            return ""
        return f"used {used:.1f} of {budget.amount:g} s, in steps of {used / self.training.pace.steps:.1f} s"

    def end(self, status: str, reason: str) -> None:
        """Write the record with its final status."""
        if hasattr(self, "training"):
            self.record = self._now()
        self.record = replace(self.record, status=status, reason=reason)  # type: ignore[arg-type]  # one of `TrainingStatus`
        self._write()
