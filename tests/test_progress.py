"""The progress display during a run, and the summary after it."""

from __future__ import annotations

import io
import sys
import threading
import time
from pathlib import Path

import pytest
import samples
import training_records

from lipbench.cli import progress, training, waiting
from lipbench.run.schedule import Outcome
from lipbench.store.rounds import Record, Round


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("stream", [Terminal(), io.StringIO()])
def test_a_terminal_sees_the_case_and_failures_and_a_file_sees_nothing(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "stderr", stream)
    cases = [samples.case(), samples.case("aol")]
    with progress.shown(cases) as show:
        show(1, 4, cases[1], "round 1", 3)
    shown = stream.getvalue()
    if stream.isatty():
        assert "case 2/2, round 1: aol-paper-c4" in shown
        assert "3 failed" in shown
        assert "left" in shown
    else:
        assert shown == ""


def test_a_slow_verb_shows_what_it_is_doing_and_a_quick_one_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    quick, slow = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stderr", quick)
    with waiting.of("counting") as tell:
        tell(0, 2, "aol")
    assert quick.getvalue() == ""
    monkeypatch.setattr(sys, "stderr", slow)
    monkeypatch.setattr(waiting, "DELAY_S", 0.0)
    with waiting.of("counting") as tell:
        tell(1, 2, "\x1b[31mlayer")
        for _ in range(1000):
            if "counting" in slow.getvalue():
                break
            time.sleep(0.01)
    assert r"counting 2/2: \x1b[31mlayer" in slow.getvalue()


def lines_of(stream: io.StringIO, wanted: int) -> list[str]:
    """The lines that a stream has got as soon as there are so many, or after ten seconds."""
    for _ in range(1000):
        if stream.getvalue().count("\n") >= wanted:
            break
        time.sleep(0.01)
    return stream.getvalue().splitlines()


def test_a_file_sees_a_line_now_and_then_and_nothing_of_a_quick_verb(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    with waiting.of("counting") as tell:
        tell(0, 1, "aol")
    assert stream.getvalue() == ""
    monkeypatch.setattr(waiting, "PERIOD_S", 0.02)
    before = threading.active_count()
    with waiting.of("counting") as tell:
        tell(0, 2, "aol")
        assert "lipbench: 0:00 counting 1/2: aol" in lines_of(stream, 2)
        tell(1, 2, "\x1b[31msoc")
        assert lines_of(stream, 4)[-1] == r"lipbench: 0:00 counting 2/2: \x1b[31msoc"
    assert threading.active_count() == before


def test_a_file_sees_how_far_a_run_is(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(waiting, "PERIOD_S", 0.02)
    cases = [samples.case(), samples.case("aol")]
    with progress.shown(cases) as show:
        show(1, 4, cases[1], "round 1", 3)
        lines = lines_of(stream, 1)
    assert f"lipbench: 0:00 1/4 done, 3 failed; case 2/2, round 1: {cases[1].spec.slug}" in lines


def test_a_file_sees_how_far_a_training_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setattr(waiting, "PERIOD_S", 0.02)
    one = training_records.case("aol")
    with training.shown(tmp_path) as begin:
        begin(one, "training 1 of 2")
        lines = lines_of(stream, 2)
    assert f"lipbench: 0:00 training 1 of 2: {one.network.slug}; 0 steps, 0 % of its budget used" in lines


def test_an_error_ends_the_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", Terminal())
    before = threading.active_count()
    with pytest.raises(KeyError), waiting.of("counting"):
        raise KeyError
    assert threading.active_count() == before


def test_the_summary_counts_and_names_failures_with_their_reason() -> None:
    good = samples.ok({"step": samples.timing(1.0)})
    found = [
        Record(samples.case(), 1, (good,)),
        Record(samples.case("aol"), 2, (good,)),
        Record(samples.case("soc"), 1, (Round("crashed", "ended by SIGSEGV"),)),
        Record(samples.case("lot"), 1),
    ]
    first, *others = progress.summary(Outcome(tuple(found), left=2)).splitlines()
    assert first == "4 cases: 2 ok, 1 crashed"
    left_out = progress.summary(Outcome((), left=0), [("standard", "lean")]).splitlines()
    assert left_out == ["0 cases: none measured", "  left out: standard has no implementation lean"]
    assert others == [
        f"  crashed: {samples.case('soc').id}: ended by SIGSEGV",
        "2 rounds left at the deadline; continue with --resume",
    ]
