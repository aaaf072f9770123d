"""The report: complete, self-contained, safe, and standing whatever the run looks like.

The frames here are synthetic, drawn from a seed by the columns that `lipbench.compare` promises. They are no measurement.
"""

from __future__ import annotations

import itertools
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from lipbench_reports.cells import digits, mathml
from lipbench_reports.costs import costs
from lipbench_reports.figures import apart
from lipbench_reports.html import render
from lipbench_reports.look import DARK, LIGHT
from lipbench_reports.tables import Tables, prepare, with_columns

METHODS = {
    "standard": ("Standard", 1.0, 0.0, 1.0), "aol": ("AOL", 1.0, 0.9, 1.05), "bcop": ("BCOP", 1.0, 6.0, 1.6),
    "cayley": ("Cayley", 1.8, 3.0, 3.4), "cpl": ("CPL", 2.1, 0.1, 2.4), "lot": ("LOT", 2.9, 14.0, 5.5),
    "sll": ("SLL", 2.1, 0.9, 2.5), "soc": ("SOC", 5.2, 0.05, 4.6),
}  # fmt: skip
"""title, cost of the input half and of the parameter half relative to a convolution's, memory relative to it: invented"""

PHASES = {"forward": 1.0, "backward": 2.1, "step": 3.2, "parametrize": 0.0, "inference": 0.9, "first_inference": 0.9}
CHANNELS = (16, 32, 64)


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
        "threads": 2, "status": "ok", "reason": "", "certificate": None, "warnings": (),
        "case": f"{method}-paper-c{channels}-s{image}-k3-b{batch}{network}",
        "saved_memory_bytes": 4 * (activation * memory + 45 * channels**2), "saved_input_half_bytes": 4 * activation * memory,
        "saved_parameter_half_bytes": 4 * 45 * channels**2, "parameter_bytes": 4 * (9 * channels**2 + channels),
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
            "phase": phase, "median_s": median, "p20_s": median * 0.98, "p80_s": median * 1.03, "samples": 44, "rounds": 2,
            "round_spread": abs(rng.normal(0, 0.03)), "contended": False, "converged": True, "outliers": 1,
            "host_median_s": np.nan, "launch_bound": False, "peak_memory_bytes": peak, "peak_above_baseline_bytes": peak / 2,
            "macs": round(counted), "theory_macs": exact, "theory_memory_elements": activation * memory + 45 * channels**2,
            "published_macs": exact, "published_memory_elements": activation * memory, "images_per_s": batch / median,
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
        {"method": name, "title": METHODS[name][0], "quantity": quantity, "exponent": fit, "low": fit - 0.2, "high": fit + 0.2,
         "points": 6, "theory_exponent": fit + 0.05, "leading_exponent": 2}
        for name in METHODS for quantity, fit in (("time: forward", 1.71), ("MACs: forward", 2.02), ("saved memory", -0.01))
    ])  # fmt: skip


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
    values = {"title": "Synthetic run", "rows": rows, "methods": methods, "complexity": complexity(), "exponents": exponents(),
              "published": PUBLISHED, "run": RUN}  # fmt: skip
    return Tables(**values | changed)  # type: ignore[arg-type]


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
    frame.at[0, "warnings"] = ("two operations have no formula: aten::a, aten::b",)
    lost = [
        failed_row("lot", 64, "out_of_memory", "MemoryError: cannot allocate 12.3 GiB of address space", image=32),
        failed_row("bcop", 128, "timeout", "no answer within 300 s"),
        failed_row("soc", 128, "not_lipschitz", "σ_max 1.02"),
    ]
    return pd.concat([frame, pd.DataFrame(lost)], ignore_index=True)


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


@pytest.fixture(scope="module")
def document() -> str:
    return render(tables(troubled()))


def test_document_is_small_well_formed_and_loads_nothing(document: str) -> None:
    page = Page(document)
    assert len(document.encode()) < 2_000_000
    assert all(address.startswith("#") or address == "data:," for address in page.addresses)
    assert "http" not in document.replace("http-equiv", "")
    assert "@import" not in document
    assert not re.search(r"url\((?!#)", document)
    assert len(page.ids) == len(set(page.ids))
    references = [address[1:] for address in page.addresses if address.startswith("#")] + re.findall(
        r"url\(#([^)]+)\)", document
    )
    assert set(references) <= set(page.ids)


def test_sections_come_in_order(document: str) -> None:
    wanted = [
        "machine",
        "summary",
        "theory",
        "figures",
        "radar",
        "halves",
        "epochs",
        "failures",
        "warnings",
        "method",
        "provenance",
    ]
    assert [identity for identity in Page(document).ids if identity in wanted] == wanted


def test_figures_follow_the_page(document: str) -> None:
    """No colour of matplotlib's, no font of this machine's, and text that can be selected."""
    drawings = re.findall(r"<svg viewBox.*?</svg>", document, re.DOTALL)
    figures = [drawing for drawing in drawings if "<title" in drawing]
    assert len(figures) > 8
    for figure in figures:
        assert not re.search(r"#[0-9a-f]{6}\b", figure)
        assert "DejaVu" not in figure
        assert "<text" in figure
    assert "var(--method-1)" in document
    assert "currentColor" in document


def test_rendering_is_reproducible(document: str) -> None:
    assert render(tables(troubled())) == document


def test_failures_and_doubts_are_told(document: str) -> None:
    text = Page(document).text
    assert "MemoryError: cannot allocate 12.3 GiB" in text
    assert "no answer within 300 s" in text
    assert "Out of memory: LOT (64 ch, 32²" in text
    for doubt in ("Contended", "Rounds differ by more than 10 %", "Not converged", "two operations have no formula"):
        assert doubt in text
    assert "≠" in text
    assert "†" in text
    assert "Not ranked, because not 1-Lipschitz: SOC" in text


def test_relative_costs_are_geometric_means_over_common_shapes() -> None:
    rows = quick()
    rows.loc[(rows["method"] == "aol") & (rows["phase"] == "step"), "median_s"] = 1.0
    factors = dict(zip(CHANNELS, (2.0, 4.0, 8.0)))
    standard = (rows["method"] == "standard") & (rows["phase"] == "step")
    rows.loc[standard, "median_s"] = [1 / factors[channels] for channels in rows.loc[standard, "channels"]]
    found = costs(prepare(rows), tables(rows).methods)
    aol = next(one for one in found.series if one.method == "aol")
    assert found.of("training step", aol).ratio == pytest.approx(4.0)
    assert found.score("training step", aol) == pytest.approx(3.0)
    fewer = rows[~((rows["method"] == "aol") & (rows["channels"] == 64))]
    relative = costs(prepare(fewer), tables(rows).methods).of("training step", aol)
    assert (relative.ratio, relative.shapes) == (pytest.approx(8**0.5), 2)


def test_contended_times_rank_nowhere_and_are_left_out_where_others_exist() -> None:
    rows = quick()
    rows.loc[(rows["method"] == "aol"), "contended"] = True
    rows.loc[(rows["method"] == "soc") & (rows["channels"] == 64), ["contended", "median_s"]] = [True, 1e3]
    found = costs(prepare(rows), tables(rows).methods)
    ranked = {one.method: entry for one, entry in found.ranking("training step")}
    assert "aol" not in ranked
    assert ranked["soc"].shapes == 2
    assert ranked["soc"].ratio < 100
    assert "aol" in {one.method for one, _ in found.ranking("training memory")}


def test_a_busy_machine_is_said_and_nothing_is_claimed() -> None:
    text = Page(render(tables(ODD["all contended"]))).text
    assert "No method is ranked by its training step and inference: the machine was busy." in text
    assert "trained fastest" not in text
    assert "Scores of" not in text, "a radar needs more than the two axes of memory"


def test_methods_that_fail_their_certificate_are_in_no_ranking_and_no_radar() -> None:
    rows = quick()
    rows["certificate"] = rows["certificate"].astype(object)
    rows.loc[rows["method"] == "aol", "certificate"] = 1.02
    rows.loc[rows["method"] == "lot", "certificate"] = 1.00001
    found = costs(prepare(rows), tables(rows).methods)
    for measure in found.relative:
        assert {"aol", "standard"}.isdisjoint(one.method for one, _ in found.ranking(measure))
        assert "lot" in {one.method for one, _ in found.ranking(measure)}
    document = render(tables(rows))
    assert not re.search(r"Scores of AOL", document)
    assert "Scores of LOT" in document
    assert "fails" in Page(document).text


ONE = quick().query("method == 'aol' and channels == 16")
HOSTILE = "<script>alert('x')</script><b>&\"'"
ODD = {
    "one case": ONE,
    "one phase of one case": ONE.head(1),
    "all failed": pd.DataFrame([failed_row(m, 16, "crashed", "signal 11") for m in METHODS]),
    "nothing": quick().head(0),
    "no columns": pd.DataFrame(),
    "no Standard": quick().query("method != 'standard'"),
    "no memory": quick().assign(**{name: np.nan for name in quick() if "memory" in name or "bytes" in name}),
    "no MACs": quick().assign(macs=np.nan, theory_macs=np.nan, published_macs=None),
    "objects for numbers": quick().assign(macs=None, saved_memory_bytes=None, channels=quick()["channels"].astype(object)),
    "no theory": quick().drop(columns=["theory_macs", "theory_memory_elements", "published_macs", "published_memory_elements"]),
    "all contended": quick().assign(contended=True),
    "nobody certified": quick().assign(certificate=False),
    "hostile names": quick()
    .replace({"title": {"AOL": HOSTILE}, "method": {"aol": "evil:" + HOSTILE}})
    .assign(warnings=HOSTILE),
    "implementations": pd.concat([quick(), quick().assign(implementation="lean")]),
    "other types": quick().convert_dtypes(),
}


@pytest.mark.parametrize("rows", ODD.values(), ids=ODD.keys())
def test_odd_runs_give_a_whole_document(rows: pd.DataFrame) -> None:
    page = Page(render(tables(rows, title=HOSTILE)))
    assert page.tags.count("script") == 1, "only the document's own script"
    assert page.tags.count("b") == 0, "nothing that a run holds becomes markup"
    assert {"summary", "failures", "provenance"} <= set(page.ids)
    assert not re.search(r"\bnan\b|None ×|\binf\b|Traceback", page.text)


def test_empty_frames_everywhere() -> None:
    empty = pd.DataFrame()
    text = Page(render(Tables("Empty", empty, empty, empty, empty, empty))).text
    assert "The run holds no case." in text
    assert "Nothing was recorded." in text


def test_hostile_text_is_shown_as_text() -> None:
    text = Page(render(tables(ODD["hostile names"]))).text
    assert "<script>alert('x')</script>" in text


def test_without_standard_another_method_stands_in() -> None:
    assert "Standard gave no numbers in this run, so AOL" in Page(render(tables(ODD["no Standard"]))).text


def test_formulas_are_parsed_and_rebuilt() -> None:
    assert mathml("<mi>b</mi>", "<mn>0</mn>") == "<math><mrow><mi>b</mi></mrow></math>"
    assert mathml(None, float("nan")) is None
    assert "<script" not in str(mathml("<mrow><script>x</script></mrow>"))
    assert "onclick" not in str(mathml("<mi onclick='x'>c</mi>"))
    assert "&lt;" in str(mathml("a < b"))
    assert "\u2062" in str(mathml("<mo>&InvisibleTimes;</mo>"))


@pytest.mark.parametrize(("value", "text"), [(0, "0"), (1.234, "1.23"), (12.34, "12.3"), (0.012345, "0.0123"), (-2, "−2.00"),
                                             (12345.6, "12\u202f346"), (float("nan"), "–")])  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert digits(value) == text


def test_direct_labels_are_moved_apart_within_the_panel() -> None:
    heights = apart([0, 1, 2, 50, 99, 100], 10, 0, 100)
    assert all(high - low >= 10 - 1e-9 for low, high in itertools.pairwise(heights))
    assert min(heights) >= 0
    assert max(heights) <= 100
    assert heights[3] == 50


def luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@pytest.mark.parametrize(("palette", "paper"), [(LIGHT, "#fdfdfb"), (DARK, "#17181a")], ids=["light", "dark"])
def test_colours_stand_out_from_the_page(palette: tuple[str, ...], paper: str) -> None:
    """WCAG asks graphics for a contrast of 3."""
    for colour in palette:
        lighter, darker = sorted((luminance(colour), luminance(paper)), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 3


def test_missing_columns_are_added() -> None:
    assert list(with_columns(pd.DataFrame({"a": [1]}), ["a", "b"])) == ["a", "b"]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, document: str, tmp_path: Path) -> Iterator[Any]:
    path = tmp_path / "report.html"
    path.write_text(document, encoding="utf-8")
    opened = browser.new_page(viewport={"width": 380, "height": 800})
    opened.trouble = []
    opened.on("console", lambda message: opened.trouble.append(message.text))
    opened.on("pageerror", lambda error: opened.trouble.append(str(error)))
    opened.on(
        "request",
        lambda request: opened.trouble.append(request.url) if not request.url.startswith(("file:", "data:")) else None,
    )
    opened.goto(path.as_uri())
    yield opened
    opened.close()


def test_a_click_sorts_and_missing_values_stay_last(page: Any) -> None:
    column = "#summary table >> nth=0"
    table = page.locator(column)

    def order() -> list[str]:
        return table.locator("tbody tr td:nth-child(2)").evaluate_all("cells => cells.map(cell => cell.dataset.sort)")

    head = table.locator("thead th:nth-child(2)")
    assert head.get_attribute("aria-sort") == "none"
    head.locator("button").click()
    ascending = [float(value) for value in order()]
    assert head.get_attribute("aria-sort") == "ascending"
    assert ascending == sorted(ascending)
    head.locator("button").press("Enter")
    assert head.get_attribute("aria-sort") == "descending"
    assert [float(value) for value in order()] == ascending[::-1]
    share = page.locator("#halves table >> nth=0")
    for _ in range(2):
        share.locator("thead th:nth-child(2) button").click()
        assert share.locator("tbody tr:last-child td:nth-child(2)").get_attribute("data-sort") == ""
    assert page.trouble == []


def test_a_narrow_window_scrolls_only_inside_tables(page: Any) -> None:
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert page.evaluate("[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)")
    assert page.trouble == []
