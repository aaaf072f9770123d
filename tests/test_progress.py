"""The progress display during a run, and the summary after it."""

from __future__ import annotations

import io
import sys

import pytest
import samples

from lipbench.cli import progress
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
    assert others == [
        f"  crashed: {samples.case('soc').id}: ended by SIGSEGV",
        "2 rounds left at the deadline; continue with --resume",
    ]
