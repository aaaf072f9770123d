"""Trainings: losses, schedule and budgets, records of what fails, and the verb."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch

from lipbench import errors
from lipbench.cases import ExternalNetworkSpec, NetworkSpec
from lipbench.train import checkpoints, classifiers, losses, records, schedule, series, trainer
from lipbench.train.order import Order
from lipbench.train.task import Budget, TrainingCase, TrainingRecord

SMALL = "trained_networks:small"


def case_of(name: str = SMALL, unit: str = "steps", amount: float = 8, **fields: object) -> TrainingCase:
    budget = Budget(unit, amount)  # type: ignore[arg-type]  # a unit
    usual = {"learning_rate": 0.1, "weight_decay": 1e-4, "batch_size": 64}
    return TrainingCase(ExternalNetworkSpec(name, 8), "digits", budget, **(usual | fields))  # type: ignore[arg-type]


def trained(case: TrainingCase, folder: Path, **options: object) -> TrainingRecord:
    return trainer.train(case, folder, **({"evaluate_part": None} | options))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------------------------- losses


def by_hand(name: str, logits: torch.Tensor, labels: torch.Tensor, constant: float) -> torch.Tensor:
    """The formula of a loss, image by image, in float64."""
    total = torch.zeros((), dtype=torch.float64)
    for row, label in zip(logits, labels.tolist()):
        offset, temperature, beta = {
            "offset": (2 * 2**0.5 * 36 / 255 * constant, 0.25, 0.0), "annealed": (2 * 2**0.5 * constant, 0.75, 5.0),
            "cross-entropy": (0.0, 1.0, 0.0),
        }[name]  # fmt: skip
        shifted = [(value - (offset if place == label else 0)) / temperature for place, value in enumerate(row)]
        p = shifted[label].exp() / sum(value.exp() for value in shifted)
        total = total - temperature * (1 - p) ** beta * p.log()
    return total / len(logits)


@pytest.mark.parametrize("constant", [1.0, 1.7])
@pytest.mark.parametrize("name", ["offset", "annealed", "cross-entropy"])
def test_losses_and_their_gradients_are_those_of_the_formulas(name: str, constant: float) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 1, 2, 3, 4, 4])
    found, expected = losses.build(name, 5, constant)(logits, labels), by_hand(name, logits, labels, constant)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    gradients = [torch.autograd.grad(one, logits)[0] for one in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-14)


def test_annealed_loss_stays_finite_for_certain_images() -> None:
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    loss = losses.build("annealed", 2)(logits, torch.tensor([0, 0]))
    loss.backward()
    assert torch.isfinite(loss)
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


# ----------------------------------------------------------------------------------------------------------------- schedule


@pytest.mark.parametrize("step", [0, 150, 299, 600, 999])
def test_one_cycle_is_that_of_pytorch(step: int) -> None:
    total, peak = 1000, 0.3
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak, momentum=0.9)
    pytorch = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=peak, total_steps=total, cycle_momentum=False)
    for _ in range(step):
        optimizer.step()
        pytorch.step()
    top = schedule.WARM_UP * total - 1  # PyTorch's peak lies one step before 30 %
    share = 0.3 * step / top if step < top else 0.3 + 0.7 * (step - top) / (total - 1 - top)
    assert peak * schedule.one_cycle(share) == pytest.approx(pytorch.get_last_lr()[0], rel=1e-9)


def test_published_epoch_budgets_are_those_of_two_hours() -> None:
    text = resources.files("lipbench").joinpath("published/epoch_budget_2h.csv").read_text()
    rows = [row for row in csv.DictReader(text.splitlines()) if row["train_seconds_per_epoch"]]
    assert len(rows) > 40
    for row in rows:
        published = float(row["epochs_in_2h_on_A100_80GB"])
        assert schedule.epochs_in(2, float(row["train_seconds_per_epoch"])) == pytest.approx(published, rel=0.01, abs=1)


def test_steps_of_a_budget_in_epochs_are_rounded_up() -> None:
    assert schedule.Pace(Budget("epochs", 3), 100 / 64).total_steps == 5
    assert schedule.Pace(Budget("epochs", 3), 2.0).total_steps == 6


@pytest.mark.parametrize("step_s", [0.013, 0.3, 1.7])
def test_budget_in_seconds_ends_as_close_as_steps_allow(step_s: float) -> None:
    pace = schedule.Pace(Budget("seconds", 60), 10)
    while not pace.is_over:
        assert pace.share < 1
        pace.step(step_s)
    assert abs(pace.seconds - 60) <= step_s / 2 + 1e-9
    assert pace.steps == round(60 / step_s)


def test_batches_are_full_and_each_epoch_has_every_image_once() -> None:
    order = Order(10, 4, seed=1)
    taken = torch.cat([order.batch() for _ in range(5)])
    assert sorted(taken[:10].tolist()) == sorted(taken[10:].tolist()) == list(range(10))
    assert taken[:10].tolist() != taken[10:].tolist()
    assert len(Order(10, 64, seed=1).batch()) == 10


# ---------------------------------------------------------------------------------------------------------------- trainings


def test_loss_falls_and_certified_accuracy_rises_above_chance(tmp_path: Path) -> None:
    case = case_of("trained_networks:small(method='cayley')", amount=60, learning_rate=0.3)
    record = trained(case, tmp_path, evaluate_part="test")
    assert record.status == "ok"
    assert record.curve[-1].loss < record.curve[0].loss
    assert len(record.curve) == trainer.POINTS
    assert record.curve[-1].validation_certified is not None
    assert record.curve[-1].validation_certified > 0.2
    assert record.evaluation is not None
    assert record.evaluation.verdict == "ok"
    assert 0.2 < record.evaluation.certified["0.141176"] <= record.evaluation.accuracy
    assert record.steps == 60
    assert record.epochs == pytest.approx(60 * 64 / record.train_images)
    assert 0 < record.loading_seconds < record.seconds
    assert record.parameters > 0
    assert record.peak_bytes is not None
    assert record.peak_bytes > 8 * record.parameters
    assert records.read(tmp_path) == record
    assert not (tmp_path / checkpoints.FILE).exists()
    module = classifiers.build(replace(case, seed=1))
    checkpoints.load_weights(module, tmp_path / checkpoints.WEIGHTS)
    again = classifiers.build(case)
    checkpoints.load_weights(again, tmp_path / checkpoints.WEIGHTS)
    x = torch.randn(4, 3, 8, 8)
    assert torch.equal(module.eval()(x), again.eval()(x))


def test_wall_clock_budget_is_kept(tmp_path: Path) -> None:
    record = trained(case_of(unit="seconds", amount=1.0), tmp_path)
    longest = max(later.seconds - earlier.seconds for earlier, later in zip(record.curve, record.curve[1:]))
    assert abs(record.seconds - 1.0) <= max(0.02, longest)
    assert record.curve[-1].learning_rate < 0.1 * schedule.START


def test_equal_cases_give_equal_trainings_and_seeds_differ(tmp_path: Path) -> None:
    for name, case in (("a", case_of()), ("b", case_of()), ("c", case_of(seed=1))):
        trained(case, tmp_path / name)
    weights = {name: checkpoints.read(tmp_path / name / checkpoints.WEIGHTS).tensors["6.convolution.weight"] for name in "abc"}
    assert torch.equal(weights["a"], weights["b"])
    assert not torch.equal(weights["a"], weights["c"])


def test_all_images_have_no_validation(tmp_path: Path) -> None:
    record = trained(case_of(all_images=True), tmp_path)
    assert record.status == "ok"
    assert {point.validation_accuracy for point in record.curve} == {None}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_float32_weights(precision: str, tmp_path: Path) -> None:
    record = trained(case_of(precision=precision, amount=3), tmp_path)
    assert record.status == "ok"
    stored = checkpoints.read(tmp_path / checkpoints.WEIGHTS).tensors
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}


# ----------------------------------------------------------------------------------------------------------------- failures


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("nan", "not finite", "the loss is nan in step 5; a smaller learning rate may help"),
        ("memory", "out of memory", "MemoryError: no room for 5 images"),
        ("raise", "failed", "ValueError: always fails (trained_networks.py:"),
    ],
)
def test_failures_become_records_with_their_reason(how: str, status: str, reason: str, tmp_path: Path) -> None:
    record = trained(case_of(f"trained_networks:Faulty(how={how!r})"), tmp_path)
    assert record.status == status
    assert record.reason.startswith(reason)
    assert "\n" not in record.reason
    assert record.steps == 4
    assert records.read(tmp_path) == record
    assert trained(record.case, tmp_path, resume=True) == record


def test_diverging_weights_end_a_training(tmp_path: Path) -> None:
    record = trained(case_of(learning_rate=1e38, loss="cross-entropy"), tmp_path)
    assert record.status == "not finite"
    assert "a smaller learning rate may help" in record.reason


def test_what_watch_raises_is_passed_on(tmp_path: Path) -> None:
    def refuse(record: TrainingRecord) -> None:
        raise ValueError("pruned")

    with pytest.raises(ValueError, match="pruned"):
        trained(case_of(), tmp_path, watch=refuse)
    assert records.read(tmp_path).status == "running"


def test_second_training_in_a_folder_is_refused(tmp_path: Path) -> None:
    trained(case_of(amount=1), tmp_path)
    with pytest.raises(errors.LipbenchError, match="add --resume"):
        trained(case_of(amount=1), tmp_path)
    with pytest.raises(errors.LipbenchError, match="it is that of"):
        trained(case_of(amount=2), tmp_path, resume=True)


# ----------------------------------------------------------------------------------------------------------------- records


def test_records_of_both_kinds_are_read_as_written_and_others_named(tmp_path: Path) -> None:
    for case in (case_of(), TrainingCase(NetworkSpec("aol", "XS", 8), "digits", Budget("seconds", 1.5), 0.1, 0.0)):
        folder = records.folder_of(tmp_path, case)
        folder.mkdir(parents=True)
        records.write(TrainingRecord(case, "failed", "why"), folder)
        assert records.read(folder) == TrainingRecord(case, "failed", "why")
    bad = {"empty": "", "foreign": "{}", "newer": '{"schema": 99}', "wrong": '{"schema": 1, "case": {"kind": "layer"}}'}
    for name, text in bad.items():
        (tmp_path / records.FOLDER / name).mkdir()
        (tmp_path / records.FOLDER / name / records.FILE).write_text(text)
    found, problems = records.read_all(tmp_path)
    assert len(found) == 2
    assert len(problems) == len(bad)
    assert not any("\n" in problem for problem in problems)


# ------------------------------------------------------------------------------------------------------- series and the verb


def test_killed_process_ends_its_own_training_alone(tmp_path: Path) -> None:
    from lipbench.run.processes import Processes

    cases = [case_of(f"trained_networks:Faulty(how={how!r})", amount=6) for how in ("kill", "crash")]
    begun: list[TrainingCase] = []
    with Processes() as processes:
        found = series.run(processes, [*cases, case_of(amount=2)], series.Options(tmp_path), begun.append)
    assert [record.status for record in found] == ["running", "failed", "ok"]
    assert "continue with --resume" in found[0].reason
    assert "SIGSEGV" in found[1].reason
    assert begun == [record.case for record in found]
    assert records.read_all(tmp_path) == (sorted(found, key=lambda record: record.case.id), [])


def test_verb_prints_the_table_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lipbench.cli.main import main

    words = ["train", "--network", SMALL, "--steps", "2", "--seeds", "2", "--threads", "1", "--attack-images", "6"]
    words += ["--out", str(tmp_path), "--format"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "json"])
    rows = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert [row["seed"] for row in rows] == [0, 1]
    assert all(0 <= row["certified_0.141176"] <= row["accuracy"] <= 1 for row in rows)
    assert all([one.images for one in found.evaluation.attacked] == [6] * 4 for found in records.read_all(tmp_path)[0])
    for more, code in (([], 2), (["--resume"], 0)):
        with pytest.raises(SystemExit) as ended:
            main([*words, "table", *more])
        assert ended.value.code == code
    printed = capsys.readouterr()
    assert "add --resume" in printed.err
    assert "CRA 36/255" in printed.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--steps", "2"], "no network to train is given"),
        (["--method", "aol"], "a training has one budget: got none"),
        (["--method", "aol", "--steps", "2", "--seconds", "3"], "a training has one budget: got 2 of them"),
        (["--method", "aol", "--steps", "2", "--dataset", "mnist"], "unknown dataset"),
        (["--method", "aol", "--steps", "2", "--size", "XXL"], "unknown network size"),
        (["--method", "aol", "--steps", "2", "--loss", "hinge"], "unknown loss"),
        (["--method", "nosuch", "--steps", "2"], "unknown method"),
        (["--method", "aol", "--steps", "2", "--learning-rate", "0"], "no learning rate"),
        (["--method", "aol", "--steps", "2", "--weight-decay", "nan"], "no weight decay"),
        (["--method", "aol", "--steps", "2", "--resume"], "without --out"),
    ],
)
def test_wrong_use_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    from lipbench.cli.main import main

    with pytest.raises(SystemExit) as ended:
        main(["train", *words])
    printed = capsys.readouterr()
    assert ended.value.code == 2
    assert message in printed.err
    assert printed.err.count("\n") == 1
