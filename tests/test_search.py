"""A search: the draws, the choice among them, halving, and processes that share one."""

from __future__ import annotations

import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
import searching_worker
from searching_worker import DIVERGES, OPTIONS, TEMPLATE, Notes, certified, noted

from lipbench.analysis import draws
from lipbench.cli.main import main
from lipbench.errors import LipbenchError
from lipbench.store.claims import claimed, holders
from lipbench.train import records, search, studies
from lipbench.train.search import Space, rungs, study_name
from lipbench.train.task import Budget, Evaluation, Part, TrainingCase, TrainingRecord

WORKER = Path(searching_worker.__file__)
PATIENCE_S = 120
NAME = "aol-paper-convnetXS-s8-k3-digits-offset-8steps-b256-ieee-cpu-t1-seed0-drawn0"


def searched(out: Path, options: search.Options = OPTIONS, *templates: TrainingCase) -> tuple[search.Search, ...]:
    return search.search(templates or (TEMPLATE,), options, out, Notes(out / "log"))


def trials(out: Path, name: str = NAME) -> list[optuna.trial.FrozenTrial]:
    """The trials of a study as Optuna's own tools read them."""
    backend = optuna.storages.journal.JournalFileBackend(str(out / "search" / "journal.log"))
    return optuna.load_study(study_name=name, storage=optuna.storages.JournalStorage(backend)).get_trials()


NETWORK = """
from torch import nn
def network(image_size, classes):
    return nn.Sequential(nn.Flatten(), nn.utils.parametrizations.spectral_norm(nn.Linear(3 * image_size**2, classes)))
"""


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lipbench.cli", "search", *arguments], capture_output=True, text=True, check=False
    )


# ---------------------------------------------------------------------------------------------------------------- the draws


def test_draws_are_uniform_in_the_logarithm_between_the_published_ends() -> None:
    exponents = [[math.log10(rate) for rate in Space(seed=3).draw(index)] for index in range(4000)]
    for values, low, high in zip(zip(*exponents), (-4, -5.5), (-1, -3.5)):
        assert low <= min(values) < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < max(values) <= high
        quarters = statistics.quantiles(values, n=4)
        assert quarters == pytest.approx([low + (high - low) * share / 4 for share in (1, 2, 3)], abs=0.06 * (high - low))


def test_a_draw_depends_on_seed_and_number_alone() -> None:
    assert Space().draw(5) == Space().draw(5)
    assert len({Space(seed=seed).draw(index) for seed in range(3) for index in range(5)}) == 15
    learning_rate, weight_decay = Space((1e-3, 1e-3), (2e-5, 2e-5)).draw(1)
    assert (learning_rate, weight_decay) == (1e-3, 2e-5)


def test_every_condition_and_every_space_has_its_own_study() -> None:
    others = [
        replace(TEMPLATE, loss="annealed"),
        replace(TEMPLATE, budget=Budget("steps", 9)),
        replace(TEMPLATE, precision="bf16"),
    ]
    spaces = [Space(seed=1), Space(learning_rate=(1e-3, 1e-1)), Space(weight_decay=(1e-6, 1e-5))]
    names = [
        study_name(TEMPLATE, Space()),
        *(study_name(one, Space()) for one in others),
        *(study_name(TEMPLATE, one) for one in spaces),
    ]
    assert names[0] == study_name(replace(TEMPLATE, learning_rate=0.5, weight_decay=1e-5), Space()) == NAME
    assert len(set(names)) == 7


# --------------------------------------------------------------------------------------------------------------- the search


def test_the_best_draw_by_validation_cra_is_trained_on_all_images(tmp_path: Path) -> None:
    (found,) = searched(tmp_path)
    rates = [Space().draw(index)[0] for index in range(8)]
    assert any(rate >= DIVERGES for rate in rates)  # a draw that is not finite is a result
    best = max((index for index in range(8) if rates[index] < DIVERGES), key=lambda index: certified(rates[index]))
    assert found.best is not None
    assert found.best.index == best
    assert [(one.case.learning_rate, one.case.weight_decay) for one in found.finals] == [Space().draw(best)] * 2
    assert [(one.case.seed, one.case.all_images, one.case.budget) for one in found.finals] == [
        (seed, True, Budget("steps", 16)) for seed in (0, 1)
    ]
    parts = [part for part, _, _ in noted(tmp_path / "log", "ends")]
    assert parts == ["validation"] * 8 + ["test"] * 2
    stored = trials(tmp_path)
    assert [trial.state.name for trial in stored] == ["PRUNED" if rate >= DIVERGES else "COMPLETE" for rate in rates]
    assert max((trial for trial in stored if trial.value is not None), key=lambda trial: trial.value or 0).params == {
        "learning_rate": rates[best],
        "weight_decay": Space().draw(best)[1],
    }


def test_the_same_command_again_trains_nothing_and_more_trials_only_the_new_ones(tmp_path: Path) -> None:
    (first,) = searched(tmp_path)
    (again,) = searched(tmp_path)
    assert again == first
    assert len(noted(tmp_path / "log", "begins")) == 10
    (more,) = searched(tmp_path, replace(OPTIONS, trials=11, seeds=3))
    assert len(more.results) == 11
    assert more.rungs[0].results.items() > first.rungs[0].results.items()
    assert len({case for _, case, _ in noted(tmp_path / "log", "begins")}) == len(noted(tmp_path / "log", "begins"))
    (fewer,) = searched(tmp_path, replace(OPTIONS, trials=3))
    assert sorted(fewer.rungs[0].results) == [0, 1, 2]


def test_every_network_and_loss_gets_the_same_draws_interleaved(tmp_path: Path) -> None:
    found = searched(tmp_path, OPTIONS, TEMPLATE, replace(TEMPLATE, loss="annealed"))
    rates = [[(one.learning_rate, one.weight_decay) for one in search.results] for search in found]
    assert rates[0] == rates[1] == [Space().draw(index) for index in range(8)]
    losses = ["annealed" if "annealed" in case else "offset" for _, case, _ in noted(tmp_path / "log", "begins")]
    assert losses == ["offset", "annealed"] * 10


def test_a_search_without_one_good_draw_says_why(tmp_path: Path) -> None:
    options = replace(OPTIONS, space=Space(learning_rate=(DIVERGES, 0.1)), trials=2)
    found = searched(tmp_path, options)
    assert found[0].finals == ()
    answer = draws.answer(found, options)
    assert answer.failed
    assert answer.problems == ("no draw ended well for aol-paper-convnetXS-s8-k3, offset: the loss is nan in step 2",)


def test_without_a_certificate_no_draw_has_a_cra(tmp_path: Path) -> None:
    def train(case: TrainingCase, folder: Path, part: Part) -> TrainingRecord:
        worth = Evaluation(part, 10, certified(case.learning_rate), {}, None, "cannot tell", "no upper bound", {}, 1.0)
        record = TrainingRecord(case, "ok", evaluation=worth)
        folder.mkdir(parents=True, exist_ok=True)
        records.write(record, folder)
        return record

    found = search.search((TEMPLATE,), OPTIONS, tmp_path, train)
    assert {one.certified for one in found[0].results} == {0.0}
    assert found[0].best == max(found[0].results, key=lambda one: one.accuracy or 0)
    (problem,) = draws.answer(found, OPTIONS).problems
    assert problem.endswith("has a certified image, so accuracy decided: no upper bound")


def test_a_training_that_was_evaluated_on_test_images_chooses_nothing(tmp_path: Path) -> None:
    def train(case: TrainingCase, folder: Path, part: Part) -> TrainingRecord:
        return searching_worker.evaluated(case, "test")

    with pytest.raises(LipbenchError, match="got one on test images"):
        search.search((TEMPLATE,), OPTIONS, tmp_path, train)
    assert trials(tmp_path) == []
    assert not (tmp_path / "search" / "claims").exists()


@pytest.mark.parametrize("content", ["{", '{"op_code": 4}\n', "[]\n", '{"op_code":0,"worker_id":"a","study_name":3}\n'])
def test_a_damaged_journal_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "journal.log").write_text(content + '{"op_code":0}\n')
    with pytest.raises(LipbenchError, match="not a readable journal"):
        searched(tmp_path)


# -------------------------------------------------------------------------------------------------------------- the halving


@pytest.mark.parametrize(
    ("trials", "budget", "halving", "expected"),
    [
        (16, Budget("seconds", 60), 1, [(16, 60)]),
        (16, Budget("seconds", 60), 2, [(16, 7.5), (8, 15), (4, 30), (2, 60)]),
        (16, Budget("epochs", 10), 3, [(16, 4), (5, 10)]),
        (9, Budget("steps", 9), 3, [(9, 3), (3, 9)]),
        (1, Budget("steps", 9), 2, [(1, 9)]),
    ],
)
def test_rungs(trials: int, budget: Budget, halving: int, expected: list[tuple[int, float]]) -> None:
    assert rungs(trials, budget, halving) == [(draws, Budget(budget.unit, amount)) for draws, amount in expected]


def test_halving_promotes_the_best_and_says_what_it_saved(tmp_path: Path) -> None:
    options = replace(OPTIONS, halving=2)
    found = searched(tmp_path, options)
    (halved,) = found
    (plain,) = searched(tmp_path / "plain")
    assert halved.best is not None
    assert plain.best is not None
    assert halved.best.index == plain.best.index
    ranked = plain.rungs[0].best(8)
    assert [rung.budget.amount for rung in halved.rungs] == [2, 4, 8]
    assert [rung.wanted for rung in halved.rungs[1:]] == [ranked[:4], ranked[:2]]
    good, bad = len(ranked), 8 - len(ranked)
    used, estimate = halved.seconds
    assert used == pytest.approx(good * 0.25 + bad * 0.25 + 4 * 0.5 + 2)
    assert estimate == pytest.approx(good + bad)  # a full budget takes 1 s
    assert any(line.endswith("takes about 8 s. Saved: 2 s (25 %).") for line in draws.answer(found, options).remarks)
    # A plain search in the same folder goes on from the draws that had the full budget.
    before = len(noted(tmp_path / "log", "begins"))
    searched(tmp_path)
    assert len(noted(tmp_path / "log", "begins")) == before + 6


# ---------------------------------------------------------------------------------------------------------------- the table


def test_the_table_has_draws_finals_and_their_spread(tmp_path: Path) -> None:
    found = searched(tmp_path)
    answer = draws.answer(found, OPTIONS)
    assert not answer.failed
    frame = answer.frame
    assert list(frame.columns) == list(draws.COLUMNS)
    assert frame["part"].tolist() == ["validation"] * 8 + ["test"] * 2
    assert frame["best"].sum() == 3
    assert frame["certified_36"].isna().tolist() == frame["accuracy"].isna().tolist()
    assert frame["certified_255"].notna().sum() == 2
    readable = answer.readable
    assert readable is not None
    assert [draw for draw in readable["Draw"] if "best" in draw] == [f"{found[0].best.index} best"]  # type: ignore[union-attr]
    final = readable.iloc[-1]
    accuracies = [record.evaluation.accuracy for record in found[0].finals if record.evaluation]
    assert final["Accuracy"] == f"{100 * statistics.mean(accuracies):.1f} ± {100 * statistics.stdev(accuracies):.1f} %"
    assert "not finite" in readable["Status"].tolist()


# -------------------------------------------------------------------------------------------------------------- the workers


def start(out: Path, log: Path, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, str(WORKER), str(out), str(log), str(seconds)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def go(*workers: subprocess.Popen[str]) -> None:
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("go\n")
        worker.stdin.flush()


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_two_workers_share_one_study_and_lose_nothing_when_one_is_killed(tmp_path: Path) -> None:
    """Eight trials: every one is finished once, by either worker; the one that the kill interrupted is trained again."""
    out, log = tmp_path / "out", tmp_path / "log"
    killed, other = start(out, log, 600), start(out, log, 0.05)
    go(killed)
    wait_until(lambda: len(noted(log, "begins")) == 1)
    go(other)
    wait_until(lambda: len(noted(log, "ends")) >= 3)
    killed.kill()
    killed.communicate()
    said, _ = other.communicate(timeout=PATIENCE_S)
    (alone,) = searched(tmp_path / "alone")
    assert alone.best is not None
    assert said == f"8 {alone.best.index} 2\n"
    interrupted = noted(log, "begins")[0]
    assert interrupted[2] == str(killed.pid)
    ended = [case for _, case, _ in noted(log, "ends")]
    assert sorted(ended) == sorted(case for _, case, _ in noted(tmp_path / "alone" / "log", "ends"))
    assert interrupted[1] in ended
    stored = trials(out)
    assert len(stored) == 8
    assert all(trial.state.is_finished() for trial in stored)
    assert {tuple(trial.params.values()) for trial in stored} == {Space().draw(index) for index in range(8)}
    assert not (out / "search" / "claims").exists()


def test_two_live_workers_train_every_draw_once(tmp_path: Path) -> None:
    out, log = tmp_path / "out", tmp_path / "log"
    workers = start(out, log, 0.2), start(out, log, 0.2)
    go(*workers)
    said = {worker.communicate(timeout=PATIENCE_S)[0] for worker in workers}
    assert len(said) == 1
    begun = noted(log, "begins")
    assert len(begun) == len({case for _, case, _ in begun}) == 10
    assert len({process for _, _, process in begun}) == 2
    assert len(trials(out)) == 8


def test_a_result_that_two_machines_add_counts_once(tmp_path: Path) -> None:
    """A claim may run out on another machine while its owner still trains."""
    searched(tmp_path)
    ledger = studies.Studies(tmp_path)
    first = ledger.results(NAME)[2]
    ledger.add(NAME, replace(first, certified=1.0), Space().ranges, "")
    assert studies.Studies(tmp_path).results(NAME)[2] == first
    assert len(studies.Studies(tmp_path).results(NAME)) == 8


def test_a_training_renews_its_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim is still in force on other machines when the training has taken longer than the first claim was for."""
    monkeypatch.setattr(search, "RENEW_S", 0.001)
    seen: list[float] = []

    def train(case: TrainingCase, folder: Path, part: Part) -> TrainingRecord:
        first = holders(tmp_path / "search")
        wait_until(lambda: holders(tmp_path / "search")[0].until > first[0].until)
        seen.append(first[0].until)
        return Notes(tmp_path / "log")(case, folder, part)

    search.search((TEMPLATE,), replace(OPTIONS, trials=2, seeds=1), tmp_path, train)
    assert len(seen) == 3
    assert not (tmp_path / "search" / "claims").exists()


def test_a_training_whose_process_was_killed_is_continued_by_the_next_command(tmp_path: Path) -> None:
    def train(case: TrainingCase, folder: Path, part: Part) -> TrainingRecord:
        return TrainingRecord(case, "running", "its process was killed")

    with pytest.raises(LipbenchError, match=r"its process was killed.*run the same command again"):
        search.search((TEMPLATE,), OPTIONS, tmp_path, train)
    assert trials(tmp_path) == []
    (found,) = searched(tmp_path)
    assert len(found.results) == 8


def test_a_claimed_draw_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = replace(TEMPLATE, learning_rate=Space().draw(3)[0], weight_decay=Space().draw(3)[1])
    (tmp_path / "search").mkdir()
    held = claimed(tmp_path / "search", case, 100.0)
    assert held.__enter__()
    waited: list[float] = []

    def release(seconds: float) -> None:
        if seconds == search.POLL_S:  # the others are those of the stand-in for a training
            waited.append(seconds)
            assert len(trials(tmp_path)) == 7
            held.__exit__(None, None, None)

    monkeypatch.setattr(search.time, "sleep", release)
    (found,) = search.search((TEMPLATE,), OPTIONS, tmp_path, Notes(tmp_path / "log"))
    assert len(found.results) == 8
    assert waited == [search.POLL_S]


# -------------------------------------------------------------------------------------------------------- the command line


def test_a_true_search_on_digits(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(NETWORK)
    asked = ["--network", f"{tmp_path / 'tiny.py'}:network", "--learning-rate", "0.1,1", "--trials", "2", "--steps", "30"]
    out, table = tmp_path / "out", tmp_path / "table.csv"
    done = command(*asked, "--seeds", "1", "--threads", "1", "--device", "cpu", "--out", str(out), "-o", str(table))
    assert (done.returncode, done.stderr) == (0, "")
    rows = pd.read_csv(table)
    assert rows["part"].tolist() == ["validation", "validation", "test"]
    assert rows["status"].tolist() == ["ok"] * 3
    assert rows["certified_36"].min() > 0.2  # chance is 0.1 without any radius
    assert (rows["certified_36"] <= rows["accuracy"]).all()
    stored, problems = records.read_all(out)
    assert problems == []
    assert sorted((one.case.all_images, one.train_images) for one in stored) == [(False, 1294), (False, 1294), (True, 1438)]
    chosen = rows[:2].loc[rows["certified_36"][:2].idxmax()]
    assert rows.iloc[2]["learning_rate"] == chosen["learning_rate"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--learning-rate", "0.1"], "--learning-rate takes a range: got '0.1'"),
        (["--weight-decay", "1e-3,1e-4"], "--weight-decay takes a range"),
        (["--halving", "1", "--method", "aol"], "--halving"),
        (["--method", "aol"], "a training has one budget: got none"),
    ],
)
def test_wrong_use_is_one_line(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["search", *arguments])
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
