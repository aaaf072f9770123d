"""The report in a real browser: first screen, tables, figures, contents and folds, by pointer and keyboard, and on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from lipbench_reports.html import render
from report_frames import quick, tables, troubled

Open = Callable[..., Any]
WHOLE = "document.querySelectorAll('details').forEach(fold => fold.open = true)"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two reports: of a run with one image size, which has many warnings of one kind, and of a run with everything in it."""
    folder = tmp_path_factory.mktemp("reports")
    found = {name: folder / f"{name}.html" for name in ("quick", "troubled")}
    found["quick"].write_text(render(tables(quick().assign(converged=False))), encoding="utf-8")
    found["troubled"].write_text(render(tables(troubled())), encoding="utf-8")
    return found


@pytest.fixture
def show(browser: Any, reports: dict[str, Path]) -> Iterator[Open]:
    """Opens a report; in the end, no page has sent a request elsewhere or complained on its console."""
    contexts, trouble = [], []

    def opened(name: str = "troubled", width: int = 1280, height: int = 800, anchor: str = "", **settings: Any) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, **settings)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: trouble.append(message.text))
        page.on("pageerror", lambda error: trouble.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else trouble.append(request.url))
        page.goto(reports[name].as_uri() + anchor)
        return page

    yield opened
    for context in contexts:
        context.close()
    assert trouble == []


def bottom(page: Any, selector: str) -> float:
    return float(page.locator(selector).first.evaluate("one => one.getBoundingClientRect().bottom"))


@pytest.mark.parametrize(
    ("width", "height", "parts"),
    [(1280, 800, ("h1", ".verdict", "nav", "#summary table", "#summary figure svg[role=img]")),
     (390, 844, ("h1", ".verdict", "nav", "#summary table"))],
    ids=["desk", "phone"],
)  # fmt: skip
def test_the_answer_is_on_the_first_screen(show: Open, width: int, height: int, parts: tuple[str, ...]) -> None:
    page = show("quick", width, height)
    for part in parts:
        assert 0 < bottom(page, part) <= height, part
    assert page.locator("#summary .scroll").first.evaluate("box => box.scrollWidth <= box.clientWidth")
    assert page.locator("#summary .ratio").count() > 20


@pytest.mark.parametrize("width", [380, 420, 1000, 1400])
def test_a_page_never_scrolls_sideways_and_its_tables_do(show: Open, width: int) -> None:
    page = show(width=width)
    page.evaluate(WHOLE)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("""[...document.querySelectorAll('.scroll')].every(box =>
        box.scrollWidth <= box.clientWidth || getComputedStyle(box).overflowX === 'auto')""")
    scrolling = page.evaluate("[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)")
    assert scrolling or width == 1400


def test_a_scrolled_table_keeps_the_names_of_its_rows_in_sight(show: Open) -> None:
    page = show(width=420)
    left = page.locator("#numbers .scroll").first.evaluate("""box => {
        box.scrollLeft = 200;
        return [box.scrollLeft, box.querySelector('tbody th').getBoundingClientRect().left - box.getBoundingClientRect().left]
    }""")
    assert left == [200, 0]


def test_the_main_tables_are_whole_at_1400_pixels(show: Open) -> None:
    page = show("quick", 1400)
    for table in page.locator("#summary .scroll, #numbers .scroll >> nth=0, #halves .scroll >> nth=0").all():
        assert table.evaluate("box => box.scrollWidth <= box.clientWidth")


def test_a_click_sorts_and_missing_values_stay_last(show: Open) -> None:
    page = show()
    table = page.locator("#summary table").first

    def order() -> list[str]:
        found = table.locator("tbody tr td:nth-child(2)").evaluate_all("cells => cells.map(cell => cell.dataset.sort)")
        return list(found)

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


def test_hovering_shows_the_values_of_the_nearest_marker(show: Open) -> None:
    page = show("quick")
    drawing = page.locator("#figures svg[role=img]").first
    drawing.scroll_into_view_if_needed()
    tip = page.locator(".tip")
    assert tip.is_hidden()
    drawing.locator(".point").first.hover(force=True)
    assert tip.is_visible()
    assert "channels: " in tip.inner_text()
    assert " to " in tip.inner_text(), "the interval"
    box = tip.bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 1280
    page.locator("h2").first.hover()
    assert tip.is_hidden()


def test_arrow_keys_go_through_the_values(show: Open) -> None:
    page = show("quick")
    drawing = page.locator("#figures svg[role=img]").first
    drawing.focus()
    tip, seen = page.locator(".tip"), []
    for _ in range(3):
        drawing.press("ArrowRight")
        seen.append(tip.inner_text())
    assert len(set(seen)) == 3
    drawing.press("ArrowLeft")
    assert tip.inner_text() == seen[1]
    drawing.press("Escape")
    assert tip.is_hidden()


def test_the_legend_hides_and_shows_a_series_in_every_figure(show: Open) -> None:
    page = show("quick")
    button = page.locator("#figures .switches button").nth(1)
    parts = page.locator(f"figure svg [data-series='{button.get_attribute('data-series')}']:not(circle)")
    visible = "parts => parts.filter(part => getComputedStyle(part).display !== 'none').length"
    every = parts.evaluate_all(visible)
    assert every > 8
    button.focus()
    button.press("Enter")
    assert parts.evaluate_all(visible) == 0
    pressed = page.locator(f".switches button[data-series='{button.get_attribute('data-series')}']")
    assert pressed.count() > 1
    assert pressed.evaluate_all("all => all.map(one => one.ariaPressed)") == ["false"] * pressed.count()
    name = button.inner_text()
    drawing = page.locator("#figures svg[role=img]").first
    drawing.focus()
    for _ in range(drawing.locator(".point").count()):
        drawing.press("ArrowRight")
        assert not page.locator(".tip").inner_text().startswith(f"{name},")
    button.click()
    assert parts.evaluate_all(visible) == every


def test_the_contents_lead_to_every_section(show: Open) -> None:
    page = show()
    links = page.locator("nav a")
    assert links.count() == page.locator("main section").count()
    for link in links.all():
        link.press("Enter")
        target = page.locator(link.get_attribute("href"))
        assert -1 < target.evaluate("one => one.getBoundingClientRect().top") < 800
        assert target.locator("h2").first.inner_text() == link.inner_text()


def test_a_link_opens_what_it_points_to(show: Open) -> None:
    folded = "details[id]:not([open])"
    page = show("quick")
    name = page.locator(folded).first.get_attribute("id")
    link = page.locator(f"#summary a[href='#{name}']")
    for _ in range(2):  # the second time, the address does not change
        link.click()
        assert page.locator(f"#{name}").evaluate("one => one.open")
        page.locator(f"#{name}").evaluate("one => { one.open = false }")
    assert show("quick", anchor=f"#{name}").locator(f"#{name}").evaluate("one => one.open")


def test_paper_shows_everything(show: Open) -> None:
    page = show()
    inside = page.locator("details:not([open]) td").first
    assert not inside.is_visible()
    page.emulate_media(media="print")
    assert inside.is_visible()
    ways = page.locator(".scroll").evaluate_all("boxes => boxes.map(box => getComputedStyle(box).overflowX)")
    assert set(ways) == {"visible"}
    assert page.locator("nav").is_hidden()


def test_without_scripts_the_values_are_titles_and_folds_open(show: Open) -> None:
    page = show("quick", java_script_enabled=False)
    assert "channels: " in page.locator("#figures .point title").first.text_content()
    fold = page.locator("details").first
    fold.locator("summary").first.click()
    assert fold.locator("td").first.is_visible()
