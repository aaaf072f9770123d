"""One colour, marker and dash per series, the same in every figure and table of every report.

Colours are CSS variables, so that figures follow the light, dark and print styles. The hues differ for the common kinds of
colour blindness, and no information is in the hue alone: each method has a marker of its own too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from lipbench_reports.tables import YARDSTICK

LIGHT = (
    "#4a4a4a", "#0068a8", "#c4500c", "#00805e", "#a33a8f", "#94700a", "#5a51b5", "#b3273e", "#4b7d1d", "#2388a5", "#7a5230",
    "#d6247f", "#1f3f94", "#7d7a00", "#00918c", "#6f1ba6", "#b3661a", "#2f5d3a", "#5b6b7a", "#8c1c13", "#c9483f",
)  # fmt: skip
DARK = (
    "#c2c2c2", "#5cb3f0", "#f08a4b", "#3fc79a", "#e38bd3", "#dcb53c", "#a79ff5", "#f5788a", "#a2cf6a", "#74cfe8", "#c9a07a",
    "#ff7ac0", "#8fb0ff", "#d3d65a", "#5fe0d6", "#c58cff", "#e8b26f", "#8fd19e", "#aab8c6", "#ffab9c", "#ff8b83",
)  # fmt: skip
"""The first is the yardstick's. There are more hues than registered methods: external layers take those that are left."""

Marker = str | tuple[int, int, int]
MARKERS: tuple[Marker, ...] = (
    "s", "o", "^", "D", "v", "P", "X", "*", "<", ">", "p", "h", "d",
    (4, 1, 0), (3, 1, 0), "8", (6, 1, 0), (5, 0, 180), (4, 1, 45), (3, 1, 180), (8, 1, 0), (5, 1, 180),
)  # fmt: skip
DASHES = {"paper": (), "lean": (5, 2), "triton": (1.5, 1.5)}
OTHER_DASHES = (5, 2, 1, 2)


@dataclass(frozen=True)
class Look:
    """How one series is drawn."""

    colour: int
    """place in the palettes"""
    marker: Marker
    """of matplotlib; a tuple is a polygon or star: corners, kind and angle in degrees"""
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

    The look of a registered method depends on its place among all registered methods, not on the methods in a run. The other
    methods, such as external layers, share the hues and markers that no registered method has; if there are more methods than
    these, some share a hue or a marker, and never both.
    """
    entries = list(entries)
    known = [YARDSTICK, *(name for name in registered if name != YARDSTICK)]
    others = sorted({method for _, method, _ in entries} - set(known))
    hues, markers = _places(known, others, len(LIGHT)), _places(known, others, len(MARKERS))
    return {
        key: Look(hues[method], MARKERS[markers[method]], DASHES.get(implementation, OTHER_DASHES))
        for key, method, implementation in entries
    }


def _places(known: Sequence[str], others: Sequence[str], count: int) -> dict[str, int]:
    """A place below `count` for each method; those of `known` are not given to `others` as long as any is left."""
    spare = range(len(known), count) or range(1, count)
    return {
        **{name: place if place < count else (place - 1) % (count - 1) + 1 for place, name in enumerate(known)},
        **{name: spare[number % len(spare)] for number, name in enumerate(others)},
    }


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
