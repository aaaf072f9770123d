"""Figures of costs against a size: which panels there are, and predicted memory beside the measured one."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from lipbench_reports import figures, html
from lipbench_reports.prepared import Prepared
from report_frames import METHODS, case_rows, quick, ready, tables

from lipbench.cases import PRESETS

SHAPES = PRESETS["scaling"].layer_shapes
PLOTS = {plot.identity: plot for plot in figures.PLOTS}


@pytest.fixture(scope="module")
def scaling() -> pd.DataFrame:
    rng = np.random.default_rng(3)
    methods = ("standard", "aol", "soc")
    return pd.DataFrame([row for name in methods for c, s, _ in SHAPES for row in case_rows(rng, name, c, s, batch=16)])


def drawn(identity: str, rows: pd.DataFrame, **changed: object) -> list[figures.Panel]:
    found: Prepared = ready(rows, **changed)
    looks = html._looks(found, [])
    return list(figures.panels(PLOTS[identity], found, looks).shown)


def test_the_preset_has_a_panel_against_each_size(scaling: pd.DataFrame) -> None:
    """Each shape is on one of both lines, which share one shape."""
    channels, images = {c for c, s, _ in SHAPES if s == 16}, {s for c, s, _ in SHAPES if c == 32}
    assert len(SHAPES) == len(channels) + len(images) - 1
    for identity, sizes, caption in (("time", channels, "16 × 16 images"), ("memory-image", images, "32 channels")):
        (panel,) = drawn(identity, scaling)
        assert panel.caption.startswith(caption)
        shown = re.findall(r">(\d+)</text>", panel.svg)
        assert [int(text) for text in shown[: len(sizes)]] == sorted(sizes)


def test_memory_has_predicted_lines_and_time_measured_ones(scaling: pd.DataFrame) -> None:
    for identity in ("memory", "memory-inference", "memory-image"):
        assert "lines: predicted" in drawn(identity, scaling)[0].svg
        assert "lines: predicted" not in drawn(identity, scaling, predicted=pd.DataFrame())[0].svg
    for identity in ("time", "time-image", "throughput"):
        assert "lines: predicted" not in drawn(identity, scaling)[0].svg


def test_predictions_stand_where_they_belong(scaling: pd.DataFrame) -> None:
    """Lines of predictions twice as high as the measurements are other lines than those through the measurements."""
    peaks = scaling.assign(predicted_peak_bytes=scaling["peak_memory_bytes"])[["case", "phase", "predicted_peak_bytes"]]
    doubled = peaks.assign(predicted_peak_bytes=2 * peaks["predicted_peak_bytes"])

    def lines(predicted: pd.DataFrame) -> list[tuple[float, ...]]:
        """Heights of the ends of each method's line relative to the first line's, so that scales do not matter."""
        (panel,) = drawn("memory", scaling, predicted=predicted)
        paths = re.findall(r'<path d="(M [^"]+)" clip-path[^>]*stroke-width: 1.4', panel.svg)
        return [tuple(float(y) for y in re.findall(r"[ML] [\d.]+ ([\d.]+)", path)) for path in paths]

    measured = lines(pd.DataFrame())
    assert len(measured) == 3
    assert lines(peaks) == measured
    assert lines(doubled) != measured


def test_a_curve_needs_three_image_sizes_and_a_single_width_stays_where_it_is_all_there_is() -> None:
    assert drawn("time-image", quick()) == []
    one = quick().query("channels == 16")
    assert len(drawn("time", one)) == 1
    rng = np.random.default_rng(4)
    two = [row for method in METHODS for image in (8, 32) for row in case_rows(rng, method, 16, image)]
    assert len(drawn("time", pd.DataFrame(two))) == 2
    assert len(drawn("time", pd.concat([quick(), pd.DataFrame(two)]))) == 1
    network = pd.DataFrame(case_rows(rng, "aol", 16, 32, 256, "XS"))
    assert [panel.caption[:5] for panel in drawn("time", pd.concat([quick(), network]))] == ["16 × ", "Netwo"]


def test_the_report_says_what_is_drawn(scaling: pd.DataFrame) -> None:
    text = html.render(tables(scaling))
    for title in ("Training time against the image size", "Training memory against the number of channels"):
        assert title in text


def test_lines_join_measurements_where_a_prediction_is_missing(scaling: pd.DataFrame) -> None:
    peaks = scaling.assign(predicted_peak_bytes=scaling["peak_memory_bytes"])[["case", "phase", "predicted_peak_bytes"]]
    assert "lines: predicted" not in drawn("memory", scaling, predicted=peaks.iloc[:-40])[0].svg
