"""The README's example of a method works as it stands, added by another package."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_registry import entry_point

from lipbench import registry
from lipbench.analysis.rows import measured_rows
from lipbench.cases import Case, LayerSpec, Limits
from lipbench.cli import main as cli
from lipbench.run import measure
from lipbench.store.records import Run
from lipbench.store.rounds import Record
from lipbench.store.run_plan import RunPlan

ROOT = Path(__file__).parents[1]


def examples(marker: str) -> list[str]:
    """The Python examples that contain a marker."""
    found = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    return [code for code in found if marker in code]


@pytest.mark.parametrize("recompute", [False, True], ids=["as written", "recomputed"])
def test_the_example_builds_is_measured_and_costs_what_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recompute: bool
) -> None:
    (code,) = examples("class ScaledConv2d")
    (tmp_path / "scaled.py").write_text(code)
    entry_point(tmp_path, monkeypatch, "scaled", "scaled:METHOD")
    monkeypatch.delitem(sys.modules, "scaled", raising=False)
    case = Case(LayerSpec("scaled", 4, 6), batch_size=2, recompute=recompute)
    assert type(registry.build(case.spec)).__name__ == "ScaledConv2d"
    one = measure.measure(case, Limits(phase_seconds=0.01))
    assert (one.status, one.reason) == ("ok", "")
    rows = measured_rows(Run(tmp_path, RunPlan(), (Record(case, 1, (one,)),))).set_index("phase")
    for phase in ("forward", "backward", "step", "parametrize", "inference"):
        assert rows.loc[phase, "macs"] == rows.loc[phase, "theory_macs"], phase
    assert rows.loc["step", "saved_memory_bytes"] == 4 * rows.loc["step", "theory_memory_elements"]
    assert rows.loc["forward", "certificate"] <= 1


def test_the_verbs_of_the_readme_are_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "README.md").read_text()
    named = set(re.findall(r"^    lipbench (\w+)", text, re.MULTILINE))
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    known = set(re.findall(r"^  (\w+) ", capsys.readouterr().out.partition("Commands:")[2], re.MULTILINE))
    assert named == known


def test_the_lines_of_the_python_api_run(tmp_path: Path) -> None:
    (code,) = examples("import lipbench")
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Scale" in done.stdout
    assert len(list(tmp_path.glob("runs/*/report.html"))) == 1
