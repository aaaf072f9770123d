"""The breakdown of a network: its parts sum up to the whole, and the verb prints, draws and traces them."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pandas as pd
import pytest
from torch import nn

import lipbench
from lipbench.analysis import breakdown
from lipbench.cases import Case, ExternalNetworkSpec, LayerSpec, NetworkSpec, Spec
from lipbench.cli import main as cli
from lipbench.errors import LipbenchError
from lipbench.meters import macs
from lipbench.prediction import memory, parts

pytestmark = pytest.mark.usefixtures("quick_collections")

NETWORK = NetworkSpec("standard", "XS", image_size=8)
SMALL = ("breakdown", "--method", "soc", "--channels", "4", "--image-size", "4", "--batch-size", "2", "--seconds", "0.01",
         "--device", "cpu", "--threads", "1")  # fmt: skip


def mixed(image_size: int, classes: int) -> nn.Module:
    """A network with a layer that is used twice, one that is parametrized, and an operation outside of all."""

    class Doubled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.Tanh())

        def forward(self, x):  # type: ignore[no-untyped-def]
            return x + self.layers(self.layers(x))

    last = nn.utils.parametrizations.spectral_norm(nn.Linear(3 * image_size**2, classes))
    return nn.Sequential(Doubled(), nn.Flatten(), last)


SPECS: dict[str, Spec] = {
    "layer": LayerSpec("lot", 4, 6),
    "network": NETWORK,
    "external network": ExternalNetworkSpec(f"{__name__}:mixed", 4),
}


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_parts_sum_up_to_the_whole(spec: Spec, device: str) -> None:
    case = Case(spec, 3, device=device)
    rows, remarks = parts.counted(case)
    whole = memory.memory(case)
    with memory.imagined(case) as workload:
        counts = macs.measure(workload).phases
    sums = rows[parts.COLUMNS].sum()
    assert sums["parameters_bytes"] == whole.parameter_bytes
    assert sums["saved_bytes"] == whole.saved_bytes
    assert sums["at_peak_bytes"] == whole.peaks["step"].total_bytes
    assert (sums["step_macs"], sums["inference_macs"]) == (counts["step"], counts["inference"])
    assert memory.with_unit(whole.peaks["step"].total_bytes) in remarks[0]
    assert rows["path"].is_unique
    assert all(remark.startswith("  ") for remark in remarks[1:3])


def test_equal_layers_cost_the_same() -> None:
    rows, _ = parts.counted(Case(NETWORK, 3))
    inner = rows[(rows["layer"] == "StandardConv2d") & rows["block"].eq("4")]
    assert len(inner) == 5
    for column in ("parameters_bytes", "step_macs", "inference_macs", "input"):
        assert inner[column].nunique() == 1, column
    assert inner["saved_bytes"].iloc[1:].nunique() == 1


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_memory_over_time_reaches_the_predicted_peak(device: str) -> None:
    case = Case(NETWORK, 3, device=device)
    moments, held = parts.over_time(case)
    peak = memory.memory(case).peaks["step"].total_bytes
    assert moments["reached_bytes"].max() == held["size_bytes"].sum() == peak
    assert list(moments["phase"].unique()) == ["before", "forward", "backward", "update"]
    assert (moments["reached_bytes"] >= moments["in_use_bytes"]).all()
    grouped = parts.grouped(held)
    assert grouped["size_bytes"].is_monotonic_decreasing
    assert (grouped["size_bytes"].sum(), grouped["count"].sum()) == (peak, len(held))
    assert grouped["share"].sum() == pytest.approx(1)


def run(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as ended:
        cli.main(arguments)
    return int(str(ended.value.code)), *capfd.readouterr()


def test_the_verb_prints_draws_and_traces(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    drawing, trace = tmp_path / "memory.svg", tmp_path / "trace.json"
    code, out, err = run(capfd, *SMALL, "--memory-over-time", str(drawing), "--trace", str(trace))
    assert (code, err) == (0, "")
    assert "SOCConv2d" in out
    assert "(between layers)" in out
    assert "Their sum, against the whole without these clocks: a training step" in out
    assert "Peak of the training step" in out
    assert ElementTree.parse(drawing).getroot().tag.endswith("svg")
    assert "forward" in drawing.read_text()
    events = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"training step", "inference", "0 SOCConv2d"} <= events


def test_programs_get_a_row_for_each_layer(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    listed = tmp_path / "memory.csv"
    code, out, _ = run(capfd, *SMALL, "--format", "json", "--memory-over-time", str(listed))
    assert code == 0
    layer, rest = json.loads(out)
    assert (layer["path"], layer["layer"], layer["input"]) == ("0", "SOCConv2d", "4 × 4 × 4")
    assert (rest["path"], rest["step_macs"]) == ("", 0)
    assert layer["step_s"] == pytest.approx(layer["forward_s"] + layer["backward_s"])
    assert 0 < layer["inference_s"] < 10
    moments = pd.read_csv(listed)
    assert moments["number"].tolist() == list(range(len(moments)))
    assert moments["operation"].str.startswith("aten.convolution").any()


def test_a_network_is_shown_by_blocks() -> None:
    case = Case(NETWORK, 2)
    rows, remarks = parts.counted(case)
    found = breakdown.answer(case, {"rows": rows.to_dict("records"), "remarks": remarks}, None)
    shown = found.readable
    assert shown is not None
    blocks = shown[shown["layer"] == "block"]
    assert blocks["where"].tolist() == ["3", "4", "5"]
    assert "5 × StandardConv2d" in shown["layer"].tolist()
    assert "3.0 … 3.8" in shown["where"].tolist()
    assert shown["share of its MACs"].iloc[-1].endswith("100.0%")
    assert "step" not in " ".join(title.partition(",")[0] for title in shown).replace("MACs of a step", "")


def test_a_layer_of_this_process_and_one_that_fails() -> None:
    sizes = {"channels": 4, "image_size": 4, "batch_size": 2, "threads": 1}
    found = lipbench.breakdown(nn.Conv2d(4, 4, 3, padding=1), **sizes, seconds=0.01, device="cpu")
    assert found.frame["layer"].tolist() == ["Conv2d", "(between layers)"]
    assert not found.failed
    failed = lipbench.breakdown("faulty_layers:Exits", **sizes, seconds=0.01, device="cpu")
    assert (failed.failed, len(failed.problems)) == (True, 1)


@pytest.mark.parametrize(
    ("axes", "words"),
    [({}, "got 24 cases"), ({"compile": True, "network": f"{__name__}:mixed"}, "uncompiled: got another form")],
    ids=["several", "compiled"],
)
def test_what_cannot_be_broken_down_is_refused(axes: dict[str, object], words: str) -> None:
    with pytest.raises(LipbenchError, match=words):
        lipbench.breakdown(**axes, device="cpu")
