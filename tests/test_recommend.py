"""Which layer: constraints that nothing unknown passes, what relaxing one wins, fronts, and the numbers behind them."""

from __future__ import annotations

import json
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import samples
import training_records

import lipbench
from lipbench.analysis import accuracy, candidates, judging
from lipbench.analysis.judging import EPOCH, MEMORY, THROUGHPUT, Candidate, Constraint, Figure, Quantity
from lipbench.cases import Case, NetworkSpec
from lipbench.cli import main as cli
from lipbench.errors import LipbenchError
from lipbench.prediction import memory, rates, time
from lipbench.store.rounds import Record
from lipbench.train import records
from lipbench.train.task import TrainingRecord

pytestmark = pytest.mark.usefixtures("quick_collections")


def network(label: str, worth: float, **costs: Figure | float) -> Candidate:
    """A candidate with invented numbers; plain costs are measured."""
    spec = NetworkSpec(label.split()[0].lower(), label.split()[1])
    figures = {name: one if isinstance(one, Figure) else Figure(one, "measured") for name, one in costs.items()}
    known = Figure(worth, "published") if math.isfinite(worth) else Figure(why="nobody trained it")
    return Candidate(spec, label, known, figures)


@pytest.mark.parametrize(
    ("quantity", "figure", "verdict"),
    [
        (MEMORY, Figure(10.0, "predicted"), "ok"),
        (MEMORY, Figure(10.1, "predicted"), "fails"),
        (MEMORY, Figure(why="not known"), "cannot tell"),
        (EPOCH, Figure(9.0, "predicted", "at least"), "cannot tell"),
        (EPOCH, Figure(11.0, "predicted", "at least"), "fails"),
        (EPOCH, Figure(9.0, "predicted", "at most"), "ok"),
        (EPOCH, Figure(11.0, "predicted", "at most"), "cannot tell"),
        (THROUGHPUT, Figure(10.0, "measured"), "ok"),
        (THROUGHPUT, Figure(9.9, "measured"), "fails"),
        (THROUGHPUT, Figure(11.0, "predicted", "at most"), "cannot tell"),
        (THROUGHPUT, Figure(9.0, "predicted", "at most"), "fails"),
        (THROUGHPUT, Figure(11.0, "predicted", "at least"), "ok"),
    ],
)
def test_a_limit_of_ten_is_passed_only_by_what_is_known(quantity: Quantity, figure: Figure, verdict: str) -> None:
    limit = Constraint(quantity, 10.0)
    assert limit.verdict(figure) == verdict
    if figure.is_known:
        assert (limit.margin(figure) >= 0) == ((figure.value <= 10) == quantity.limits_above or figure.value == 10)


def test_order_is_by_verdict_then_accuracy_then_memory() -> None:
    limit = Constraint(MEMORY, 10.0)
    found = judging.judged(
        [
            network("CPL L", 0.7, training_peak_bytes=11.0),
            network("SOC S", 0.5, training_peak_bytes=9.0),
            network("LOT M", 0.6, training_peak_bytes=Figure(why="not known")),
            network("AOL S", 0.5, training_peak_bytes=3.0),
            network("LOT L", math.nan, training_peak_bytes=1.0),
        ],
        [limit],
    )
    assert [one.candidate.label for one in found] == ["AOL S", "SOC S", "LOT M", "LOT L", "CPL L"]
    assert [one.verdict for one in found] == ["ok", "ok", "cannot tell", "cannot tell", "fails"]
    assert judging.winner(found) is found[0]
    assert judging.winner(found[2:]) is None


def test_relaxing_names_the_nearest_and_the_best_that_one_limit_alone_keeps_out() -> None:
    limits = [Constraint(MEMORY, 10.0), Constraint(THROUGHPUT, 100.0)]
    costs = {"AOL S": (5, 200, 0.5), "CPL M": (12, 200, 0.6), "CPL L": (20, 200, 0.7), "SOC L": (30, 50, 0.9),
             "LOT S": (6, 80, 0.55), "SLL M": (11, 200, 0.4)}  # fmt: skip
    found = judging.judged(
        [network(name, worth, training_peak_bytes=float(taken), inference_images_per_s=float(speed))
         for name, (taken, speed, worth) in costs.items()],
        limits,
    )  # fmt: skip
    relaxed = list(judging.relaxations(found, limits))
    told = [(one.constraint.quantity, one.needed, one.candidate.label, pytest.approx(one.gain)) for one in relaxed]
    assert told == [(MEMORY, 12.0, "CPL M", 0.1), (MEMORY, 20.0, "CPL L", 0.2), (THROUGHPUT, 80.0, "LOT S", 0.05)]
    for one in relaxed:  # each holds what it promises
        eased = [replace(limit, limit=one.needed) if limit is one.constraint else limit for limit in limits]
        first = judging.winner(judging.judged([own.candidate for own in found], eased))
        assert first is not None
        assert first.candidate.label == one.candidate.label


def test_a_bound_promises_nothing_when_it_is_relaxed() -> None:
    limit = Constraint(EPOCH, 10.0)
    found = judging.judged([network("CPL M", 0.6, epoch_s=Figure(12.0, "predicted", "at least"))], [limit])
    assert found[0].verdict == "fails"
    assert list(judging.relaxations(found, [limit])) == []


def test_a_front_compares_costs_of_one_kind_of_evidence() -> None:
    found = [
        network("AOL S", 0.5, epoch_s=10.0),
        network("CPL M", 0.6, epoch_s=20.0),
        network("SLL M", 0.55, epoch_s=21.0),
        network("SOC L", 0.7, epoch_s=Figure(1.0, "predicted", "at least")),
        network("LOT L", math.nan, epoch_s=2.0),
    ]
    assert [one.label for one in judging.on_front(found, EPOCH)] == ["AOL S", "CPL M"]
    assert judging.on_front([], EPOCH) == []


# ----------------------------------------------------------------------------------------------------------- published numbers


PEAKS = {"aol": 2_000_000_000, "soc": 3_000_000_000, "cpl": 1_000_000_000}
STEP_S, INFERENCE_S = 0.1, 0.02


class Predictions:
    """Invented predictions in place of counts, and the cases that they were asked for."""

    def __init__(self) -> None:
        self.memory_of: list[Case] = []
        self.times_of: list[Case] = []

    def step_peak(self, case: Case) -> int:
        self.memory_of.append(case)
        return PEAKS.get(case.spec.method, 10**9)

    def times(self, case: Case, known: rates.Rates) -> tuple[time.PredictedTime, ...]:
        self.times_of.append(case)
        seconds = {"step": STEP_S, "inference": INFERENCE_S}
        return tuple(time.PredictedTime(phase, value, "floor", "", 1.0, 1, 1) for phase, value in seconds.items())


@pytest.fixture
def predictions(monkeypatch: pytest.MonkeyPatch) -> Predictions:
    found = Predictions()
    monkeypatch.setattr(candidates.memory, "step_peak", found.step_peak)
    monkeypatch.setattr(candidates.time, "predicted", found.times)
    return found


def test_accuracies_and_epochs_are_the_papers_and_memory_is_predicted(predictions: Predictions) -> None:
    small = lipbench.recommend("aol", "cpl", network="XS")
    paper = accuracy.published("cifar10").set_index(["title", "network", "hours"])
    frame = small.frame.set_index("method")
    assert list(frame.index) == ["cpl", "aol"]
    assert list(frame["place"]) == [1, 2]
    for name, title in (("aol", "AOL"), ("cpl", "CPL")):
        assert frame.loc[name, "cra_36"] == paper.loc[(title, "XS", 24), "cra_36"]
        assert frame.loc[name, "accuracy"] == paper.loc[(title, "XS", 24), "accuracy"]
        assert frame.loc[name, "training_peak_bytes"] == PEAKS[name]
        assert Case(NetworkSpec(name, "XS"), 256, device="cuda") in predictions.memory_of
    assert list(frame["epoch_s"]) == [8.61, 8.6]
    assert set(frame["epoch_s_evidence"]) == {"published"}
    assert set(frame["training_peak_bytes_evidence"]) == {"predicted"}
    assert predictions.times_of == [], "no limit asks for them"
    assert small.readable is not None
    assert list(small.readable["Why not first"]) == ["", "CRA 3.4 points below CPL XS"]
    assert small.remarks[0].startswith("First without any limit: CPL XS (62.5 %), of 2 that satisfy it; cifar10, 24 h")


@pytest.mark.usefixtures("predictions")
def test_a_limit_has_a_margin_and_what_more_would_win() -> None:
    found = lipbench.recommend("aol", "soc", network="XS", memory_bytes=2_500_000_000)
    frame = found.frame.set_index("method")
    assert dict(frame["verdict"]) == {"aol": "ok", "soc": "fails"}
    assert dict(frame["training_peak_bytes_margin"]) == {"aol": 500_000_000, "soc": -500_000_000}
    assert frame.loc["soc", "reason"] == "training memory 500 MB over 2.5 GB"
    assert "With training memory 3 GB in place of 2.5 GB: SOC XS (61.3 %), 2.2 points more." in found.remarks
    assert list(frame["memory_front"]) == [True, True]


@pytest.mark.usefixtures("predictions")
def test_a_published_training_that_broke_down_has_no_accuracy() -> None:
    found = lipbench.recommend(dataset="cifar100").frame.set_index(["method", "network"])
    assert found.loc[("cpl", "S"), "reason"] == "CRA unknown: the published training broke down"
    assert found.loc[("lot", "L"), "reason"] == "CRA unknown: the paper has no result"
    assert (found["cra_36"].fillna(1) > 0).all()
    assert len(found) == 28


@pytest.mark.usefixtures("predictions")
def test_each_published_budget_has_its_own_first() -> None:
    for dataset in accuracy.PUBLISHED_DATASETS:
        for hours in accuracy.HOURS:
            table = accuracy.published(dataset)
            best = table[table["hours"] == hours].sort_values("cra_36").iloc[-1]
            row = lipbench.recommend(dataset=dataset, hours=hours).frame.iloc[0]
            assert (row["cra_36"], row["network"]) == (best["cra_36"], best["network"])


def test_floors_of_a_gpu_rule_out_and_never_let_pass(predictions: Predictions) -> None:
    fastest = 64 / INFERENCE_S
    for limit, verdict in ((fastest / 2, "cannot tell"), (fastest * 2, "fails")):
        found = lipbench.recommend("aol", network="XS", batch_size=64, min_images_per_s=limit, precision="tf32")
        (row,) = found.frame.to_dict("records")
        assert row["verdict"] == verdict
        assert (row["inference_images_per_s"], row["inference_images_per_s_bound"]) == (pytest.approx(fastest), "at most")
        assert (row["epoch_s"], row["epoch_s_bound"]) == (pytest.approx(50_000 / 64 * STEP_S), "at least")
        assert row["epoch_s_evidence"] == "predicted"
        assert any("a bound" in text for text in found.remarks)
        hints = [text for text in found.remarks if "To decide" in text]
        command = "lipbench profile --method aol --network XS --precision tf32 --batch-size 64 --out runs/open"
        assert [hint.endswith(command) for hint in hints] == ([True] if verdict == "cannot tell" else [])
    assert set(predictions.times_of) == {Case(NetworkSpec("aol", "XS"), 64, precision="tf32", device="cuda")}


@pytest.mark.usefixtures("predictions")
def test_the_measurement_that_decides_names_every_implementation() -> None:
    found = lipbench.recommend("aol", network="XS", implementation=("paper", "lean"), min_images_per_s=1.0)
    (hint,) = [text for text in found.remarks if "To decide" in text]
    assert "--method aol --network XS --implementation paper,lean --batch-size 256" in hint


@pytest.mark.usefixtures("predictions")
def test_the_published_time_of_an_epoch_is_that_of_one_gpu_and_batch() -> None:
    for changed in ({"gpu": "h100"}, {"batch_size": 128, "gpu": "A100"}):
        (row,) = lipbench.recommend("aol", network="XS", **changed).frame.to_dict("records")
        assert (row["epoch_s_evidence"], row["epoch_s_bound"]) == ("predicted", "at least")
    (row,) = lipbench.recommend("aol", network="XS", gpu="a100").frame.to_dict("records")
    assert (row["epoch_s"], row["epoch_s_evidence"], row["inference_images_per_s_bound"]) == (8.6, "published", "at most")


def test_numbers_without_an_invented_one(tmp_path: Path) -> None:
    """A real prediction of a small network, whose batch was not trained with."""
    out = trained(tmp_path, [training_records.record(training_records.case("aol", batch_size=32))])
    (row,) = lipbench.recommend(run=out, gpu="L4", batch_size=4).frame.to_dict("records")
    case = Case(NetworkSpec("aol", "XS", 8), 4, device="cuda")
    floors = {one.phase: one.seconds for one in time.predicted(case, rates.named("L4"))}
    assert row["training_peak_bytes"] == memory.step_peak(case)
    assert row["inference_images_per_s"] == pytest.approx(4 / floors["inference"])
    assert row["epoch_s"] == pytest.approx(1300 / 4 * floors["step"])


# ----------------------------------------------------------------------------------------------------------------- own numbers


def trained(out: Path, found: list[TrainingRecord]) -> Path:
    for one in found:
        folder = records.folder_of(out, one.case)
        folder.mkdir(parents=True)
        records.write(one, folder)
    return out


def test_own_trainings_rank_by_their_means_and_say_where_intervals_overlap(tmp_path: Path) -> None:
    out = trained(tmp_path / "run", training_records.several(3, 0.004, batch_size=32))
    found = lipbench.recommend(run=out)
    frame = found.frame
    assert list(frame["method"][:2]) == ["soc", "cpl"]
    assert set(frame["cra_36_evidence"]) == {"measured"}
    assert set(frame["batch_size"]) == {32}
    costs = {method: training_records.COST[method] for method in frame["method"]}
    assert dict(zip(frame["method"], frame["epoch_s"])) == pytest.approx(costs)
    assert set(frame["dataset"]) == {"digits"}
    wide = lipbench.recommend(run=trained(tmp_path / "wide", training_records.several(3, 0.1, batch_size=32)))
    assert any(text.startswith("Its interval overlaps those of ") for text in wide.remarks)
    assert not any("interval overlaps" in text for text in found.remarks)


def test_other_conditions_are_left_out_and_failures_have_no_accuracy(tmp_path: Path) -> None:
    own = [*training_records.several(1), training_records.failed(training_records.case("eco")),
           training_records.record(training_records.case("aol", loss="annealed"))]  # fmt: skip
    found = lipbench.recommend(run=trained(tmp_path, own), max_epoch_s=4.5)
    assert found.remarks[-1] == "1 group of trainings under other conditions left out."
    frame = found.frame.set_index("method")
    assert frame.loc["eco", "verdict"] == "cannot tell"
    assert frame.loc["cpl", "place"] == 1
    assert frame.loc["soc", "reason"] == "epoch 0.5 s over 4.5 s"


@pytest.mark.usefixtures("predictions")
def test_times_of_a_profile_count_for_the_same_batch_alone(tmp_path: Path) -> None:
    case = Case(NetworkSpec("aol", "XS"), 64, threads=2)
    phases = {"step": samples.timing(0.5), "inference": samples.timing(0.128)}
    run = samples.save_run(tmp_path / "run", [Record(case, 1, (samples.ok(phases),))])
    found = lipbench.recommend("aol", network=["XS", "S"], run=run, batch_size=64, min_images_per_s=400)
    frame = found.frame.set_index("network")
    assert frame.loc["XS", "inference_images_per_s"] == pytest.approx(500)
    assert frame.loc["XS", "epoch_s"] == pytest.approx(50_000 / 64 * 0.5)
    assert frame.loc["XS", "training_peak_bytes"] == 9000
    assert frame.loc["XS", "training_peak_bytes_evidence"] == "measured"
    assert list(frame["verdict"]) == ["ok", "cannot tell"]
    other = lipbench.recommend("aol", network="XS", run=run, batch_size=65, min_images_per_s=400)
    assert list(other.frame["verdict"]) == ["cannot tell"]


# ------------------------------------------------------------------------------------------------------------ the command line


@pytest.mark.usefixtures("predictions")
def test_the_verb_prints_json_and_draws_the_fronts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "front.svg"
    with pytest.raises(SystemExit) as ended:
        cli.main(["recommend", "--method", "aol,soc,cpl", "--network", "XS,M", "--memory", "2.5GB", "--format", "json",
                  "--figure", str(figure)])  # fmt: skip
    assert ended.value.code == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["verdict"] for row in rows] == ["ok"] * 4 + ["fails"] * 2
    assert (rows[0]["method"], rows[0]["network"], rows[0]["place"]) == ("cpl", "M", 1)
    drawing = ElementTree.parse(figure).getroot()
    texts = [one.text for one in drawing.iter() if one.tag.endswith("text")]
    assert texts.count("XS") == texts.count("M") == 6  # three methods against two costs
    assert {"AOL", "CPL", "SOC"} <= set(texts)
    assert "var(" not in figure.read_text()


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda: lipbench.recommend(dataset="digits"), "no accuracies on this data set"),
        (lambda: lipbench.recommend(dataset="mnist"), "unknown dataset"),
        (lambda: lipbench.recommend("standard"), "unknown method among those with an accuracy"),
        (lambda: lipbench.recommend(network="XXL"), "unknown network size"),
        (lambda: lipbench.recommend(implementation="fast"), "unknown implementation"),
        (lambda: lipbench.recommend(hours=3), "unknown published training time"),
        (lambda: lipbench.recommend(precision="int8"), "unknown precision"),
        (lambda: lipbench.recommend(gpu="A100", device="cpu"), "one machine"),
        (lambda: lipbench.recommend("cayley", implementation="triton"), "unknown method"),
    ],
)
def test_wrong_use_is_refused_before_anything_is_predicted(
    ask: Callable[[], Any], words: str, predictions: Predictions
) -> None:
    with pytest.raises(LipbenchError, match=words):
        ask()
    assert predictions.memory_of == []
