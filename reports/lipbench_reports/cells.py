"""Tables for the template: cells with a text and a raw value to sort by, and a unit for each column."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html.entities import html5
from xml.etree import ElementTree

from markupsafe import Markup

from lipbench_reports.intervals import Estimate

TIMES = (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6))
BYTES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3), ("B", 1.0))
COUNTS = (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1.0))
PLAIN = (("", 1.0),)

CONTENDED, INTERPRETED, PARTIAL, RESIDUAL = "contended", "interpreted", "partial", "residual"
VIOLATION, NO_CLAIM = "violation", "no claim"
MARKS = {
    CONTENDED: ("†", "contended: other processes used the machine, not ranked"),
    INTERPRETED: ("‡", "interpreted: not a timing, not ranked"),
    PARTIAL: ("§", "lacks some of the shapes at which the others are compared: not ranked"),
    RESIDUAL: ("≠", "differs by more than the text above allows"),
    VIOLATION: ("✗", "not 1-Lipschitz: not ranked"),
    NO_CLAIM: ("○", "makes no claim to be 1-Lipschitz: shown for comparison, not ranked"),
}
"""The signs of doubts and their meanings. The text above a table says which difference is a residual."""

WIDEST = 10
"""Factor on each side of a value beyond which the ends of an interval are not printed."""

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_MATH_TAGS = frozenset(
    ("mrow", "mi", "mn", "mo", "msup", "msub", "msubsup", "mfrac", "msqrt", "mroot", "mtext", "mstyle", "mover", "munder")
)


@dataclass(frozen=True)
class Bar:
    """A bar from the baseline to a value, with the value's interval; all are places from 0 to 1 along the cell."""

    base: float
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """One cell: its text, the value to sort by (None: always last), and additions such as a mark."""

    text: str = "–"
    sort: float | str | None = None
    math: Markup | None = None
    """MathML, shown in place of the text"""
    note: str = ""
    """small print after the text, such as an interval"""
    mark: str = ""
    """a doubt about the value, a key of `MARKS`: its sign is shown and explained"""
    series: str | None = None
    """key of the series whose marker is shown before the text"""
    share: float | None = None
    """a bar from 0 to 1"""
    link: str = ""
    """relative address that the text leads to"""
    bar: Bar | None = None


@dataclass(frozen=True)
class Column:
    """One column's head. Numeric columns are right-aligned and sorted as numbers."""

    title: str
    unit: str = ""
    numeric: bool = True
    sortable: bool = True


@dataclass(frozen=True)
class Table:
    """A table: head, rows (the first cell names the row), caption and notes."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str
    notes: Sequence[str] = field(default=())
    continued: frozenset[int] = frozenset()
    """places of rows that belong to the row above: their name is shown once"""

    @property
    def legend(self) -> list[tuple[str, str]]:
        """The signs in the table with their meanings, as text, because phones and paper show no tooltips.

        The sign of a residual is left out: the text above the table explains it.
        """
        marks = {cell.mark for row in self.rows for cell in row} - {RESIDUAL}
        return [entry for mark, entry in MARKS.items() if mark in marks]


def digits(value: float, significant: int = 3) -> str:
    """Three significant digits: 0.123, 1.23, 12.3, 123, 1 234 (thin spaces), no exponent from 0.00001 up; "–" for no number."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    places = max(0, significant - 1 - math.floor(math.log10(abs(value))))
    if abs(value) < 1e-5:  # in a column whose unit fits much larger numbers
        return power_of_ten(value)
    return f"{value:,.{min(places, 7)}f}".replace(",", "\u202f").replace("-", "−")


def power_of_ten(value: float) -> str:
    """One digit and a power: 3·10⁻⁸."""
    digit, exponent = f"{value:.0e}".split("e")
    return f"{digit}\u202f·\u202f10{str(int(exponent)).translate(_SUPERSCRIPTS)}".replace("-", "−")


def scale(values: Iterable[float], units: Sequence[tuple[str, float]]) -> tuple[str, float]:
    """The unit that suits the median of a column best, and its size."""
    sizes = sorted(abs(value) for value in values if math.isfinite(value) and value != 0)
    middle = sizes[len(sizes) // 2] if sizes else units[-1][1]
    return next((unit for unit in units if middle >= unit[1]), units[-1])


def with_unit(value: float, units: Sequence[tuple[str, float]], *, round_number: bool = False) -> str:
    """A single number with its unit: "3.20 ms", or "3.2 ms" where the number is round and not measured."""
    unit, size = scale([value * (1 + 1e-9)], units)  # a rounding error must not give a tick of 0.1 s the next smaller unit
    return f"{value / size:.4g} {unit}".rstrip() if round_number else f"{digits(value / size)} {unit}".rstrip()


def numbers(
    title: str,
    values: Sequence[float],
    units: Sequence[tuple[str, float]] = PLAIN,
    marks: Sequence[str] = (),
    beside: Iterable[float] = (),
) -> tuple[Column, list[Cell]]:
    """A numeric column in one unit, chosen for its own values, or for the values of all columns `beside` it.

    Cells show scaled numbers and sort by the raw values.
    """
    unit, size = scale(list(beside) or values, units)
    cells = [
        Cell(digits(value / size), value if math.isfinite(value) else None, mark=mark if math.isfinite(value) else "")
        for value, mark in zip(values, marks or [""] * len(values))
    ]
    return Column(title, unit), cells


def alike(
    columns: Mapping[str, Sequence[float]], units: Sequence[tuple[str, float]], marks: Sequence[str] = ()
) -> list[tuple[Column, list[Cell]]]:
    """Columns to be compared with each other: all in one unit."""
    every = [value for values in columns.values() for value in values]
    return [numbers(title, values, units, marks, every) for title, values in columns.items()]


def ratio(value: float, mark: str = "") -> Cell:
    """A factor such as "1.92×"."""
    return Cell(f"{digits(value)}×", value, mark=mark) if math.isfinite(value) else Cell()


def estimated(found: Estimate, mark: str = "") -> Cell:
    """A factor with its interval in small print: "1.92×" and "1.90–1.94"."""
    if not math.isfinite(found.value):
        return Cell()
    return Cell(f"{carried(found)}×", found.value, note=interval(found), mark=mark)


def carried(found: Estimate) -> str:
    """The value with no more digits than its interval carries: two for ± 20 %, one beyond a factor of 2."""
    return digits(found.value, significant_digits(found))


def significant_digits(found: Estimate) -> int:
    """From 1 to 3: as many digits as the interval carries; 3 where it is unknown."""
    reach = found.reach
    if not math.isfinite(reach) or reach <= 0:
        return 3
    return min(3, max(1, math.ceil(-math.log10(reach)) + 1))


def interval(found: Estimate, size: float = 1.0) -> str:
    """The interval in units of `size`: "1.90–1.94"; "" where it is unknown, and without a width."""
    if not found.is_known or found.low == found.high:
        return ""
    if found.high > WIDEST**2 * found.low:
        return f"uncertain by over {WIDEST}×"
    places = significant_digits(found)
    low, high = digits(found.low / size, places), digits(found.high / size, places)
    return f"{low}–{high}" if low != high else f"{digits(found.low / size)}–{digits(found.high / size)}"


def named(keys: Sequence[str], labels: Mapping[str, str]) -> tuple[Column, list[Cell]]:
    """The column of methods, sorted as text."""
    return Column("Method", numeric=False), [Cell(labels[key], labels[key], series=key) for key in keys]


def placed(shapes: Sequence[str], title: str = "Case") -> tuple[Column, list[Cell]]:
    """The column of shapes, sorted by their places."""
    return Column(title, numeric=False), [Cell(shape, float(place)) for place, shape in enumerate(shapes)]


def heads(cases: Sequence[tuple[str, str]], labels: Mapping[str, str]) -> list[tuple[Column, Sequence[Cell]]]:
    """The columns that name the rows: the method, and the case where rows differ in it."""
    shapes = [shape for _, shape in cases]
    return [named([key for key, _ in cases], labels), *([placed(shapes)] if len(set(shapes)) > 1 else [])]


def table(caption: str, columns: Sequence[tuple[Column, Sequence[Cell]]], notes: Sequence[str] = ()) -> Table:
    """A table from its columns."""
    return Table([head for head, _ in columns], list(zip(*(cells for _, cells in columns))), caption, notes)


def mathml(*formulas: object) -> Markup | None:
    """MathML of a sum of formulas, as presentation elements without attributes; None if none can be read.

    Formulas come from outside this package, so they are parsed, and only known MathML elements are kept.
    """
    terms = [term for term in (_presentation(formula) for formula in formulas) if term]
    if len(terms) > 1:  # a half that costs nothing is left out of the sum
        terms = [term for term in terms if term != "<mn>0</mn>"] or terms[:1]
    return Markup(f"<math><mrow>{'<mo>+</mo>'.join(terms)}</mrow></math>") if terms else None


def _presentation(formula: object) -> str:
    if not isinstance(formula, str) or not formula.strip():
        return ""
    # sympy writes HTML entities, which XML does not define.
    text = re.sub(r"&(\w+);", lambda m: m[0] if m[1] in ("lt", "gt", "amp", "quot") else html5.get(f"{m[1]};", ""), formula)
    try:
        root = ElementTree.fromstring(f"<root>{text}</root>")
    except ElementTree.ParseError:
        return f"<mtext>{html.escape(formula)}</mtext>"
    children = list(root)
    if len(children) == 1 and children[0].tag.endswith("math"):
        children = list(children[0])
    return "".join(_rebuilt(child) for child in children)


def _rebuilt(element: ElementTree.Element) -> str:
    tag = element.tag.rpartition("}")[2]
    inside = html.escape((element.text or "").strip()) + "".join(_rebuilt(child) for child in element)
    return f"<{tag}>{inside}</{tag}>" if tag in _MATH_TAGS else f"<mtext>{inside}</mtext>"
