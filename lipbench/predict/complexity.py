"""What a layer costs, as formulas found by counting: a row in the form of Table 1 for any `nn.Module`.

A training forward pass on fake tensors is counted at a few sizes: real MACs, and real elements kept for the backward pass.
Nothing is computed and nothing is timed. The slope in the batch size is the input half, the intercept the parameter half; each
is fitted as the sum of monomials that it is.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import pandas as pd

from lipbench import errors, external, registry
from lipbench.cases import LayerSpec
from lipbench.errors import LipbenchError
from lipbench.predict.counting import DEFAULTS, OPTIONS, QUANTITIES, Counter, Plan, plan
from lipbench.predict.fitting import Factor, Sizes, Sum, fit, power_law
from lipbench.predict.notation import mathml, text

HALVES = ("input", "parameters")
LONGEST = 6
"""terms in s and k, above which a sum in n = s + k − 1 is looked for"""
THIRDS = (12, 24, 48, 96, 192)
"""image sizes where nothing was found at powers of two: some layers divide an image by 3"""
ROUNDING = 4
"""by which a half of a count may be off: logarithms make it a fraction, which the meter rounds once per pass"""
BATCH = Factor("b", 1)
LEGEND = (
    "C = b s² c² k², M = b s² c, P = c² k²; batch b, channels c, image s × s, kernel k × k, iterations t, n = s + k − 1.",
    "Real MACs (a complex one is 4; products with padding count) and real elements kept for the backward pass (a complex one",
    "is 2) of one training forward pass; by default at even s and c. residual: largest relative error at sizes not fitted.",
)


@dataclass(frozen=True)
class Fitted:
    """One half of one quantity of a layer."""

    method: str
    title: str
    half: str
    quantity: str
    sum: Sum
    at_kernel_1: Sum | None
    """for 1 × 1 kernels, where `sum` holds for larger ones only"""
    residual: float
    """largest relative error at sizes that the fit has not seen; NaN where there were none"""
    points: int
    """how many those were"""
    notes: tuple[str, ...]

    @property
    def note(self) -> str:
        return "; ".join(self.notes)

    @property
    def text(self) -> str:
        return text(self.sum)

    @property
    def leading(self) -> str:
        return text(self.sum.leading)


# ------------------------------------------------------------------------------------------------------------- the fits


class _Half:
    """One half of one quantity as a function of the sizes; remembers where it was looked at."""

    def __init__(self, counter: Counter, plan: Plan, half: str, quantity: str) -> None:
        self.half, self.quantity, self.plan = half, quantity, plan
        self._counter = counter
        self._seen: set[tuple[tuple[str, int], ...]] = set()

    def __call__(self, sizes: Sizes) -> Fraction | None:
        self._seen.add(tuple(sorted(sizes.items())))
        return self._between(self.plan.batch_sizes[0], self.plan.batch_sizes[1], sizes)

    def _between(self, small: int, large: int, sizes: Sizes) -> Fraction | None:
        """The slope between two batch sizes, or the intercept of the line through them."""
        ends = self._counter.totals(small, **sizes), self._counter.totals(large, **sizes)
        if ends[0] is None or ends[1] is None:
            return None
        index = QUANTITIES.index(self.quantity)
        slope = Fraction(ends[1][index] - ends[0][index], large - small)
        return slope if self.half == "input" else ends[0][index] - slope * small

    def is_line(self) -> bool:
        """Whether slope and intercept are the same between all batch sizes of the grid, as far as rounding lets one see."""
        first, *others = self.plan.batch_sizes
        sizes = {symbol: values[-1] if symbol in "sk" else values[0] for symbol, values in self.plan.axes.items()}
        found = [value for other in others if (value := self._between(first, other, sizes)) is not None]
        return not found or max(found) - min(found) <= (ROUNDING if self.quantity == "macs" else 0)

    def held_out(self, stride: int) -> Iterator[tuple[Sizes, Fraction]]:
        """Values at probes that no fit has asked for, through other batch sizes where there are some.

        Images of the probes are enlarged by `stride`.
        """
        for probe in self.plan.probes:
            sizes = {symbol: value for symbol, value in probe.items() if symbol != "b"} | {"s": stride * probe["s"]}
            if tuple(sorted(sizes.items())) in self._seen:
                continue
            others = [b for b in self.plan.batch_sizes if b != probe["b"]]
            value = self._between(others[0], probe["b"], sizes)
            if value is not None:
                yield sizes, value

    def fitted(self, axes: Mapping[str, Sequence[int]]) -> Sum | None:
        """In s; where that is long or impossible, in n, if that is shorter."""
        for slack in (0, ROUNDING) if self.quantity == "macs" else (0,):
            plain = fit(self, axes, slack)
            if plain is not None and (len(plain.terms) <= LONGEST or not any(term.exponents.get("s") for term in plain.terms)):
                return plain
            padded = fit(self, {"n": axes["s"], **{symbol: axes[symbol] for symbol in axes if symbol != "s"}}, slack)
            found = [one for one in (plain, padded) if one is not None]
            if found:
                return min(found, key=lambda one: len(one.terms))
        return None


@dataclass(frozen=True)
class _Found:
    """What was fitted to one half, per image where that is the input half."""

    whole: Sum
    at_kernel_1: Sum | None = None
    note: str = ""
    stride: int = 1
    """it holds for image sizes that are multiples of this"""


def _fit_half(half: _Half) -> _Found:
    """A sum for all kernels, or else one for k > 1 and one for k = 1; on all images, or else where 3 divides their size."""
    axes = half.plan.axes
    found = _fit_kernels(half, axes)
    if found is not None:
        return found
    if axes["s"] == DEFAULTS["s"]:  # nobody asked for these sizes
        found = _fit_kernels(half, {**axes, "s": THIRDS})
        if found is not None:
            return replace(found, note="; ".join(filter(None, ("where 3 divides s", found.note))), stride=3)
    cure = "image sizes of one parity" if len({size % 2 for size in axes["s"]}) > 1 else "more sizes"
    return _Found(power_law(half, axes), note=f"no exact sum was found, this is the nearest monomial; {cure} may show one")


def _fit_kernels(half: _Half, axes: Mapping[str, tuple[int, ...]]) -> _Found | None:
    whole = half.fitted(axes)
    if whole is not None:
        return _Found(whole)
    larger = tuple(k for k in axes["k"] if k > 1)
    if not larger or len(larger) == len(axes["k"]):
        return None
    above, one = half.fitted({**axes, "k": larger}), half.fitted({**axes, "k": (1,)})
    if above is None or one is None:
        return None
    return _Found(above, one, f"k > 1; at k = 1: {text(one.times(BATCH) if half.half == 'input' else one)}")


def _residual(half: _Half, found: _Found, rounded: bool) -> tuple[float, int]:
    """Largest relative error at the probes that were held out, and how many there were."""
    allowed = ROUNDING if rounded and half.quantity == "macs" else 0
    seen = []
    for sizes, value in half.held_out(found.stride):
        fitted = found.at_kernel_1 if found.at_kernel_1 is not None and sizes["k"] == 1 else found.whole
        error = abs(fitted.at(**sizes) - value)
        seen.append(float(error / max(abs(value), Fraction(1))) if error > allowed else 0.0)
    return (max(seen), len(seen)) if seen else (math.nan, 0)


@functools.lru_cache(maxsize=64)
def fit_layer(method: str, given: tuple[tuple[str, tuple[int, ...]], ...] = ()) -> tuple[Fitted, ...]:
    """The four formulas of a layer: MACs and memory of its input and its parameter half.

    `method` is a name of the registry or external; `given` are values for b, s, c, k in place of `DEFAULTS`.
    Where a sum in n is looked for, other image sizes than those given are used too. Raises `LipbenchError` for a layer that
    cannot run on fake tensors, and where it takes too few of the sizes.
    """
    title = registry.title(method)
    registry.check_name(method)
    for k in dict(given).get("k", ()):
        LayerSpec(method, channels=1, image_size=1, kernel_size=k)  # raises for an even one, which no layer can be asked for
    counter = Counter(method)
    chosen = plan(counter, dict(given))
    halves = [_Half(counter, chosen, half, quantity) for half, quantity in itertools.product(HALVES, QUANTITIES)]
    fits = [_fit_half(half) for half in halves]
    rounded = any(term.logs for found in fits for term in found.whole.terms)
    return tuple(_fitted(counter, title, half, found, rounded) for half, found in zip(halves, fits))


def _fitted(counter: Counter, title: str, half: _Half, found: _Found, rounded: bool) -> Fitted:
    residual, points = _residual(half, found, rounded)
    notes = [found.note, *_notes(counter, half), "" if points else "no size was left to try the fit at"]
    whole, at_kernel_1 = found.whole, found.at_kernel_1
    if half.half == "input":
        whole, at_kernel_1 = whole.times(BATCH), None if at_kernel_1 is None else at_kernel_1.times(BATCH)
    spoken = tuple(note for note in notes if note)
    return Fitted(counter.method, title, half.half, half.quantity, whole, at_kernel_1, residual, points, spoken)


def _notes(counter: Counter, half: _Half) -> Iterator[str]:
    if counter.uncounted and half.quantity == "macs":
        yield f"not counted: {', '.join(sorted(counter.uncounted))}"
    if not half.is_line():
        yield "not linear in the batch size, so that the halves hold between the two smallest batches only"
    constant = [f"{symbol} = {values[0]}" for symbol, values in half.plan.axes.items() if len(values) == 1]
    if constant:
        yield f"at {', '.join(constant)} only"
    yield from half.plan.left_out


# ---------------------------------------------------------------------------------------------------------------- tables

COLUMNS = ["method", "title", "half", "quantity", "fitted", "fitted_mathml", "residual", "note"]
Row = tuple[str, str, str, str, str, str, float, str]


def fitted_table(methods: Sequence[str]) -> pd.DataFrame:
    """One row per method, half and quantity; of a layer that cannot be counted, rows with no formula and the reason as note."""
    rows = [row for method in methods for row in table_rows(method)]
    return pd.DataFrame(rows, columns=COLUMNS)


def table_rows(method: str) -> list[Row]:
    """In `COLUMNS`, counted now."""
    try:
        return fitted_rows(fit_layer(method))
    except LipbenchError as error:
        return unknown_rows(method, str(error))


def fitted_rows(found: Sequence[Fitted]) -> list[Row]:
    """In `COLUMNS`."""
    return [(one.method, one.title, one.half, one.quantity, one.text, mathml(one.sum), one.residual, one.note)
            for one in found]  # fmt: skip


def unknown_rows(method: str, why: str) -> list[Row]:
    """In `COLUMNS`, without formulas."""
    title = external.title(method)
    return [(method, title, half, quantity, "", "", math.nan, why) for half, quantity in itertools.product(HALVES, QUANTITIES)]


def given(sizes: Mapping[str, Sequence[int] | None]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    """The sizes that were asked for, as `fit_layer` takes them. Raises `LipbenchError` for one below 1."""
    chosen = tuple((symbol, tuple(sorted(values))) for symbol, values in sizes.items() if values)
    for symbol, values in chosen:
        if values[0] < 1:
            raise errors.not_positive(OPTIONS[symbol], values[0])
    return chosen


def as_table(rows: Sequence[Fitted]) -> pd.DataFrame:
    """For a terminal."""
    found = [(one.title, one.half, one.quantity, one.leading, one.text, _percent(one.residual)) for one in rows]
    return pd.DataFrame(found, columns=["layer", "half", "quantity", "leading", "counted", "residual"])


def _percent(residual: float) -> str:
    if math.isnan(residual):
        return "?"
    return "0" if residual == 0 else "< 0.1 %" if residual < 1e-3 else f"{100 * residual:.1f} %"


def remarks(rows: Sequence[Fitted]) -> list[str]:
    """What is to be said of rows, one line each; what holds for several rows of a layer once."""
    found: dict[tuple[str, str], list[str]] = {}
    for one in rows:
        for note in one.notes:
            found.setdefault((one.title, note), []).append(f"{one.half} {one.quantity}")
    return [f"{title}, {', '.join(where)}: {note}" if len(where) < len(HALVES) * len(QUANTITIES) else f"{title}: {note}"
            for (title, note), where in found.items()]  # fmt: skip


def as_json(rows: Sequence[Fitted]) -> list[dict[str, object]]:
    """Plain data: every row with its terms; a residual that nothing could tell is None."""
    return [
        {
            "method": one.method, "title": one.title, "half": one.half, "quantity": one.quantity,
            "text": one.text, "leading": one.leading, "terms": _plain_terms(one.sum),
            "terms_at_kernel_1": None if one.at_kernel_1 is None else _plain_terms(one.at_kernel_1),
            "residual": None if math.isnan(one.residual) else one.residual, "points": one.points, "note": one.note,
        }
        for one in rows
    ]  # fmt: skip


def _plain_terms(found: Sum) -> list[dict[str, object]]:
    symbols = "bsckt" + ("n" if found.is_padded else "")
    return [
        {
            "coefficient": float(term.coefficient), "fraction": str(term.coefficient),
            "exponents": {symbol: term.exponents.get(symbol, 0) for symbol in symbols}, "log": list(term.logs),
        }
        for term in found.terms
    ]  # fmt: skip
