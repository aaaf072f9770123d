"""The table of trainings: means and intervals over seeds, the paper beside, failures, places; and the verb that prints it."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from scipy import stats
from training_records import case, evaluation, everything, failed, record

import lipbench
from lipbench.analysis import accuracy, worth
from lipbench.cases import ExternalNetworkSpec, NetworkSpec
from lipbench.cli import formats
from lipbench.cli import main as cli
from lipbench.train import records
from lipbench.train.task import RADII, Budget, TrainingRecord

SHARES = (0.80, 0.83, 0.82)


def seeds(method: str = "aol", shares: tuple[float, ...] = SHARES) -> list[TrainingRecord]:
    return [record(case(method, seed), share) for seed, share in enumerate(shares)]


def only_row(found: list[TrainingRecord]) -> pd.Series:
    table = accuracy.frame(found)
    assert len(table) == 1
    return table.iloc[0]


def test_seeds_give_a_mean_with_the_interval_of_student() -> None:
    row = only_row(seeds())
    low, high = stats.t.interval(0.95, 2, loc=sum(SHARES) / 3, scale=stats.sem(SHARES))
    assert (row["seeds"], row["trainings"], row["status"]) == (3, 3, "ok")
    assert (row["accuracy"], row["accuracy_low"], row["accuracy_high"]) == pytest.approx((sum(SHARES) / 3, low, high))
    assert row["accuracy_sd"] == pytest.approx(pd.Series(SHARES).std())
    for radius in RADII:
        name = f"cra_{round(255 * radius)}"
        assert row[name] == pytest.approx(row["accuracy"] * math.exp(-2 * radius))


def test_two_seeds_have_no_interval() -> None:
    row = only_row(seeds(shares=(0.8, 0.9)))
    assert row["accuracy"] == pytest.approx(0.85)
    assert math.isnan(row["accuracy_low"])


def test_costs_are_those_of_finished_trainings() -> None:
    stopped = replace(failed(case("aol", 3)), epochs=1.0, seconds=50.0)
    row = only_row([*seeds(), stopped])
    assert (row["epochs"], row["seconds_per_epoch"], row["peak_bytes"]) == (60.0, 1.0, 11 * 2**20)


def test_a_failed_training_is_shown_with_its_reason_and_its_group_is_not_ranked() -> None:
    table = accuracy.frame([*seeds(), failed(case("aol", 3)), failed(case("soc"), "out of memory", "12 GiB were asked for")])
    aol, soc = (row for _, row in table.iterrows())
    assert (aol["status"], aol["reason"]) == ("not finite", "seed 3: not finite: the loss became NaN at step 40")
    assert (aol["seeds"], aol["trainings"]) == (3, 4)
    assert (soc["status"], soc["seeds"]) == ("out of memory", 0)
    assert table["place_first"].isna().all()
    printed = worth.answer([failed(case("soc"))]).readable
    assert printed is not None
    assert printed["Status"].tolist() == ["seed 0: not finite: the loss became NaN at step 40"]


def test_an_unfinished_and_an_unevaluated_training_are_shown() -> None:
    running = replace(record(case("aol")), status="running", evaluation=None)
    bare = replace(record(case("soc")), evaluation=None)
    table = accuracy.frame([running, bare]).set_index("method")
    assert table["reason"].to_dict() == {"aol": "seed 0: running", "soc": "seed 0: not evaluated"}


def test_a_network_without_certificate_has_no_certified_accuracy_and_no_place() -> None:
    nothing = evaluation(0.7, certified={}, margins={}, constant=None, verdict="cannot tell", reason="no bound is known")
    table = accuracy.frame([*seeds(), *seeds("cpl"), *(record(case("soc", seed), evaluation=nothing) for seed in range(3))])
    row = table.set_index("method").loc["soc"]
    assert (row["verdict"], row["unproven"]) == ("cannot tell", "no bound is known")
    assert row[["cra_36", "cra_255", "constant", "place_first"]].isna().all()
    assert row["accuracy"] == pytest.approx(0.7)


def test_one_seed_without_certificate_leaves_its_group_without_a_mean() -> None:
    nothing = evaluation(0.7, certified={}, margins={}, constant=None, verdict="cannot tell", reason="no bound is known")
    row = only_row([*seeds(), record(case("aol", 3), evaluation=nothing)])
    assert math.isnan(row["cra_36"])
    assert row["unproven"] == "no bound is known"


def test_the_paper_stands_beside_the_same_data_method_and_size() -> None:
    own = [record(case(size=size, dataset=data, image_size=image))
           for data, image, size in (("cifar10", 32, "XS"), ("tiny-imagenet", 64, "M"), ("digits", 8, "XS"))]  # fmt: skip
    cifar, tiny, digits = (row for _, row in accuracy.frame(own).iterrows())
    assert (cifar["published_accuracy_2h"], cifar["published_cra_36_24h"]) == pytest.approx((0.685, 0.591))
    assert (cifar["published_epochs_2h"], tiny["published_epochs_2h"]) == (837, 123)
    assert digits[["published_accuracy_2h", "published_epochs_2h"]].isna().all()


def test_a_namesake_of_another_package_has_no_published_results() -> None:
    foreign = replace(case(dataset="cifar10"), network=NetworkSpec("package.module:AOL", "XS"))
    assert math.isnan(only_row([record(foreign)])["published_accuracy_2h"])
    assert only_row([record(replace(foreign, network=ExternalNetworkSpec("package:Net")))])["network"] == "external"


def test_all_published_results_have_their_epochs() -> None:
    table = accuracy.published()
    assert len(table) == 243
    assert table["epochs_2h"].notna().all()
    assert set(table["dataset"]) == set(accuracy.PUBLISHED_DATASETS)


def test_draws_of_a_search_stay_apart_with_those_that_failed() -> None:
    drawn = [record(case(learning_rate=rate), 0.5, evaluation=evaluation(0.5, part="validation")) for rate in (0.1, 0.2)]
    lost = failed(case(learning_rate=0.9))
    final = record(case(all_images=True))
    found = accuracy.trainings([*drawn, lost, final, failed(case("soc", loss="annealed"))])
    assert found["final"].tolist() == [False, False, False, True, True]
    assert len(worth.draws([*drawn, lost, final]).frame) == 3
    assert "No training was evaluated" in str(formats.encoded(worth.answer(drawn), "table"))
    answer = worth.answer([*drawn, lost, final])
    assert len(answer.frame) == 1
    assert "3 draws of searches are left out" in " ".join(answer.remarks)


def test_places_are_ranges_where_intervals_overlap() -> None:
    shares = {"aol": (0.70, 0.701, 0.702), "soc": (0.80, 0.82, 0.81), "cpl": (0.805, 0.815, 0.81), "sll": (0.9, 0.901, 0.902)}
    found = [one for method, own in shares.items() for one in seeds(method, own)]
    table = accuracy.frame(found).set_index("method")
    places = dict(zip(table.index, zip(table["place_first"], table["place_last"])))
    assert places == {"sll": (1, 1), "soc": (2, 3), "cpl": (2, 3), "aol": (4, 4)}


def test_no_place_is_told_apart_without_intervals() -> None:
    table = accuracy.frame([record(case(method), share) for method, share in (("aol", 0.1), ("soc", 0.9))])
    assert set(zip(table["place_first"], table["place_last"])) == {(1, 2)}


def test_only_trainings_under_equal_conditions_compete() -> None:
    longer = replace(case("soc"), budget=Budget("seconds", 600))
    table = accuracy.frame([record(case("aol"), 0.1), record(longer, 0.9), record(case("cpl", loss="annealed"))])
    assert table["place_last"].tolist() == [1, 1, 1]


def test_an_attack_below_the_certificate_fails_loudly() -> None:
    found = seeds()
    sound = found[0].evaluation
    assert sound is not None
    wrong = replace(sound.attacked[0], accuracy=sound.attacked[0].certified - 0.01)
    answer = worth.answer([replace(found[0], evaluation=replace(sound, attacked=(wrong,))), *found[1:]])
    assert answer.failed
    assert "an attack left less accuracy than was certified" in answer.problems[0]
    assert answer.frame["place_first"].isna().all()
    assert not worth.answer(found).failed


def test_the_strongest_attack_of_a_radius_counts() -> None:
    found = evaluation(0.8)
    stronger = replace(found.attacked[0], attack="another", accuracy=0.7)
    row = only_row([record(case(), evaluation=replace(found, attacked=(*found.attacked, stronger)))])
    assert (row["attacked_36"], row["attack"]) == (0.7, "PGD, 50 steps; another")
    assert math.isnan(row["attacked_72"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for one in everything():
        place = records.folder_of(tmp_path / "out", one.case)
        place.mkdir(parents=True)
        records.write(one, place)
    return tmp_path / "out"


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        return (stop.value.code, *capsys.readouterr())  # type: ignore[return-value]  # the code is a number

    return call


def test_the_verb_prints_the_table_and_what_it_means(folder: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run("accuracy", str(folder))
    assert (code, err) == (0, "")
    for words in ("CRA 36", "± 0.", "seed 0: not finite: the loss became NaN", "without a proved Lipschitz constant",
                  "Equal seconds gave different numbers of epochs", "no upper bound is known", "2 h 68.5, 55.6"):  # fmt: skip
        assert words in out, words
    csv = pd.read_csv(io.StringIO(run("accuracy", str(folder), "--format", "csv")[1]))
    assert len(csv) == len(accuracy.frame(everything()))
    assert csv.set_index(["dataset", "method"]).loc[("digits", "soc"), "cra_36"] == pytest.approx(0.68, abs=0.01)
    assert len(pd.read_csv(io.StringIO(run("accuracy", str(folder), "--draws", "--format", "csv")[1]))) == 4


def test_the_verb_prints_the_paper(run: Callable[..., tuple[int, str, str]]) -> None:
    printed = pd.read_csv(io.StringIO(run("accuracy", "--published", "--dataset", "cifar10", "--format", "csv")[1]))
    assert printed.query("title == 'SOC' and network == 'L' and hours == 24")["accuracy"].notna().all()
    assert set(printed["dataset"]) == {"cifar10"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((".",), "no trainings to show"),
        ((), "got neither"),
        ((".", "--published"), "got both"),
        (("--published", "--dataset", "digits"), "cifar10"),
        ((".", "--dataset", "cifar10"), "got --dataset without --published"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: tuple[str, ...], words: str, run: Callable[..., tuple[int, str, str]], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    code, out, err = run("accuracy", *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_a_damaged_record_is_named_and_the_rest_printed(folder: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    place = next(iter(sorted((folder / "training").iterdir())))
    (place / "record.json").write_text('{"schema": 1, "ca')
    code, out, err = run("accuracy", str(folder))
    assert (code, err.count("\n")) == (0, 1)
    assert place.name in err
    assert "CRA 36" in out


def test_export_of_trainings_alone_says_which_verb_prints_them(folder: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    code, _, err = run("export", str(folder))
    assert code == 2
    assert "lipbench accuracy" in err
    assert len(lipbench.load(folder).trainings) == len(everything())
