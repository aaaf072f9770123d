"""The report: complete, self-contained, safe, and standing whatever the run looks like."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pandas as pd
import pytest
from lipbench_reports import prepared
from lipbench_reports.cells import digits, mathml
from lipbench_reports.costs import costs
from lipbench_reports.figures import apart
from lipbench_reports.html import render
from lipbench_reports.look import DARK, LIGHT, looks
from lipbench_reports.prepared import listed_cases
from lipbench_reports.tables import Condition, Tables, with_columns
from report_frames import CHANNELS, METHODS, Page, compiled, failed_row, quick, ready, tables, troubled, words

from lipbench import registry
from lipbench.analysis.rows import COLUMNS


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
        "summary",
        "numbers",
        "figures",
        "lipschitz",
        "theory",
        "radar",
        "halves",
        "epochs",
        "failures",
        "warnings",
        "machine",
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
    for doubt in ("Contended", "Not converged", "two operations have no formula"):
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
    found = costs(ready(rows))
    aol = next(one for one in found.series if one.method == "aol")
    assert found.of("training step", aol).ratio == pytest.approx(4.0)
    assert found.score("training step", aol) == pytest.approx(3.0)
    fewer = rows[~((rows["method"] == "aol") & (rows["channels"] == 64))]
    relative = costs(ready(fewer)).of("training step", aol)
    assert (relative.ratio, relative.shapes) == (pytest.approx(8**0.5), 2)


def test_contended_times_rank_nowhere_and_are_shown_without_where_others_exist() -> None:
    rows = quick()
    rows.loc[(rows["method"] == "aol"), "contended"] = True
    rows.loc[(rows["method"] == "soc") & (rows["channels"] == 64), ["contended", "median_s"]] = [True, 1e3]
    found = costs(ready(rows))
    ranked = {one.method: entry for one, entry in found.ranking("training step")}
    assert {"aol", "soc"}.isdisjoint(ranked)
    left_out = found.comparisons["training step"].left_out or {}
    assert {one.method: left_out[one.key] for one in found.series if one.key in left_out} == {
        "aol": "undisturbed at 0 of 3 shapes",
        "soc": "undisturbed at 2 of 3 shapes",
    }
    soc = found.of("training step", next(one for one in found.series if one.method == "soc"))
    assert (soc.shapes, soc.mark) == (2, "partial")
    assert soc.ratio < 100
    assert "aol" in {one.method for one, _ in found.ranking("training memory")}


def test_a_busy_machine_is_said_and_nothing_is_claimed() -> None:
    text = Page(render(tables(ODD["all contended"]))).text
    assert "No method is ranked by its training step and inference: the machine was busy." in text
    assert "trained fastest" not in text
    assert "Scores of" not in text, "a radar needs more than the two axes of memory"


def test_methods_that_fail_their_certificate_are_in_no_ranking_and_no_radar() -> None:
    rows = quick()
    rows.loc[rows["method"] == "aol", "certificate"] = 1.02
    rows.loc[rows["method"] == "lot", "certificate"] = 1.00001
    found = costs(ready(rows))
    for measure in found.comparisons:
        assert {"aol", "standard"}.isdisjoint(one.method for one, _ in found.ranking(measure))
        assert "lot" in {one.method for one, _ in found.ranking(measure)}
    document = render(tables(rows))
    assert not re.search(r"Scores of AOL", document)
    assert "Scores of LOT" in document
    assert "1.0200 exact" in Page(document).text


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
    "nobody certified": quick().assign(certificate=np.nan, certificate_kind="", certificate_training=None),
    "all violate": quick().assign(certificate=1.5),
    "hostile names": quick()
    .replace({"title": {"AOL": HOSTILE}, "method": {"aol": "evil:" + HOSTILE}})
    .assign(warnings=HOSTILE),
    "implementations": pd.concat([quick(), quick().assign(implementation="lean")]),
    "all compiled": compiled().query("compiled"),
    "interpreted": quick().assign(implementation="triton", interpreted=True),
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
    text = Page(render(Tables("Empty", empty, COLUMNS, (), empty, empty, empty, empty))).text
    assert "The run holds no case." in text
    assert "No provenance was recorded." in text


def test_a_condition_is_data_and_shows_in_labels_shapes_and_panels() -> None:
    """One that this package has never heard of: it makes a series if it has a label, and a shape if it has none."""
    unusual = quick().query("method == 'aol'").assign(recipe="late", weather="rain", case="another")
    rows = pd.concat([quick(), unusual], ignore_index=True)
    labelled, plain = Condition("recipe", "early", "recipe {}"), Condition("weather", short="in {}")
    columns = {**COLUMNS, "recipe": "str", "weather": "str"}
    given = tables(rows, columns=columns, conditions=(labelled, plain))
    found = ready(rows, columns=columns, conditions=(labelled, plain))
    assert [one.label for one in found.series if one.method == "aol"] == ["AOL", "AOL · recipe late"]
    assert found.rows.loc[found.rows["recipe"] == "late", "shape"].unique().tolist() == [f"{c} ch, in rain" for c in CHANNELS]
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", render(given))
    assert sum(caption.endswith(", rain, recipe late") for caption in captions) == 4


def test_series_are_told_apart_by_columns_whatever_their_names_hold() -> None:
    one = quick().query("method == 'aol'")
    rows = pd.concat([one.assign(method="a|b"), one.assign(method="a", implementation="b|paper")])
    found = ready(rows)
    assert [(series.method, series.implementation) for series in found.series] == [("a", "b|paper"), ("a|b", "paper")]
    assert len(found.cases) == 2 * len(CHANNELS)


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


def test_an_external_layer_has_a_look_of_its_own() -> None:
    """Its hue and marker are those of no registered method, and no two methods of a run look alike."""
    registered = list(registry.METHODS)
    foreign = [f"layers.py:Layer{number}" for number in range(40)]
    entries = [(name, name, "paper") for name in (*registered, *foreign)]
    found = looks(entries, registered)
    ours, theirs = ([found[name] for name in names] for names in (registered, foreign))
    assert {one.colour for one in ours}.isdisjoint(one.colour for one in theirs)
    assert {one.marker for one in ours}.isdisjoint(one.marker for one in theirs)
    assert len({(one.colour, one.marker) for one in found.values()}) == len(entries)
    assert looks(entries[:3], registered)["aol"] == found["aol"], "whatever else is in the run"
    assert len({one.outline for one in found.values()}) == len({one.marker for one in found.values()})


def test_a_run_of_very_many_cases_is_listed_in_part_and_names_the_export(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepared, "MOST_CASES", 30)
    rows = pd.concat([quick().assign(batch_size=size, case=quick()["case"] + f"-b{size}") for size in range(1, 11)])
    found = ready(rows)
    kept = found.listed.rows
    assert found.shape in set(kept["shape"])
    assert {found.shapes[0], found.shapes[-1]} <= set(kept["shape"])
    assert len(kept.drop_duplicates(["series", "shape"])) <= 30 + len(METHODS)
    assert set(listed_cases(tables(rows))) == set(kept["case"])
    assert listed_cases(tables(rows))[0] in set(found.at_shape.rows["case"]), "these are predicted first"
    text = words(rows, out="runs/my run")
    count = kept["shape"].nunique()
    assert text.count(f"Listed are {count} of 30 shapes, evenly spaced over the run.") >= 4
    assert "lipbench export 'runs/my run' -o all.csv" in text
    assert "30 shapes, from 16 ch, b 1 to 64 ch, b 10" in text
    assert "Listed are" not in words(quick())
