"""Matplotlib figures as inline SVG with the page's fonts and colours, unique identifiers and no metadata."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import seaborn as sns
from markupsafe import Markup, escape
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, PAPER = "#fd0001", "#fd0002", "#fd0003"
"""Stand-ins for the colours of text, grid lines and background; the page's colours replace them."""

_OF = "of:"
"""begins the identifier of a group that belongs to a series"""
_PAGE = {INK: "currentColor", FAINT: "var(--grid)", PAPER: "var(--paper)"}


@contextmanager
def page_style(identity: str) -> Iterator[None]:
    """Set up matplotlib for one figure: text stays text, and identifiers do not vary from run to run."""
    ours: dict[Any, Any] = {
        "svg.fonttype": "none", "svg.hashsalt": identity, "text.parse_math": False,
        "font.size": 11, "axes.linewidth": 0.7, "grid.linewidth": 0.6,
        "xtick.labelsize": 10.5, "ytick.labelsize": 10.5, "axes.edgecolor": INK, "axes.labelcolor": INK, "text.color": INK,
        "xtick.color": INK, "ytick.color": INK, "grid.color": FAINT, "axes.facecolor": "none", "figure.facecolor": "none",
        "font.family": "sans-serif", "font.sans-serif": ["DejaVu Sans"], "xtick.minor.bottom": False, "ytick.minor.left": False,
    }  # fmt: skip
    with mpl.rc_context({**sns.axes_style("ticks"), **ours}):
        yield


@dataclass(frozen=True)
class Point:
    """A point of a figure whose value the page shows."""

    series: str
    x: float
    """from the left of the figure, in units of its view box"""
    y: float
    """from its top"""
    text: str


def belongs(series: str, *artists: Artist) -> None:
    """Mark what is drawn for a series, so that the legend of the page can hide it."""
    for artist in artists:
        artist.set_gid(_OF + series)


def point(axes: Axes, series: str, x: float, y: float, text: str) -> Point:
    """A point in data coordinates. The limits of the axes must not change after this."""
    figure = axes.get_figure()
    assert figure is not None, "axes are always made by a figure here"
    across, up = axes.transData.transform((x, y))
    return Point(series, float(across), float(figure.bbox.height - up), text)


def inline(
    figure: Figure, identity: str, title: str, description: str, colours: Mapping[str, str], points: Sequence[Point] = ()
) -> Markup:
    """The figure as an `<svg>` element for HTML.

    `colours` maps stand-in colours to CSS. Every identifier in use gets the prefix `identity`; the others are dropped. A group
    that belongs to a series has its key in `data-series`. Each of the `points` is an invisible circle with its text as title,
    which browsers show on hovering, and which the script of the page shows better.
    """
    buffer = io.StringIO()
    # Without these, matplotlib writes an RDF block with addresses and the time of day.
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text).replace("xlink:href", "href")
    text = re.sub(rf' id="{_OF}([^"]+)"', r' data-series="\1"', text)
    used = set(re.findall(r'href="#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{identity}-{m[1]}"' if m[1] in used else "", text)
    text = re.sub(r'href="#', f'href="#{identity}-', text)
    text = re.sub(r"url\(#", f"url(#{identity}-", text)
    # Fonts are removed, so that the text has the page's font.
    # matplotlib writes them as shorthand or as longhand, depending on its version.
    text = re.sub(r"font: (?:[\w-]+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)
    for stand_in, css in {**_PAGE, **colours}.items():
        text = text.replace(stand_in, css)
    # Coordinates are cut to a hundredth of a pixel; text between the tags keeps its digits.
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d{2})\d+", r"\1", tag[0]), text)
    text = re.sub(r">\s+<", "><", text)
    text = text.replace("</svg>", f"{''.join(map(_circle, points))}</svg>")
    return Markup(_with_head(text, identity, title, description))


def _circle(one: Point) -> str:
    place = f'cx="{one.x:.1f}" cy="{one.y:.1f}" r="7"'
    return f'<circle class="point" data-series="{escape(one.series)}" {place}><title>{escape(one.text)}</title></circle>'


def _with_head(text: str, identity: str, title: str, description: str) -> str:
    view_box = re.search(r'viewBox="([^"]+)"', text)
    assert view_box is not None, "matplotlib always writes a view box"
    width = view_box[1].split()[2]
    head = (
        f'<svg viewBox="{view_box[1]}" width="{width}" role="img" aria-labelledby="{identity}-title" '
        f'aria-describedby="{identity}-desc">'
        f'<title id="{identity}-title">{escape(title)}</title><desc id="{identity}-desc">{escape(description)}</desc>'
    )
    return re.sub(r"^<svg[^>]*>", lambda _: head, text, count=1)
