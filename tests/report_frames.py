"""Synthetic frames of a run, drawn from a seed by the columns that `analysis.rows` promises. They are no measurement."""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
from lipbench_reports import html
from lipbench_reports.prepared import Prepared, prepare
from lipbench_reports.tables import Tables, as_texts, with_columns

from lipbench.analysis import origin
from lipbench.analysis.rows import COLUMNS

METHODS = {
    "standard": ("Standard", 1.0, 0.0, 1.0), "aol": ("AOL", 1.0, 0.9, 1.05), "bcop": ("BCOP", 1.0, 6.0, 1.6),
    "cayley": ("Cayley", 1.8, 3.0, 3.4), "cpl": ("CPL", 2.1, 0.1, 2.4), "lot": ("LOT", 2.9, 14.0, 5.5),
    "sll": ("SLL", 2.1, 0.9, 2.5), "soc": ("SOC", 5.2, 0.05, 4.6),
}  # fmt: skip
"""title, cost of the input half and of the parameter half relative to a convolution's, memory relative to it: invented"""

PHASES = {"forward": 1.0, "backward": 2.1, "step": 3.2, "parametrize": 0.0, "inference": 0.9, "first_inference": 0.9}
CHANNELS = (16, 32, 64)


CERTIFIED = {
    "certificate": 1.0, "certificate_smallest": 0.99999, "certificate_kind": "exact", "certificate_how": "fourier",
    "certificate_training": 1.0021, "certificate_training_kind": "exact", "macs_unsupported": "",
}  # fmt: skip


def case_rows(
    rng: np.random.Generator, method: str, channels: int, image: int = 16, batch: int = 32, network: str = ""
) -> list[dict]:
    title, inputs, parameters, memory = METHODS[method]
    convolution = batch * image**2 * channels**2 * 9
    activation = batch * image**2 * channels
    halves = {"input": convolution * inputs, "parameters": parameters * channels**3 * 81}
    case = {
        "method": method, "title": title, "implementation": "paper", "network": network, "channels": channels,
        "image_size": image, "kernel_size": 3, "batch_size": batch, "dtype": "float32", "precision": "ieee", "device": "cpu",
        "threads": 2, "status": "ok", "reason": "", "warnings": (), **CERTIFIED,
        "case": f"{method}-paper-c{channels}-s{image}-k3-b{batch}{network}",
        "saved_memory_bytes": 4 * (activation * memory + 45 * channels**2), "saved_input_half_bytes": 4 * activation * memory,
        "saved_parameter_half_bytes": 4 * 45 * channels**2, "parameter_bytes": 4 * (9 * channels**2 + channels),
        "buffer_bytes": 0, "gradient_bytes": 4 * (9 * channels**2 + channels), "optimizer_bytes": 36 * channels**2,
        "input_bytes": 4 * activation, "output_bytes": 4 * activation, "timer_cost_s": 2e-7,
    }  # fmt: skip
    rows = []
    for phase, weight in PHASES.items():
        if phase == "parametrize" and method == "standard":
            continue
        both = phase not in ("inference", "parametrize")
        work = weight * halves["input"] + (both * max(weight, 0.9) + (phase == "parametrize")) * halves["parameters"]
        median = (2e-5 + work / 3e10) * rng.normal(1, 0.02)
        counted = halves["input"] * (phase != "parametrize") + halves["parameters"] * (phase != "inference")
        exact = round(counted) if phase in ("forward", "parametrize", "inference") else np.nan
        peak = 4 * activation * (memory + 2 if phase in ("forward", "backward", "step") else 2.2) + 30 * channels**2
        rows.append(case | {
            "phase": phase, "median_s": median, "low_s": median * 0.99, "high_s": median * 1.01, "samples": 110, "rounds": 5,
            "quiet_rounds": 5,
            "round_spread": abs(rng.normal(0, 0.03)), "contended": False, "converged": True, "outliers": 1,
            "host_median_s": np.nan, "launch_bound": False, "peak_memory_bytes": peak, "peak_above_baseline_bytes": peak / 2,
            "macs": round(counted), "theory_macs": exact, "theory_memory_elements": activation * memory + 45 * channels**2,
            "published_macs": exact, "published_memory_elements": activation * memory, "images_per_s": batch / median,
            "published_convention_macs": round(counted / 2), "fvcore_macs": round(counted) if phase == "forward" else np.nan,
            "fvcore_unsupported": "prim::PythonOp.Frozen" if (phase, method) == ("forward", "lot") else "",
        })  # fmt: skip
    return rows


def failed_row(method: str, channels: int, status: str, reason: str, **more: Any) -> dict:
    kept = {key: value for key, value in case_rows(np.random.default_rng(0), method, channels, **more)[0].items() if key in (
        "method", "title", "implementation", "network", "channels", "image_size", "kernel_size", "batch_size", "dtype",
        "precision", "device", "threads", "case")}  # fmt: skip
    return kept | {"phase": "", "status": status, "reason": reason, "warnings": ()}


def complexity() -> pd.DataFrame:
    formula = (
        "<mrow><mn>2</mn><mo>&InvisibleTimes;</mo><msup><mi>c</mi><mn>2</mn></msup><mo>+</mo>"
        "<mfrac><mi>b</mi><mn>2</mn></mfrac></mrow>"
    )
    return pd.DataFrame([
        {"method": name, "title": METHODS[name][0], "half": half, "quantity": quantity, "published_mathml": formula,
         "exact_mathml": formula if half == "input" or name != "standard" else "<mn>0</mn>"}
        for name in METHODS for half in ("input", "parameters") for quantity in ("macs", "memory")
    ])  # fmt: skip


def exponents() -> pd.DataFrame:
    return pd.DataFrame([
        {"method": name, "title": METHODS[name][0], "quantity": quantity, "exponent": fit, "points": 6,
         **({"low": fit - 0.2, "high": fit + 0.2} if "time" in quantity else {"least_slope": 1.5, "greatest_slope": 2.0}),
         "theory_exponent": fit + 0.05, "leading_exponent": 2}
        for name in METHODS for quantity, fit in (("time: forward", 1.71), ("MACs: forward", 2.02), ("saved memory", -0.01))
    ])  # fmt: skip


def certificates(rows: pd.DataFrame) -> pd.DataFrame:
    """Two bounds in evaluation and one in training of every case that has a certificate."""
    found = []
    for row in with_columns(rows, ["case", "network", *CERTIFIED]).drop_duplicates("case").to_dict("records"):
        if pd.isna(row["certificate"]):
            continue
        shared = {"case": row["case"], "image_size": 16, "growing": "2.0, head" if row["network"] == "S" else ""}
        found += [
            shared | {"mode": "evaluation", "largest": row["certificate"], "smallest": row["certificate_smallest"],
                      "kind": row["certificate_kind"], "how": row["certificate_how"], "residual": 0.0},
            shared | {"mode": "evaluation", "largest": row["certificate"], "smallest": None, "kind": "exact",
                      "how": "lanczos", "residual": 3.2e-9},
            shared | {"mode": "training", "largest": row["certificate_training"], "smallest": None,
                      "kind": row["certificate_training_kind"], "how": "fourier", "residual": 0.0},
        ]  # fmt: skip
    return pd.DataFrame(found)


def warnings(rows: pd.DataFrame, kind: str = "other") -> pd.DataFrame:
    """Every text that rows have for a warning, as one of that kind of their case."""
    data = with_columns(rows, ["case", "warnings"]).drop_duplicates("case")
    texts = [(case, text) for case, found in zip(data["case"], data["warnings"]) for text in as_texts(found)]
    return pd.DataFrame(texts, columns=["case", "text"]).assign(kind=kind, phases="")


def fitted() -> pd.DataFrame:
    formula = "<mrow><mn>2.00</mn><mo>&InvisibleTimes;</mo><mi>C</mi></mrow>"
    return pd.DataFrame([
        {"method": name, "title": METHODS[name][0], "half": half, "quantity": quantity, "fitted": "2.00 C",
         "fitted_mathml": formula, "residual": 0.04 if name == "lot" else 0.0, "note": "k > 1" if name == "bcop" else ""}
        for name in METHODS for half in ("input", "parameters") for quantity in ("macs", "memory")
    ])  # fmt: skip


WOBBLE = (1.0, 1.004, 0.996, 1.002, 0.998)
"""rounds relative to their geometric mean"""


def rounds(rows: pd.DataFrame) -> pd.DataFrame:
    """Five rounds for each time in rows, whose geometric mean is that time, in an order of its own for each case.

    All are quiet, except those of a contended phase.
    """
    data = with_columns(rows, ["case", "phase", "median_s", "contended"])
    data = data[pd.to_numeric(data["median_s"], errors="coerce").notna()]
    mean = float(np.exp(np.mean(np.log(WOBBLE))))
    return pd.DataFrame([
        {"case": case, "phase": phase, "round": number, "median_s": median * factor / mean, "quiet": contended is not True}
        for case, phase, median, contended in zip(data["case"], data["phase"], data["median_s"], data["contended"])
        for number, factor in enumerate(np.roll(WOBBLE, zlib.crc32(str(case).encode())))
    ])  # fmt: skip


def predicted(rows: pd.DataFrame) -> pd.DataFrame:
    """Peaks one in a hundred above those measured, Cayley's one in ten."""
    data = with_columns(rows, ["case", "method", "phase", "peak_memory_bytes"])
    factors = pd.Series([1.1 if method == "cayley" else 1.01 for method in data["method"]], index=data.index, dtype=float)
    peaks = pd.to_numeric(data["peak_memory_bytes"]) * factors
    return data.assign(predicted_peak_bytes=peaks)[["case", "phase", "predicted_peak_bytes"]]


PUBLISHED = pd.DataFrame([
    {"dataset": "cifar", "train_images": 50000, "batch_size": 256, "layer": layer, "size": size,
     "train_seconds_per_epoch": seconds}
    for size, layer, seconds in (("XS", "AOL", 8.6), ("S", "AOL", 9.4), ("XS", "SOC", 19.4), ("S", "LOT", np.nan))
])  # fmt: skip
RUN = {
    "command": "lipbench profile --preset quick", "started": "2024-01-01T00:00:00Z", "version": "0.0.0", "problems": [],
    "machine": {"hostname": "synthetic", "system": "Linux", "cpu": "Imaginary CPU", "cores": 2, "memory_bytes": 8 * 2**30,
                "python": "3.11", "torch": "2.13.0", "packages": {"numpy": "2"}, "commit": None, "gpu": None, "flags": {}},
    "limits": {"phase_seconds": 0.5, "timeout_s": 300.0, "memory_bytes": None}, "warnings": [],
}  # fmt: skip


def tables(rows: pd.DataFrame, **changed: Any) -> Tables:
    methods = pd.DataFrame([
        {"method": name, "title": METHODS[name][0], "source": f"Source of {METHODS[name][0]}", "linear": True,
         "orthogonal": name == "soc", "lipschitz": name != "standard"} for name in METHODS
    ])  # fmt: skip
    values = {"title": "Synthetic run", "rows": rows, "columns": COLUMNS, "conditions": origin.conditions(),
              "methods": methods, "complexity": complexity(), "exponents": exponents(), "published": PUBLISHED, "run": RUN,
              "certificates": certificates(rows), "warnings": warnings(rows), "rounds": rounds(rows),
              "fitted": fitted(), "predicted": predicted(rows)}  # fmt: skip
    return Tables(**values | changed)  # type: ignore[arg-type]


def ready(rows: pd.DataFrame, **changed: Any) -> Prepared:
    return prepare(tables(rows, **changed))


def quick() -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame([row for method in METHODS for channels in CHANNELS for row in case_rows(rng, method, channels)])


def troubled() -> pd.DataFrame:
    """A run with everything in it: two image sizes, networks, failures, contention, and a counted residual."""
    rng = np.random.default_rng(2)
    rows = [row for method in METHODS for image in (16, 32) for channels in CHANNELS
            if (method, image, channels) != ("lot", 32, 64) for row in case_rows(rng, method, channels, image)]  # fmt: skip
    rows += [row for method in ("standard", "aol", "soc") for size, width in (("XS", 16), ("S", 32))
             for row in case_rows(rng, method, width, 32, 256, size)]  # fmt: skip
    frame = pd.DataFrame(rows)
    frame.loc[(frame["method"] == "cpl") & (frame["channels"] == 32), "contended"] = True
    frame.loc[(frame["method"] == "sll") & (frame["phase"] == "backward"), ["converged", "round_spread"]] = [False, 0.31]
    frame["macs"] = frame["macs"].where((frame["method"] != "cayley") | (frame["phase"] != "forward"), frame["macs"] * 1.04)
    frame.loc[frame["method"] == "standard", ["certificate", "certificate_kind"]] = [1.37, "exact"]
    frame.loc[frame["method"] == "sll", ["certificate", "certificate_kind"]] = [0.97, "lower bound"]
    frame.loc[frame["method"] == "bcop", "macs_unsupported"] = "aten._linalg_svd"
    frame.at[0, "warnings"] = ("two operations have no formula: aten::a, aten::b",)
    lost = [
        failed_row("lot", 64, "out_of_memory", "MemoryError: cannot allocate 12.3 GiB of address space", image=32),
        failed_row("bcop", 128, "timeout", "no answer within 300 s"),
        failed_row("soc", 128, "not_lipschitz", "σ_max 1.02") | CERTIFIED | {"certificate": 1.02},
    ]
    return pd.concat([frame, pd.DataFrame(lost)], ignore_index=True)


def compiled() -> pd.DataFrame:
    """Three methods at all widths, each compiled too: AOL's step twice as fast and SOC's slower for it, after 10 s and 30 s."""
    written = quick().query("method in ('standard', 'aol', 'soc')")
    twins = written.assign(compiled=True, case=written["case"] + "-compiled", saved_input_half_bytes=np.nan,
                           saved_parameter_half_bytes=np.nan, compile_s=0.0)  # fmt: skip
    twins.loc[twins["phase"] == "forward", "compile_s"] = 10.0
    twins.loc[twins["phase"] == "inference", "compile_s"] = 3.0
    step = twins["phase"] == "step"
    twins.loc[step, "median_s"] *= twins.loc[step, "method"].map({"standard": 1.0, "aol": 0.5, "soc": 1.25})
    return pd.concat([written.assign(compiled=False), twins], ignore_index=True)


def recomputed() -> pd.DataFrame:
    """Standard, AOL and SOC at all widths, each recomputed too: peaks 1, 2 and 3 MB lower, for 0, 1 and 2 ms."""
    written = quick().query("method in ('standard', 'aol', 'soc')").copy()
    step = written["phase"] == "step"
    written.loc[step, ["median_s", "peak_memory_bytes"]] = [4e-3, 6e6]
    twins = written.assign(recomputed=True, case=written["case"] + "-recomputed")
    place = twins.loc[step, "method"].map({"standard": 0, "aol": 1, "soc": 2})
    twins.loc[step, "median_s"] += 1e-3 * place
    twins.loc[step, "peak_memory_bytes"] -= (1 + place) * 1e6
    return pd.concat([written.assign(recomputed=False), twins], ignore_index=True)


class Page(HTMLParser):
    """What the tests ask of the document: well-formed nesting, elements, addresses, identifiers, text."""

    VOID = frozenset({"meta", "link", "br", "img", "hr", "input"})

    def __init__(self, source: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "action", "data")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] not in (["script"], ["style"]):
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


NO_PICTURES = {
    "plots": [],
    "plotted": [],
    "scores": None,
    "radar": None,
    "radars": [],
    "radar_absent": [],
    "labels": {},
    "limits_reached": None,
}
"""what `html._pictures` returns where nothing is drawn"""


def words(rows: pd.DataFrame, section: str = "", frames: Mapping[str, pd.DataFrame] | None = None, **run: Any) -> str:
    """The text of a report, or of one section of it, without its figures: drawing takes most of the time.

    `frames` take the place of those that `tables` makes, `run` of what it says of the run.
    """
    with mock.patch.object(html, "_pictures", return_value=NO_PICTURES):
        document = html.render(tables(rows, run={**RUN, **run}, **{"fitted": pd.DataFrame(), **(frames or {})}))
    if section:
        document = document.partition(f'<section id="{section}">')[2].partition("</section>")[0]
    return Page(document).text.replace("\xa0", " ")
