"""Radars of scores, as in Figure 1 of the paper: one per series, and one with all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lipbench_reports.figures import POINT
from lipbench_reports.look import Look
from lipbench_reports.svg import FAINT, belongs, inline, page_style, point

WIDTH, HEIGHT, RADIUS = 232, 176, 58


def radars(
    scores: Mapping[str, Mapping[str, float]], labels: Mapping[str, str], looks: Mapping[str, Look], prefix: str = "radar"
) -> list[tuple[str, Markup]]:
    """Pairs of a series' key and its radar, for series with a score on every axis; [] with fewer than three axes.

    Identifiers in the page begin with `prefix`.
    """
    complete = _complete(scores)
    return [(key, _radar(f"{prefix}-{place}", {key: own}, labels, looks)) for place, (key, own) in enumerate(complete.items())]


def overlay(scores: Mapping[str, Mapping[str, float]], labels: Mapping[str, str], looks: Mapping[str, Look]) -> Markup | None:
    """One radar with all series that have a score on every axis; None where there are fewer than two."""
    complete = _complete(scores)
    return _radar("radar-all", complete, labels, looks) if len(complete) > 1 else None


def _complete(scores: Mapping[str, Mapping[str, float]]) -> dict[str, Mapping[str, float]]:
    """The series with a score on every axis; none with fewer than three axes."""
    return {key: axes for key, axes in scores.items() if len(axes) > 2 and all(map(math.isfinite, axes.values()))}


def _radar(
    identity: str, shown: Mapping[str, Mapping[str, float]], labels: Mapping[str, str], looks: Mapping[str, Look]
) -> Markup:
    """A radar of one series, filled and with its scores beside the axes, or of several."""
    first = next(iter(shown.values()))
    alone = len(shown) == 1
    centre = (WIDTH / 2, HEIGHT / 2)
    angles = [math.pi / 2 - 2 * math.pi * place / len(first) for place in range(len(first))]

    def ring(values: Sequence[float]) -> tuple[list[float], list[float]]:
        points = [(value / 5 * RADIUS, angle) for value, angle in zip(values, angles)]
        points.append(points[0])
        return [centre[0] + r * math.cos(a) for r, a in points], [centre[1] + r * math.sin(a) for r, a in points]

    with page_style(identity):
        figure = Figure(figsize=(WIDTH * POINT, HEIGHT * POINT), dpi=72)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, WIDTH), ylim=(0, HEIGHT))
        axes.set_axis_off()
        for level in range(1, 6):
            axes.plot(*ring([level] * len(first)), color=FAINT, linewidth=0.7)
        for angle, (name, score) in zip(angles, first.items()):
            _spoke(axes, centre, angle, f"{name} {score:.1f}" if alone else name)
        told = []
        for key, own in shown.items():
            look, corners = looks[key], ring(list(own.values()))
            if alone:
                belongs(key, *axes.fill(*corners, color=look.sentinel, alpha=0.22, linewidth=0))
            belongs(key, *axes.plot(
                *corners, color=look.sentinel, linewidth=1.5 if alone else 1.2, dashes=look.dashes or (None, None),
                marker=look.marker, markersize=4.5,
            ))  # fmt: skip
            told += [point(axes, key, x, y, f"{labels[key]}: {name} {score:.1f}")
                     for x, y, (name, score) in zip(*corners, own.items())]  # fmt: skip
        lines = [f"{labels[key]}: {', '.join(f'{name} {score:.1f}' for name, score in own.items())}"
                 for key, own in shown.items()]  # fmt: skip
        title = labels[next(iter(shown))] if alone else "Scores of all ranked methods"
        description = f"Scores of {'; '.join(lines)}."
        return inline(figure, identity, title, description, {looks[key].sentinel: looks[key].css for key in shown}, told)


def _spoke(axes: Axes, centre: tuple[float, float], angle: float, words: str) -> None:
    """One axis of a radar with its name, which stands in two lines beside the radar, and in one above and below it."""
    x, y = math.cos(angle), math.sin(angle)
    end = (centre[0] + RADIUS * x, centre[1] + RADIUS * y)
    axes.plot([centre[0], end[0]], [centre[1], end[1]], color=FAINT, linewidth=0.7)
    align = "center" if abs(x) < 0.3 else ("left" if x > 0 else "right")
    axes.text(
        end[0] + 5 * x,
        end[1] + 9 * y,
        words if align == "center" else words.replace(" ", "\n"),
        fontsize=9.5,
        ha=align,
        va="top" if y < -0.5 and align != "center" else "center",
    )
