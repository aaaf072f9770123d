"""A run from a stranger: reading it runs none of its code, and measuring it further asks first."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import samples

import lipbench
from lipbench.analysis import beside
from lipbench.cases import Case, ExternalNetworkSpec, LayerSpec, NetworkSpec, Spec
from lipbench.cli.main import main
from lipbench.errors import LipbenchError
from lipbench.quantities import Estimate
from lipbench.store import records
from lipbench.store.rounds import Record, with_parts

EVIL = """
from pathlib import Path
Path({marker!r}).write_text("the stranger's code ran")
from torch import nn
class Layer(nn.Conv2d):
    def __init__(self, channels, out, kernel_size):
        super().__init__(channels, out, kernel_size, padding=kernel_size // 2, padding_mode="circular")
"""
NAMES = ("evil:Layer", "{run}/evil.py:Layer", "evil.py:Layer", "evil:Layer.__init__", "os:system")


@pytest.fixture
def marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that the stranger's module writes when it is imported; the module lies in all places where it might be found."""
    marker, run = tmp_path / "marker", tmp_path / "run"
    (run / "records").mkdir(parents=True)
    for folder in (tmp_path, run, run / "records"):
        (folder / "evil.py").write_text(EVIL.format(marker=str(marker)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    yield marker
    sys.modules.pop("evil", None)


def strangers_run(directory: Path, *named: Spec | str) -> Path:
    """A run that names the stranger's module in its plan and its records."""
    specs = [LayerSpec(one.format(run=directory), 4, 8) if isinstance(one, str) else one for one in named]
    found = [Record(Case(spec, 2), 2, (samples.ok({"forward": samples.timing(0.1)}),)) for spec in specs]
    return samples.save_run(directory, found)


SPECS = (*NAMES, NetworkSpec("evil:Layer", "XS"), ExternalNetworkSpec("evil:Network"))


@pytest.mark.parametrize("verb", [("report",), ("show",), ("export",), ("export", "-o", "out.json"), ("verify",)])
def test_no_verb_imports_what_a_run_names(marker: Path, verb: tuple[str, ...]) -> None:
    run = strangers_run(marker.with_name("run"), *SPECS)
    name, *options = verb
    with pytest.raises(SystemExit) as ended:
        main([name, str(run), *options])
    assert ended.value.code == (2 if name == "verify" else 0)
    assert not marker.exists()
    assert "evil" not in sys.modules


def test_a_process_that_starts_in_the_run_imports_nothing_either(marker: Path) -> None:
    run = strangers_run(marker.with_name("run"), "evil:Layer")
    lipbench_report = [sys.executable, "-m", "lipbench.cli", "report", "."]
    subprocess.run(lipbench_report, cwd=run, check=True, capture_output=True, timeout=300)
    assert (run / "report.html").is_file()
    assert not marker.exists()


def test_the_api_reads_without_importing(marker: Path) -> None:
    run = lipbench.load(strangers_run(marker.with_name("run"), *SPECS))
    assert len(run.frame()) == len(SPECS)
    lipbench.methods()
    assert beside.NOT_STORED[:30] in run.report().read_text()
    assert not marker.exists()


@pytest.mark.parametrize("name", NAMES)
def test_resuming_and_verifying_ask_for_consent_by_name(marker: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    run = strangers_run(marker.with_name("run"), name)
    before = (run / "run.json").read_bytes()
    others = (), ("--method", "standard"), ("--allow", "evil,other:Layer")
    for command in (["verify", str(run)], ["profile", "--resume", "--out", str(run)]):
        for other in others if command[0] == "profile" else others[::2]:
            with pytest.raises(SystemExit) as ended:
                main([*command, *other])
            assert ended.value.code == 2
            said = capsys.readouterr().err
            assert said.startswith("lipbench: the run names external layers")
            assert "--allow" in said
            assert name.format(run=run).partition("/")[2] in said
            assert said.count("\n") == 1
    with pytest.raises(LipbenchError, match="--allow"):
        lipbench.profile(out=run, resume=True)
    assert not marker.exists()
    assert (run / "run.json").read_bytes() == before


@pytest.mark.parametrize("consent", [("--allow", "a:b,evil:Layer"), ("evil:Layer",)])
def test_what_is_allowed_runs(marker: Path, consent: tuple[str, ...]) -> None:
    run = strangers_run(marker.with_name("run"), "evil:Layer")
    with pytest.raises(SystemExit) as ended:
        main(["verify", str(run), *consent, "--channels", "4", "--kernel-size", "3"])
    assert ended.value.code == 3  # a plain convolution is not 1-Lipschitz
    assert marker.exists()


def test_an_allowed_layer_is_resumed_and_its_estimates_are_stored(marker: Path) -> None:
    """What an older version measured is completed, shown in the report, and not counted again."""
    run = strangers_run(marker.with_name("run"), "evil:Layer", LayerSpec("evil:Layer", 6, 8))
    resume = ["profile", "--resume", "--out", str(run), "--rounds", "1", "--measure", "memory,macs"]
    with pytest.raises(SystemExit) as ended:
        main([*resume, "--allow", "evil:Layer"])
    assert ended.value.code == 0
    first, second = records.load_run(run).records
    assert first.estimate is not None
    assert second.estimate is not None
    assert [(one.half, one.quantity) for one in first.estimate.formulas][:2] == [("input", "macs"), ("input", "memory")]
    assert second.estimate.formulas == ()
    assert first.estimate.peak_bytes["step"] < second.estimate.peak_bytes["step"]
    assert first.estimate.notes == second.estimate.notes == {}
    marker.unlink()
    (marker.parent / "evil.py").unlink()
    found = beside.estimate(["evil:Layer"], [first, second])
    assert found.fitted.set_index(["half", "quantity"])["fitted"]["input", "macs"] == "1.00 C"
    assert found.problems == ()
    assert set(found.predicted["case"]) == {first.case.id, second.case.id}
    assert not marker.exists()


def test_a_layer_that_cannot_be_counted_is_a_note(tmp_path: Path) -> None:
    case = samples.case("faulty_layers:Refuses")
    estimate = Estimate(notes={"formulas": "it <refuses>", "prediction": "no"})
    noted = replace(samples.ok({"forward": samples.timing(0.1)}), estimate=estimate)
    found = beside.estimate(["faulty_layers:Refuses"], [Record(case, 1, (with_parts(noted),))])
    assert list(found.fitted["note"]) == ["it <refuses>"] * 4
    assert found.problems == (f"memory of {case.id} was not predicted: no",)
    none_ran = beside.estimate(["faulty_layers:Refuses"], [Record(case, 1, (samples.failed("raised", "why"),))])
    assert list(none_ran.fitted["note"]) == [f"not counted: {beside.NONE_RAN}"] * 4


@pytest.mark.parametrize(
    "term",
    [
        {"numerator": 1, "denominator": 0, "exponents": {}},
        {"numerator": 1, "denominator": 1, "exponents": {"__import__('os')": 1}},
        {"numerator": 1, "denominator": 1, "exponents": {"s": 10**9}},
        {"numerator": "__import__('os').system('true')", "denominator": 1, "exponents": {}},
        {"numerator": 1, "denominator": 1, "exponents": {}, "logs": ["s.__class__"]},
    ],
)
def test_a_formula_is_data_and_every_part_of_it_is_checked(tmp_path: Path, term: object) -> None:
    record = Record(samples.case("evil:Layer"), 1, (samples.ok({"forward": samples.timing(0.1)}),))
    path = records.record_path(samples.save_run(tmp_path, [record]), record.case)
    values = json.loads(path.read_text())
    formula = {"half": "input", "quantity": "macs", "terms": [term], "terms_at_kernel_1": None, "residual": None, "points": 1}
    values["rounds"][0]["estimate"] = {"formulas": [{**formula, "notes": []}]}
    path.write_text(json.dumps(values))
    (problem,) = records.load_run(tmp_path).unreadable
    assert "rounds[0].estimate.formulas[0].terms[0]" in problem


def test_a_report_is_not_written_through_a_link_of_the_run(tmp_path: Path) -> None:
    record = Record(samples.case(), 1, (samples.ok({"forward": samples.timing(0.1)}),))
    run, own = samples.save_run(tmp_path / "run", [record]), tmp_path / "own"
    own.write_text("mine")
    page = run / "report.html"
    for make in (lambda: page.symlink_to(own), lambda: page.symlink_to(tmp_path / "new"), lambda: os.mkfifo(page)):
        make()
        with pytest.raises(LipbenchError, match=r"report\.html"):
            lipbench.load(run).report()
        page.unlink()
    assert own.read_text() == "mine"
    assert not (tmp_path / "new").exists()
