"""The report's section on trainings: sentences that no table contradicts, figures, scores; pages with and without profile."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from lipbench_reports import accuracy as tables_of
from lipbench_reports import html, radar, training_figures
from lipbench_reports.pareto import front
from lipbench_reports.tables import Trained
from lipbench_reports.trainings import Arena, arenas, sentence
from report_frames import NO_PICTURES, Page, quick, tables
from training_records import WORTH, case, evaluation, everything, failed, record, several

import lipbench
from lipbench.analysis import accuracy, document
from lipbench.store.records import Run
from lipbench.store.run_plan import RunPlan
from lipbench.train import records
from lipbench.train.task import Budget, TrainingRecord

HOSTILE = "<script>alert('x')</script><b>&\"'"


def disturbed(seed: int) -> list[TrainingRecord]:
    """Trainings of some methods with random worth, spread, number of seeds, failures, missing certificates and attacks."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 5))
    found = []
    for method in WORTH:
        worth = float(rng.uniform(0.4, 0.9))
        fate = rng.choice(["fine", "failed", "uncertified", "attacked"], p=[0.7, 0.1, 0.1, 0.1])
        for number in range(count):
            one = record(case(method, number), min(1.0, worth + float(rng.normal(0, 0.05))))
            assert one.evaluation is not None
            if fate == "failed" and number == 0:
                one = failed(one.case)
            elif fate == "uncertified":
                one = replace(one, evaluation=replace(one.evaluation, certified={}, margins={}, constant=None))
            elif fate == "attacked":
                one = replace(one, evaluation=replace(one.evaluation,
                              attacked=(replace(one.evaluation.attacked[0], accuracy=0.0),)))  # fmt: skip
            found.append(one)
    return found


def printed(arena: Arena) -> dict[str, tuple[float, bool]]:
    """Label → the certified robust accuracy that the main table prints, and whether a place stands beside it."""
    table = tables_of.results([arena])
    assert table is not None
    titles = [column.title for column in table.columns]
    cells = {row[0].text: dict(zip(titles, row)) for row in table.rows}
    return {label: (float(str(row["CRA 36/255"].text)), row["Place"].text != "–" if "Place" in row else False)
            for label, row in cells.items() if "CRA 36/255" in row and row["CRA 36/255"].text != "–"}  # fmt: skip


def arena_of(found: list[TrainingRecord]) -> Arena:
    (arena,) = arenas(Trained(accuracy.frame(found)))
    return arena


@pytest.mark.parametrize("seed", range(24))
def test_no_sentence_is_contradicted_by_the_table(seed: int) -> None:
    arena = arena_of(disturbed(seed))
    said, shown = sentence(arena), printed(arena)
    said, _, barred = said.replace("\xa0", " ").partition(" Not ranked: ")
    ranked = {label: value for label, (value, _) in shown.items() if f"{label} (" not in barred}
    for label, (value, placed) in shown.items():
        if label not in ranked:
            assert f"{label} ({value:.1f} %, " in barred, "a value that is not ranked is named with its reason"
            assert not placed
    for label in WORTH:
        title = next(one.label for one in arena.groups if one.text("method") == label)
        assert title in shown or f"{title} (" in barred
    if "certified most" in said:
        first = re.findall(r"\w+", said.partition("ranked methods, ")[2].partition(" certified most")[0])
        last = re.findall(r"\w+", said.partition("; ")[2].partition(" certified least")[0])
        assert max(ranked, key=lambda label: ranked[label]) in first
        assert min(ranked, key=lambda label: ranked[label]) in last
        for one in arena.ranked:
            behind = one.value("place_first") > 1
            assert (one.label in first) != behind, "exactly those that no other lies above are named first"
    else:
        assert any(words in said for words in ("overlap", "none is named the best", "the only method", "no method is ranked"))
        places = {(one.value("place_first"), one.value("place_last")) for one in arena.ranked}
        assert len(places) <= 1 or "overlap" not in said


def test_ties_are_said() -> None:
    found = [record(case(method, seed), 0.8 + 0.01 * seed) for method in ("aol", "soc") for seed in range(3)]
    assert "the intervals of all 2 ranked methods overlap" in sentence(arena_of(found))
    lower = [record(case("cpl", seed), 0.5 + 0.01 * seed) for seed in range(3)]
    assert "AOL and SOC certified most at 36/255 (intervals overlap)" in sentence(arena_of([*found, *lower]))


def test_labels_distinguish_what_differs() -> None:
    found = [record(case("aol", learning_rate=rate)) for rate in (0.1, 0.01)] + [record(case("aol", precision="tf32"))]
    assert {one.label for one in arena_of(found).groups} == {"AOL · rate 0.1", "AOL · rate 0.01", "AOL · tf32 · rate 0.05"}


def test_equal_seconds_and_different_epochs_are_said() -> None:
    (said,) = tables_of.same_time([arena_of(several(1))])
    assert "from 6.67 (LOT) to 60.0 (AOL)" in said
    counted = [replace(one, case=replace(one.case, budget=Budget("epochs", 10))) for one in several(1)]
    assert tables_of.same_time([arena_of(counted)]) == []


def test_the_front_holds_what_nothing_beats() -> None:
    points = {"a": (1.0, 50.0), "b": (2.0, 60.0), "c": (3.0, 55.0), "d": (2.0, 58.0), "e": (4.0, 60.0)}
    assert front(points) == ["a", "b"]


def test_scores_have_six_axes_with_a_profile_and_say_what_lacks_without() -> None:
    arena = arena_of(several())
    alone = tables_of.scores(arena, {})
    assert alone is not None
    assert alone.lacking == "inference memory"
    by_label = {one.label: alone.values[one.key] for one in arena.groups}
    assert (by_label["SOC"]["accuracy"], by_label["AOL"]["training speed"], by_label["CPL"]["training speed"]) == (5, 5, 4)
    difference = arena.ranked[0].value("accuracy") - next(one for one in arena.groups if one.label == "CPL").value("accuracy")
    assert by_label["CPL"]["accuracy"] == pytest.approx(5 - difference / 0.05)
    costs = {(method, "paper"): dict.fromkeys(tables_of.AXES, 3.0) for method in WORTH}
    both = tables_of.scores(arena, costs)
    assert both is not None
    assert (both.lacking, both.trained) == ("", "")
    assert {len(axes) for axes in both.values.values()} == {6}
    partly = tables_of.scores(arena, {key: axes for key, axes in costs.items() if key[0] != "soc"})
    assert partly is not None
    assert partly.measured == "", "an axis is never of two sources"


def test_certified_accuracy_falls_with_the_radius_through_the_four_known_values() -> None:
    found = several(1)[:1]
    frames = accuracy.trained(found)
    grid = np.linspace(0, 1, 256)
    curve = training_figures._certified(frames.trainings.iloc[0].to_dict(), frames.quantiles, grid)
    assert (np.diff(curve) <= 0).all()
    assert curve[[0, 36, 72, 108, 255]] == pytest.approx(
        frames.trainings.iloc[0][["accuracy", "cra_36", "cra_72", "cra_108", "cra_255"]].astype(float)
    )


def without_figures(trained: list[TrainingRecord], run: Run | None = None) -> Page:
    """The page of trainings without figures, which take most of the time."""
    with (
        mock.patch.object(training_figures, "learning_curves", return_value=[]),
        mock.patch.object(training_figures, "against_radius", return_value=[]),
        mock.patch.object(training_figures, "against_cost", return_value=[]),
        mock.patch.object(radar, "radars", return_value=[]),
    ):
        return Page(document.document(run or Run(Path("out"), RunPlan(), ()), trained))


def test_texts_of_strangers_are_shown_as_text() -> None:
    hostile = evaluation(0.7, certified={}, margins={}, constant=None, verdict=HOSTILE, reason=HOSTILE)
    foreign = replace(case("soc"), network=replace(case("soc").network, method=f"evil:{HOSTILE}"))
    page = without_figures([
        *several(1), record(foreign, machine=HOSTILE, version=HOSTILE), failed(case("eco"), reason=HOSTILE),
        record(case("standard"), evaluation=hostile),
    ])  # fmt: skip
    assert page.tags.count("script") == 1
    assert page.tags.count("b") == 0
    assert HOSTILE in page.text


def test_draws_alone_and_failures_alone_give_a_page() -> None:
    drawn = [record(case(), evaluation=evaluation(0.5, part="validation"))]
    for found, words in ((drawn, "No training was evaluated on test images"), ([failed(case())], "no method is ranked")):
        page = without_figures(found)
        assert words in page.text
        assert not re.search(r"\bnan\b|None ×|\binf\b", page.text)


def test_numbers_that_are_not_finite_or_missing_are_left_out() -> None:
    odd = replace(record(case("soc"), curve=()), epochs=0.0, seconds=0.0, parameters=0, peak_bytes=None)
    assert not re.search(r"\bnan\b|\binf\b", without_figures([*several(1), odd]).text)


@pytest.fixture(scope="module")
def both() -> str:
    """The page of a profile and trainings in one directory."""
    trained = replace(accuracy.trained(several()), curves=pd.DataFrame(), quantiles=pd.DataFrame())
    with (
        mock.patch.object(html, "_pictures", return_value=NO_PICTURES),
        mock.patch.object(training_figures, "against_cost", return_value=[]),
    ):
        return html.render(tables(quick(), fitted=pd.DataFrame(), trained=trained))


def test_a_profile_and_trainings_share_a_page_and_a_radar_of_six_axes(both: str) -> None:
    page = Page(both)
    assert len(page.ids) == len(set(page.ids))
    order = [name for name in page.ids if name in ("machine", "accuracy", "summary", "radar", "failures")]
    assert order == ["summary", "accuracy", "radar", "failures", "machine"]
    described = re.search(r'id="six-0-desc">([^<]*)', both)
    assert described is not None
    assert len(re.findall(r"\d\.\d", described[1])) == 6
    assert "trained fastest" in page.text
    assert "certified most at 36/255" in page.text


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of a directory with trainings alone."""
    out = tmp_path_factory.mktemp("trained")
    for one in everything():
        place = records.folder_of(out, one.case)
        place.mkdir(parents=True)
        records.write(one, place)
    return lipbench.load(out).report()


def test_trainings_alone_have_their_own_page(alone: Path) -> None:
    source = alone.read_text(encoding="utf-8")
    page = Page(source)
    assert {"summary", "lipschitz", "radar", "failures"}.isdisjoint(page.ids)
    assert {"machine", "accuracy", "warnings", "method", "provenance"} <= set(page.ids)
    assert all(address.startswith("#") or address == "data:," for address in page.addresses)
    assert {address[1:] for address in page.addresses if address.startswith("#")} <= set(page.ids)
    assert len(page.ids) == len(set(page.ids))
    drawings = [drawing for drawing in re.findall(r"<svg viewBox.*?</svg>", source, re.DOTALL) if "<title" in drawing]
    assert len(drawings) == 20
    for drawing in drawings:
        assert not re.search(r"#[0-9a-f]{6}\b", drawing)
        assert "<desc" in drawing
    assert "the loss became NaN at step 40" in page.text
    assert "inference memory; lipbench profile measures it" in page.text


@pytest.fixture
def page(browser: Any, alone: Path) -> Iterator[Any]:
    opened = browser.new_page(viewport={"width": 380, "height": 800})
    opened.trouble = []
    opened.on("console", lambda message: opened.trouble.append(message.text))
    opened.on("pageerror", lambda error: opened.trouble.append(str(error)))
    opened.goto(alone.as_uri())
    yield opened
    opened.close()


def test_the_page_sorts_and_fits_a_narrow_window(page: Any) -> None:
    table = page.locator("#accuracy table >> nth=0")
    titles = table.locator("thead th").all_inner_texts()
    column = 1 + next(place for place, title in enumerate(titles) if title.startswith("Accuracy"))
    table.locator(f"thead th:nth-child({column}) button").click()
    found = table.locator(f"tbody tr td:nth-child({column})").evaluate_all("cells => cells.map(cell => cell.dataset.sort)")
    known = [float(value) for value in found if value]
    assert known == sorted(known)
    assert found[-1] == ""
    page.evaluate("document.querySelectorAll('details').forEach(fold => fold.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 380
    assert page.trouble == []


def test_a_directory_with_a_damaged_run_beside_its_trainings_is_reported(tmp_path: Path) -> None:
    place = records.folder_of(tmp_path, case())
    place.mkdir(parents=True)
    records.write(record(case()), place)
    (tmp_path / "run.json").write_text("{")
    found = lipbench.load(tmp_path)
    assert len(found.trainings) == 1
    assert any("run.json" in problem for problem in found.problems)


def test_scores_of_groups_are_finite_or_missing() -> None:
    scored = tables_of.scores(arena_of(everything()[:21]), {})
    assert scored is not None
    assert all(1 <= score <= 5 for axes in scored.values.values() for score in axes.values() if not math.isnan(score))
