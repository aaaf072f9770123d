"""The largest batch that fits: found in few predictions, and right to one image."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import pytest
from torch import Tensor, nn

import lipbench
from lipbench.bounds import LARGEST, bytes_of
from lipbench.cases import Case, LayerSpec
from lipbench.cli import main as cli
from lipbench.errors import LipbenchError
from lipbench.prediction import largest, memory

pytestmark = pytest.mark.usefixtures("quick_collections")


class RaisesFromFour(nn.PReLU):
    """A layer that takes at most three images."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__(in_channels)

    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 3:
            raise ValueError("too many images")
        return super().forward(x)


class Counted:
    """A function of the batch that counts its calls."""

    def __init__(self, peak: Callable[[int], float]) -> None:
        self.peak, self.calls = peak, 0

    def __call__(self, batch: int) -> float:
        self.calls += 1
        return self.peak(batch)


@pytest.mark.parametrize("limit", [99, 100, 101, 10**4, 10**6 + 7])
@pytest.mark.parametrize(
    "peak",
    [
        lambda batch: 93 + 7 * batch,
        lambda batch: max(500, 20 + 30 * batch),
        lambda batch: 512 * math.ceil((10 + 3 * batch) / 512),
        lambda batch: 40 + int(batch * math.log2(1 + batch)),
        lambda batch: 50 + 9 * batch if batch < 4000 else math.inf,
        lambda batch: batch**2,
        lambda batch: 50 if batch < 30_000 else 10**7,
        lambda batch: 90 + batch if batch < 30_000 else 10**7 + batch,
    ],
    ids=[
        "affine",
        "with a floor",
        "in blocks",
        "curved",
        "cannot be counted from 4000",
        "square",
        "step",
        "affine with a step",
    ],
)
def test_the_batch_fits_and_one_image_more_does_not(peak: Callable[[int], float], limit: int) -> None:
    counted = Counted(peak)
    found = largest.largest(counted, limit)
    if found.batch == 0:
        assert found.peak_bytes == peak(1) > limit
        return
    assert found.peak_bytes == peak(found.batch) <= limit
    assert found.batch == largest.MOST or peak(found.batch + 1) > limit
    assert counted.calls <= 50


def test_an_affine_peak_takes_four_predictions() -> None:
    counted = Counted(lambda batch: 10**6 + 12345 * batch)
    assert largest.largest(counted, 10**8).batch == (10**8 - 10**6) // 12345
    assert counted.calls <= 4


def test_a_peak_that_does_not_grow_allows_the_largest_batch() -> None:
    assert largest.largest(lambda batch: 5.0, 5) == largest.Largest(largest.MOST, 5)


@pytest.mark.parametrize("spec", [LayerSpec("standard", 8, 8), LayerSpec("lot", 8, 4)], ids=lambda spec: spec.slug)
def test_agrees_with_predictions_on_both_sides(spec: LayerSpec) -> None:
    case = Case(spec, 1, device="cuda")
    limit = 3 * (memory.training_peak(memory.memory(case)) or 0)
    frame, problems = largest.table([case], limit)
    assert problems == []
    row = frame.iloc[0]
    for what, peak in (("training", memory.training_peak), ("inference", memory.inference_peak)):
        batch = int(row[f"{what}_batch"])
        sizes = [peak(memory.memory(Case(spec, count, device="cuda"))) for count in (batch, batch + 1)]
        assert sizes[0] == row[f"{what}_peak_bytes"] <= limit
        assert sizes[1] is not None
        assert sizes[1] > limit
    assert row["inference_batch"] >= row["training_batch"] > 1


def test_what_does_not_fit_or_is_unknown_is_said() -> None:
    cases = [Case(LayerSpec("lot", 8, 8), 1), Case(LayerSpec("counted_layers:NoBackward", 8, 8), 1)]
    frame, problems = largest.table(cases, 40_000)
    assert problems == []
    assert frame["training_batch"].isna().tolist() == [False, True]
    assert frame["training_batch"][0] == 0
    assert frame["training_peak_bytes"][0] > 40_000
    told = largest.readable(frame)
    assert told["largest batch, training"][0].startswith("none: one image takes ")
    assert told["largest batch, training"][1] == "?"


def test_the_verb_takes_layers_of_others_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fits", "--method", "standard,counted_layers:Pointwise", "--channels", "8", "--image-size", "8", "--memory", "1MB"]
    with pytest.raises(SystemExit) as ended:
        cli.main([*words, "--format", "json"])
    rows = json.loads(capsys.readouterr().out)
    assert ended.value.code == 0
    assert [row["method"] for row in rows] == ["standard", "counted_layers:Pointwise"]
    assert all(0 < row["training_batch"] <= row["inference_batch"] for row in rows)
    assert {row["memory_bytes"] for row in rows} == {10**6}
    own = lipbench.fits("standard", memory_bytes=10**6, channels=8, image_size=8).frame
    assert own["training_batch"][0] == rows[0]["training_batch"]


def test_two_conditions_stand_in_one_column(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["fits", "--method", "standard", "--channels", "8", "--image-size", "8", "--memory", "1MB", "--dtype"]
    with pytest.raises(SystemExit):
        cli.main([*words, "float32,float64"])
    head, _, first, second, *_ = capsys.readouterr().out.splitlines()
    assert head.split()[:5] == ["method", "channels", "image", "kernel", "dtype"]
    assert ("float32" in first, "float64" in second) == (True, True)


def test_a_layer_that_raises_at_larger_batches_is_a_problem() -> None:
    frame, problems = largest.table([Case(LayerSpec(f"{__name__}:RaisesFromFour", 4, 4), 1)], 10**6)
    assert frame.empty
    assert len(problems) == 1
    assert "too many images" in problems[0]


def test_a_batch_size_is_refused() -> None:
    with pytest.raises(LipbenchError, match="leave it out, or use predict"):
        lipbench.fits("standard", memory_bytes=10**6, batch_size=2)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("24GB", 24 * 10**9), ("24 GiB", 24 * 2**30), ("80e9", 80 * 10**9), ("1000", 1000), ("1.5kb", 1500), ("2K", 2000),
        ("1B", 1), ("0.5MiB", 2**19), ("1e3kB", 10**6), ("1TiB", 2**40), ("2.GB", 2 * 10**9),
    ],
)  # fmt: skip
def test_sizes_as_people_write_them(text: str, size: int) -> None:
    assert bytes_of("--memory", text) == size


@pytest.mark.parametrize("text", ["", "GB", "0", "-1", "0.1", "24GX", "1iB", "1 2", "nan", "inf", "1e", "٣GB", "24GBs"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(LipbenchError, match=r"--memory must be a size .* such as 24GB"):
        bytes_of("--memory", text)


def test_a_size_beyond_the_largest_is_refused() -> None:
    assert bytes_of("--memory", "4PiB") < LARGEST["bytes"]
    for text in ("1e9PB", "9" * 5000):
        with pytest.raises(LipbenchError, match="at most"):
            bytes_of("--memory", text)
