"""The executor that measures on this machine: whose servers are whose, and what stopping ends."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest
import samples

from lipbench.cases import Case, Limits
from lipbench.quantities import EXAMINED, GROUPS
from lipbench.run import isolate
from lipbench.run.executor import Executor, StoppedError, Wanted
from lipbench.run.local import Local
from lipbench.run.processes import START, Processes
from lipbench.store.rounds import Round

ONE, OTHER = samples.case("aol"), samples.case("soc")


class Servers:
    """Stands for `isolate.run_round`: notes which server answers for which case."""

    def __init__(self) -> None:
        self.asked: list[tuple[Processes, int, Case]] = []
        self.renewals: dict[Processes, int] = {}
        self.meanwhile = lambda: None

    def run_round(self, processes: Processes, case: Case, limits: Limits, parts: Sequence[str], failed: object) -> Round:
        self.asked.append((processes, self.renewals.get(processes, 0), case))
        self.meanwhile()
        return Round("ok")

    def renew(self, processes: Processes) -> None:
        self.renewals[processes] = self.renewals.get(processes, 0) + 1


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Servers:
    fake = Servers()
    monkeypatch.setattr(isolate, "run_round", fake.run_round)
    monkeypatch.setattr(Processes, "renew", lambda processes: fake.renew(processes))
    return fake


def test_no_two_rounds_of_a_case_come_from_the_same_server(servers: Servers) -> None:
    with Local() as local:
        for case in (ONE, OTHER, ONE, OTHER, OTHER):
            local.run_round(case, Limits(), tuple(GROUPS))
        local.run_round(OTHER, Limits(), EXAMINED)  # which no clock takes part in
    assert len(set(servers.asked[:-1])) == 5
    assert [renewed for _, renewed, _ in servers.asked] == [0, 0, 1, 1, 2, 2]
    assert len({processes for processes, _, _ in servers.asked}) == 1


def test_each_thread_has_servers_of_its_own(servers: Servers) -> None:
    both = threading.Barrier(2)
    servers.meanwhile = lambda: both.wait(60) and None
    with Local() as local:
        threads = [threading.Thread(target=local.run_round, args=(case, Limits(), EXAMINED)) for case in (ONE, OTHER)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len({processes for processes, _, _ in servers.asked}) == 2
    assert set(servers.renewals) == {processes for processes, _, _ in servers.asked}  # all are ended


def test_what_is_stopped_measures_nothing_more() -> None:
    local: Executor = Local(START)
    local.stop()
    with pytest.raises(StoppedError):
        local.run_round(ONE, Limits(), tuple(GROUPS))
    with pytest.raises(StoppedError):
        local.survey(Wanted(["aol"], ["paper"], "cpu"))
