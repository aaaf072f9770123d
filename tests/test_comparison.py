"""Comparisons of two runs: what is called faster, slower, the same or unclear, and what fails a gate."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer

from lipbench import api
from lipbench.analysis.comparison import COLUMNS, Comparison, aa_spread, compare, holm
from lipbench.cases import Case, LayerSpec, to_dict
from lipbench.cli import compare as verb
from lipbench.cli.printing import TOO_NOISY
from lipbench.errors import LipbenchError
from lipbench.quantities import FREED_MEMORY, Bound, Certificate, Contention, Machine, Macs, Memory, Peak, Timing
from lipbench.store.records import Run, save
from lipbench.store.rounds import Part, Record, Round
from lipbench.store.run_plan import RunPlan, save_plan

AOL, SOC = (Case(LayerSpec(method, 16, 8), 4) for method in ("aol", "soc"))
HERE = Machine("here", "Linux", "a CPU", 2, 2**33, "3.11", "2.13", {}, None)


def record(
    case: Case, medians: Sequence[float], busy: Sequence[int] = (), peak: int = 1000, macs: int = 5, **more: object
) -> Record:
    def timing(number: int, median: float) -> Timing:
        return Timing((median,) * 5, contention=Contention(1.0, 0.5 if number in busy else 0.0, 0, contended=number in busy))

    memory = Memory("cpu allocator events", 1, 1, None, None, 1, 1, None, peaks={"step": Peak(peak, peak)})
    rounds = tuple(
        Round("ok", machine=HERE, phases={"step": timing(number, median)}, parts={"step": Part()},
              memory=memory if number == 0 else None)
        for number, median in enumerate(medians)
    )  # fmt: skip
    counted = Round("ok", macs=Macs({"step": macs}, {}), parts={"macs": Part()})
    return replace(Record(case, len(medians), rounds, examinations=(counted,)), **more)  # type: ignore[arg-type]


def run(*records: Record, path: str = "run") -> Run:
    return Run(Path(path), RunPlan(), records)


def noisy(factor: float = 1.0, seed: int = 0, rounds: int = 11) -> list[float]:
    return list(0.01 * factor * np.exp(np.random.default_rng(seed).normal(0, 0.01, rounds)))


def verdicts(found: Comparison, quantity: str = "time") -> dict[str, str]:
    chosen = found.frame[found.frame["quantity"] == quantity]
    return dict(zip(chosen["case"], chosen["verdict"]))


@pytest.mark.parametrize(("factor", "verdict"), [(1.0, "SAME"), (1.2, "SLOWER"), (0.8, "FASTER"), (1.02, "SAME")])
def test_a_change_is_called_by_its_name(factor: float, verdict: str) -> None:
    base, head = run(record(AOL, noisy())), run(record(AOL, noisy(factor, seed=1)))
    found = compare(base, head)
    assert verdicts(found) == {AOL.id: verdict}
    assert list(found.frame.columns) == list(COLUMNS)
    row = found.frame.iloc[0]
    assert row["low"] < row["ratio"] < row["high"]


def test_noise_makes_it_unclear_and_never_different() -> None:
    rng = np.random.default_rng(3)
    wild = [list(0.01 * np.exp(rng.normal(0, 0.4, 7))) for _ in range(2)]
    assert verdicts(compare(run(record(AOL, wild[0])), run(record(AOL, wild[1])))) == {AOL.id: "UNCLEAR"}


@pytest.mark.parametrize("factor", [1.0, 1.15])
def test_an_unclear_time_says_how_many_pairs_would_decide(factor: float) -> None:
    def compared(rounds: int, seed: int) -> pd.Series:
        rng = np.random.default_rng(seed)
        base, head = (list(0.01 * one * np.exp(rng.normal(0, 0.08, rounds))) for one in (1.0, factor))
        return compare(run(record(AOL, base)), run(record(AOL, head))).frame.iloc[0]

    unclear = next(row for row in (compared(9, seed) for seed in range(20)) if row["verdict"] == "UNCLEAR")
    named = re.search(r"about (\d+) pairs would decide", unclear["reason"])
    assert named is not None
    assert 9 < int(named[1]) < 200
    enough = [compared(4 * int(named[1]), seed)["verdict"] for seed in range(20)]
    assert enough.count("SAME" if factor == 1 else "SLOWER") >= 15


def test_few_or_busy_rounds_are_unclear_and_the_reason_is_given() -> None:
    few = compare(run(record(AOL, noisy(rounds=4))), run(record(AOL, noisy(2, rounds=4)))).frame.iloc[0]
    assert (few["verdict"], few["reason"]) == ("UNCLEAR", "4 pairs of quiet rounds, and 5 are needed")
    busy = compare(run(record(AOL, noisy())), run(record(AOL, noisy(2), busy=range(11)))).frame.iloc[0]
    assert (busy["verdict"], busy["reason"]) == ("UNCLEAR", "other processes were busy in every round of head")


@pytest.mark.parametrize(("factor", "verdict"), [(20.0, "SLOWER"), (1 / 20, "FASTER"), (2.5, "UNCLEAR"), (1.0, "UNCLEAR")])
@pytest.mark.parametrize(("rounds", "busy"), [(11, range(11)), (4, ())], ids=["busy", "few"])
def test_what_no_noise_explains_is_decided_by_any_rounds(factor: float, verdict: str, rounds: int, busy: Sequence[int]) -> None:
    base, head = record(AOL, noisy(rounds=rounds)), record(AOL, noisy(factor, seed=1, rounds=rounds), busy=busy)
    row = compare(run(base), run(head), alternating=True).frame.iloc[0]
    assert row["verdict"] == verdict
    assert row["reason"], "the doubt is said all the same"
    one_after_the_other = compare(run(base), run(head)).frame.iloc[0]
    assert one_after_the_other["verdict"] == ("UNCLEAR" if busy else verdict)


def test_two_pairs_decide_nothing() -> None:
    base, head = record(AOL, [0.01, 0.0101]), record(AOL, [0.2, 0.201])
    assert verdicts(compare(run(base), run(head), alternating=True)) == {AOL.id: "UNCLEAR"}


def test_a_folder_of_two_versions_says_which_to_give(base: Path, tmp_path: Path) -> None:
    stored(tmp_path / "head", record(AOL, noisy()))
    with pytest.raises(LipbenchError, match=r"two runs, of two versions.*lipbench compare .*/base .*/head"):
        api.load(tmp_path)


def test_exact_constants_are_compared_and_bounds_are_not() -> None:
    def certified(largest: float, kind: str = "exact") -> Record:
        one = record(AOL, noisy())
        bound = Bound(largest, None, kind, "fourier", 8)  # type: ignore[arg-type]  # one of its kinds
        return replace(one, examinations=(*one.examinations, Round("ok", certificate=Certificate((bound,), ()))))

    assert verdicts(compare(run(certified(0.9)), run(certified(0.9 + 1e-9))), "constant") == {AOL.id: "SAME"}
    changed = compare(run(certified(0.9)), run(certified(0.8)))
    assert verdicts(changed, "constant") == {AOL.id: "DIFFERENT"}
    assert verdicts(compare(run(certified(0.9, "lower bound")), run(certified(0.8))), "constant") == {}


def test_the_threshold_is_at_least_how_far_the_base_differs_from_itself() -> None:
    swinging = [0.010, 0.013] * 6
    assert aa_spread([record_levels(swinging)]) == pytest.approx(0.3)
    found = compare(run(record(AOL, swinging)), run(record(AOL, [1.2 * one for one in swinging])))
    assert found.threshold == pytest.approx(0.3)
    assert verdicts(found) == {AOL.id: "SAME"}


def record_levels(medians: Sequence[float]) -> list:
    from lipbench.analysis.statistics import levels

    return levels({number: one.phases["step"] for number, one in enumerate(record(AOL, medians).rounds) if one.phases})


def test_holm_corrects_as_published() -> None:
    """The example of Holm (1979): the smallest times their number, the next times one less, never decreasing."""
    assert holm([0.01, 0.04, 0.03, math.nan, 0.005]) == pytest.approx([0.03, 0.06, 0.06, math.nan, 0.02], nan_ok=True)


def test_memory_macs_and_failures() -> None:
    base = run(record(AOL, noisy()), record(SOC, noisy()))
    broken = record(SOC, noisy())
    broken = replace(broken, rounds=(*broken.rounds, Round("raised", "boom", parts={"step": Part("raised", "boom")})))
    found = compare(base, run(record(AOL, noisy(), peak=1100, macs=6), broken))
    assert verdicts(found, "memory")[AOL.id] == "LARGER"
    assert verdicts(found, "macs")[AOL.id] == "DIFFERENT"
    assert verdicts(found, "status") == {SOC.id: "FAILS"}
    assert verdicts(compare(run(broken), base), "status") == {SOC.id: "WORKS"}


def stored(folder: Path, *records: Record) -> Path:
    save_plan(folder, RunPlan(cases=tuple(one.case for one in records)), new=True)
    for one in records:
        save(folder, one)
    return folder


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return stored(tmp_path / "base", record(AOL, noisy()))


def test_a_gate_fails_by_what_it_names(base: Path, tmp_path: Path) -> None:
    head = stored(tmp_path / "head", record(AOL, noisy(1.2, seed=1), peak=1030))
    assert not verb.answer(base, head).failed
    assert verb.answer(base, head, ("slower:5%",)).failed
    assert not verb.answer(base, head, ("slower:40%", "memory:5%")).failed
    assert verb.answer(base, head, ("memory:1%",)).failed
    assert verb.answer(base, head, ("slower:40%", "memory:5%")).problems == ()
    with pytest.raises(LipbenchError, match="write slower:5%,memory:1%"):
        verb.answer(base, head, ("faster:5%",))


def test_a_gate_says_that_it_could_not_decide(base: Path, tmp_path: Path) -> None:
    few = stored(tmp_path / "few", record(AOL, noisy()[:4]))
    found = verb.answer(base, few, ("slower:5%",))
    assert (found.failed, found.undecided) == (False, True)
    assert found.problems == (
        "--fail-on slower: 1 of 1 times could not be decided; lipbench doctor says what disturbs this machine",
    )
    for gate in ((), ("memory:5%",)):
        other = verb.answer(base, few, gate)
        assert (other.undecided, other.problems) == (False, ())
    with pytest.raises(typer.Exit) as ended:
        verb.compare(base, few, ("slower:5%",))
    assert ended.value.exit_code == TOO_NOISY


def test_a_gate_that_decides_some_times_has_decided(tmp_path: Path) -> None:
    base = stored(tmp_path / "base", record(AOL, noisy()), record(SOC, noisy()[:4]))
    found = verb.answer(base, base, ("slower:5%",))
    assert (found.undecided, found.problems) == (
        False,
        ("--fail-on slower: 1 of 2 times could not be decided; lipbench doctor says what disturbs this machine",),
    )


def test_people_see_what_changed_and_programs_everything(base: Path, tmp_path: Path) -> None:
    head = stored(tmp_path / "head", record(AOL, noisy(1.2, seed=1)), record(SOC, noisy()))
    answer = api.compare(base, head)
    assert answer.readable is not None
    assert list(answer.readable["verdict"]) == ["SLOWER"]
    assert set(answer.frame["quantity"]) == {"time", "memory", "macs"}
    assert answer.remarks[0].startswith("times: 0 SAME, 0 FASTER, 1 SLOWER, 0 UNCLEAR")
    assert answer.remarks[1:] == ("memory: 1 SAME", "macs: 1 SAME", f"only in head: {SOC.id}")


def test_times_with_and_without_freed_memory_are_told_apart(base: Path, tmp_path: Path) -> None:
    """Runs of earlier programs say nothing of it: they returned it to the system."""
    one, keeping = record(AOL, noisy()), replace(HERE, flags={FREED_MEMORY: "kept"})
    kept = replace(one, rounds=tuple(replace(each, machine=keeping) for each in one.rounds))
    head = stored(tmp_path / "head", kept)
    assert any("kept the memory" in line for line in api.compare(base, head).remarks)
    assert not any("kept the memory" in line for run in (base, head) for line in api.compare(run, run).remarks)


def test_a_report_shows_what_changed_since_a_base(base: Path, tmp_path: Path) -> None:
    head = stored(tmp_path / "head", record(AOL, noisy(1.2, seed=1)))
    page = api.load(head).report(tmp_path / "changed.html", against=base).read_text()
    section = page.partition('<section id="changes">')[2].partition("</section>")[0]
    assert "1 SLOWER" in section
    changed, every = section.split("<details>")
    assert len(re.findall(r">SLOWER<", changed)) == 1
    assert not re.findall(r">SAME<", changed)
    assert re.findall(r">SAME<", every)
    assert 'id="changes"' not in api.load(head).report(tmp_path / "alone.html").read_text()


def test_one_process_is_unclear_and_several_are_compared(tmp_path: Path) -> None:
    """As pytest-benchmark's JSON is read: one file is one round, a folder of files has one for each."""
    for seed, (name, factor) in enumerate({"base": 1.0, "head": 1.3}.items()):
        (tmp_path / name).mkdir()
        for number, median in enumerate(noisy(factor, seed=seed, rounds=7)):
            info = {"case": to_dict(AOL), "phase": "step"}
            entry = {"name": "step", "extra_info": info, "stats": {"data": [median] * 5, "iterations": 1}}
            (tmp_path / name / f"{number}.json").write_text(json.dumps({"benchmarks": [entry]}))
    several = api.compare(tmp_path / "base", tmp_path / "head").frame.iloc[0]
    assert (several["verdict"], several["pairs"]) == ("SLOWER", 7)
    alone = api.compare(tmp_path / "base" / "0.json", tmp_path / "head" / "0.json").frame.iloc[0]
    assert (alone["verdict"], alone["reason"]) == ("UNCLEAR", "1 pair of quiet rounds, and 5 are needed")


def test_runs_of_two_machines_are_refused_unless_asked_for(base: Path, tmp_path: Path) -> None:
    one = record(AOL, noisy())
    elsewhere = replace(one, rounds=tuple(replace(each, machine=replace(HERE, hostname="there")) for each in one.rounds))
    head = stored(tmp_path / "head", elsewhere)
    with pytest.raises(LipbenchError, match=r"here .a CPU. and there .a CPU.*--any-machine"):
        api.compare(base, head)
    assert len(api.compare(base, head, any_machine=True).frame)


def test_runs_without_a_common_case_are_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(LipbenchError, match="common cases"):
        api.compare(base, stored(tmp_path / "head", record(SOC, noisy())))


def test_a_run_compared_with_itself_is_the_same(base: Path) -> None:
    frame = api.compare(base, base).frame
    assert set(frame["verdict"]) == {"SAME"}
    assert isinstance(frame, pd.DataFrame)
