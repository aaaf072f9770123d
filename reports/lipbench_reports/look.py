"""One colour, marker and dash per series, the same in every figure and table of every report.

Colours are CSS variables, so that figures follow the light, dark and print styles. The hues differ for the common kinds of
colour blindness, and no information is in the hue alone: each method has a marker of its own too.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from lipbench_reports.tables import YARDSTICK

LIGHT = (
    "#4a4a4a", "#0068a8", "#c4500c", "#00805e", "#a33a8f", "#94700a", "#5a51b5", "#b3273e", "#4b7d1d", "#2388a5", "#7a5230",
)  # fmt: skip
DARK = (
    "#c2c2c2", "#5cb3f0", "#f08a4b", "#3fc79a", "#e38bd3", "#dcb53c", "#a79ff5", "#f5788a", "#a2cf6a", "#74cfe8", "#c9a07a",
)  # fmt: skip
"""The first is the yardstick's; the others repeat if there are more methods than hues."""

MARKERS = ("s", "o", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "d")
DASHES = {"paper": (), "lean": (5, 2), "triton": (1.5, 1.5)}
OTHER_DASHES = (5, 2, 1, 2)


@dataclass(frozen=True)
class Look:
    """How one series is drawn."""

    colour: int
    """place in the palettes"""
    marker: str
    dashes: tuple[float, ...]

    @property
    def css(self) -> str:
        return f"var(--method-{self.colour})"

    @property
    def sentinel(self) -> str:
        """The stand-in colour that matplotlib draws with; the CSS variable replaces it in the finished SVG."""
        return f"#fe01{self.colour:02x}"

    @property
    def outline(self) -> str:
        """The marker as SVG path data, in a box from −5 to 5."""
        return path_data(MarkerStyle(self.marker))


def looks(entries: Iterable[tuple[str, str, str]], registered: Iterable[str]) -> dict[str, Look]:
    """The looks of series, by key; an entry is a key, a method and an implementation.

    A look depends on the method's place among all registered methods, not on the methods in a run.
    """
    entries = list(entries)
    known = [name for name in registered if name != YARDSTICK]
    order = known + sorted({method for _, method, _ in entries} - set(known) - {YARDSTICK})
    places = {YARDSTICK: 0} | {name: place + 1 for place, name in enumerate(order)}
    hues = len(LIGHT) - 1
    result = {}
    for key, method, implementation in entries:
        place = places[method]
        colour = 0 if place == 0 else (place - 1) % hues + 1
        result[key] = Look(colour, MARKERS[place % len(MARKERS)], DASHES.get(implementation, OTHER_DASHES))
    return result


def path_data(marker: MarkerStyle) -> str:
    """A matplotlib marker as SVG path data, 8 units wide, y downwards."""
    path = marker.get_path().transformed(marker.get_transform())
    letters = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}
    parts = []
    for points, code in path.iter_segments():
        if code == Path.CLOSEPOLY:
            parts.append("Z")
            continue
        scaled = [f"{8 * x:.2f} {-8 * y:.2f}" for x, y in zip(points[::2], points[1::2])]
        parts.append(letters[code] + " ".join(scaled))
    return "".join(parts)
