"""Formulas found by counting, compared with Table 1 and with the exact formulas, and for external layers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from xml.etree import ElementTree

import pytest

from lipbench import registry, theory
from lipbench.cli.main import main
from lipbench.notation import sum_text
from lipbench.prediction import complexity, fitting
from lipbench.prediction.complexity import Fitted

SMALLER: dict[str, dict[str, tuple[int, ...]]] = {
    "soc": {"s": (16, 32), "c": (4, 8, 16, 32), "k": (1, 3, 5, 7), "b": (2, 3)},
    "bcop": {"s": (16, 32), "c": (4, 8, 16, 32), "k": (1, 3), "b": (2, 3)},
    "eco": {"s": (18, 36, 54), "c": (16, 32, 64, 128), "k": (1, 3), "b": (2, 3)},
    "lot": {"s": (16, 32, 64, 128), "c": (8, 16, 32), "k": (1, 3, 5), "b": (2, 3)},
    "sandwich": {"s": (16, 32, 64, 128), "c": (4, 8, 16, 32), "k": (1, 3), "b": (2, 3)},
}
"""enough sizes for methods that take long to count"""
EXTERNAL = "external_layers:"


def fitted(method: str, **given: tuple[int, ...]) -> dict[tuple[str, str], Fitted]:
    """The four rows of a layer by half and quantity."""
    rows = complexity.fit_layer(method, complexity.given({**SMALLER.get(method, {}), **given}))
    return {(row.half, row.quantity): row for row in rows}


def texts(method: str, **given: tuple[int, ...]) -> list[str]:
    """Input MACs and memory, parameter MACs and memory."""
    return [row.text for row in fitted(method, **given).values()]


# ------------------------------------------------------------------------------------------------------------- arithmetic


def observe(count: Callable[..., float]) -> Callable[[fitting.Sizes], Fraction]:
    return lambda sizes: Fraction(count(**sizes))


AXES = {"s": (16, 32, 64, 128), "c": (8, 16, 32, 64), "k": (1, 3, 5, 7, 9)}


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (lambda s, c, k: 0, "0"),
        (lambda s, c, k: 7, "7.00"),
        (lambda s, c, k: 3 * c**2 * k**2, "3.00 P"),
        (lambda s, c, k: c**3 * k**2 * (2 * k - 1) ** 2, "4.00 c³ k⁴ − 4.00 c³ k³ + 1.00 c³ k²"),
        (lambda s, c, k: s * (s // 2 + 1) * c, "0.50 s² c + 1.00 s c"),
        (lambda s, c, k: 5 * s**2 * math.log2(s) * c // 2, "2.50 s² c log₂ s"),
        (lambda s, c, k: c * math.log2(c) + s, "1.00 c log₂ c + 1.00 s"),
        (lambda s, c, k: -2 * c + k, "−2.00 c + 1.00 k"),
        (lambda s, c, k: k * (k + 1) * (2 * k + 1) // 6, "0.33 k³ + 0.50 k² + 0.17 k"),
    ],
)
def test_a_sum_is_found_as_it_is(count: Callable[..., float], expected: str) -> None:
    found = fitting.fit(observe(count), AXES)
    assert found is not None
    assert {*sum_text(found).split(" + ")} == {*expected.split(" + ")}


@pytest.mark.parametrize(
    "count",
    [
        lambda s, c, k: c**7,
        lambda s, c, k: math.isqrt(c) * k,
        lambda s, c, k: c**2 + (s == 16),
        lambda s, c, k: round(1.2345 * s**2),
    ],
)
def test_what_is_no_such_sum_is_not_taken_for_one(count: Callable[..., float]) -> None:
    assert fitting.fit(observe(count), AXES) is None


def test_rounded_counts_of_logarithms_are_seen_through() -> None:
    axes = {**AXES, "s": (20, 24, 28, 36, 44)}
    count = observe(lambda s, c, k: round(2.5 * s**2 * c * math.log2(s) + 4 * s * c**2))
    assert fitting.fit(count, axes) is None
    found = fitting.fit(count, axes, slack=2)
    assert found is not None
    assert sum_text(found) in ("2.50 s² c log₂ s + 4.00 s c²", "4.00 s c² + 2.50 s² c log₂ s")


def test_two_values_of_an_axis_carry_one_power_and_no_more() -> None:
    axes = {"s": (16,), "c": (8, 16), "k": (3,)}
    found = fitting.fit(observe(lambda s, c, k: 5 * c**3), axes)
    assert found is not None
    assert sum_text(found) == "5.00 c³"
    assert fitting.fit(observe(lambda s, c, k: c**3 + c), axes) is None


# ----------------------------------------------------------------------------------------------------------- built-in ones


@pytest.mark.parametrize(
    ("method", "macs", "memory"),
    [("standard", "1.00 C", "1.00 M"), ("cpl", "2.00 C", "3.00 M"), ("sll", "2.00 C", "3.00 M"), ("soc", "5.00 C", "5.00 M")],
)
def test_input_halves_are_those_of_table_1(method: str, macs: str, memory: str) -> None:
    rows = fitted(method)
    assert rows["input", "macs"].text == macs
    assert rows["input", "memory"].leading == memory


def test_circular_padding_is_spelt_out() -> None:
    padded = "1.00 M + 2.00 b s c k − 2.00 b s c + 1.00 b c k² − 2.00 b c k + 1.00 b c"
    assert texts("standard") == ["1.00 C", padded, "0", "1.00 P"]


def test_aol_grows_with_the_cube_of_the_channels() -> None:
    row = fitted("aol")["parameters", "macs"]
    assert row.text == "4.00 c³ k⁴ − 4.00 c³ k³ + 1.00 c³ k²"
    assert row.leading == "4.00 c³ k⁴"
    assert [term.powers for term in theory.monomials(row.sum)] == [{"c": 3, "k": 4}, {"c": 3, "k": 3}, {"c": 3, "k": 2}]


def test_lot_grows_with_its_iterations() -> None:
    rows = fitted("lot")
    assert rows["parameters", "macs"].leading == "6.00 s² c³ t"
    assert rows["parameters", "memory"].leading == "3.00 s² c² t"
    assert rows["input", "macs"].leading == "2.00 b s² c²"
    assert "2.50 n² c² log₂ n" in rows["parameters", "macs"].text


UNSEEN = ({"b": 7, "s": 30, "c": 10, "k": 3}, {"b": 5, "s": 18, "c": 6, "k": 1}, {"b": 3, "s": 42, "c": 26, "k": 5})


@pytest.mark.parametrize("method", sorted(registry.METHODS))
def test_what_is_found_equals_the_exact_formulas(method: str) -> None:
    entry, compared = registry.METHODS[method], 0
    for (half, quantity), row in fitted(method).items():
        exact = getattr(getattr(entry.implementations["paper"].exact, half), quantity)
        for sizes in UNSEEN:
            if sizes["k"] > max(SMALLER.get(method, {}).get("k", (math.inf,))):
                continue  # growth with the kernel was not counted, to save time
            found = row.at_kernel_1 if row.at_kernel_1 is not None and sizes["k"] == 1 else row.sum
            expected = theory.evaluate(exact, **sizes, **entry.iterations)
            value = theory.evaluate(found, **sizes, **entry.iterations)
            # ECO's logarithm is that of its 3 × 3 frequencies, a constant that counting finds only to rounding.
            assert value == (pytest.approx(expected, rel=1e-5) if method == "eco" else expected), (half, quantity, sizes)
            compared += 1
    assert compared >= 8


@pytest.mark.parametrize("method", sorted(set(registry.METHODS) - {"eco"}))
def test_nothing_is_left_unexplained(method: str) -> None:
    for row in fitted(method).values():
        assert row.residual == 0
        assert row.points >= 1
        assert "nearest" not in row.note


def test_bcop_is_another_sum_for_1x1_kernels() -> None:
    row = fitted("bcop")["parameters", "macs"]
    assert row.at_kernel_1 is not None
    assert sum_text(row.at_kernel_1) == "2.00 c³ t + 21.00 c² + 1.00 c"
    assert row.note.startswith("k > 1; at k = 1: 2.00 c³ t")


# -------------------------------------------------------------------------------------------------- layers never seen before


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("Grouped", ["0.25 C", "1.00 M", "0", "0.25 P"]),
        ("Depthwise", ["1.00 b s² c k²", "1.00 M", "0", "1.00 c k²"]),
        ("Elementwise", ["0", "1.00 M", "0", "0"]),
        ("Iterated", ["0", "1.00 M", "1.00 c³ t", "1.00 c² t + 1.00"]),
        ("Fourier", ["5.00 b s² c log₂ s", "2.00 M + 2.00 b s c", "0", "0.50 s² c + 1.00 s c"]),
        ("Pointwise", ["1.00 b s² c²", "1.00 M", "0", "1.00 c²"]),
    ],
)
def test_external_layers(layer: str, expected: list[str]) -> None:
    rows = fitted(EXTERNAL + layer)
    assert [row.text for row in rows.values()] == expected
    assert all(row.residual == 0 and row.title == layer for row in rows.values())


def test_an_operation_without_formula_is_named() -> None:
    rows = fitted(EXTERNAL + "Exponential")
    assert rows["parameters", "macs"].note == "not counted: aten.linalg_matrix_exp"
    assert rows["parameters", "macs"].text == rows["parameters", "macs"].leading + " (aten.linalg_matrix_exp)"
    assert [row.note for place, row in rows.items() if place != ("parameters", "macs")] == [""] * 3


FEW = {"s": (8, 16), "c": (4, 8, 16), "k": (1, 3), "b": (2, 4)}


@pytest.mark.parametrize(
    ("layer", "place", "text"),
    [
        ("CustomOperator", ("input", "macs"), "? (lipbench_counted.pointwise)"),
        ("SingularValues", ("parameters", "macs"), "? (aten._linalg_svd)"),
        ("HiddenInHook", ("input", "memory"), "1.00 M + ? (tensors kept outside autograd)"),
        ("HiddenInContext", ("input", "memory"), "1.00 M"),
        ("Pointwise", ("parameters", "macs"), "0"),
    ],
)
def test_what_is_not_counted_stands_in_the_row_that_it_spoils(layer: str, place: tuple[str, str], text: str) -> None:
    rows = fitted(f"counted_layers:{layer}", **FEW)
    assert rows[place].text == text
    others = [row for other, row in rows.items() if other[1] != place[1] or (other != place and place[1] == "macs")]
    assert not any(row.uncounted for row in others)
    assert rows[place].mathml == "" or "?" not in text


def test_refused_sizes_are_left_out_and_said() -> None:
    note = fitted(EXTERNAL + "Pointwise")["input", "macs"].note
    assert "at k = 1 only" in note
    assert "without channels 8 (ValueError: only for multiples of 16 channels (external_layers.py:" in note
    assert "without kernel size 3, 5, 7, 9, 11 (ValueError: only for 1 × 1 kernels (external_layers.py:" in note


def test_an_axis_of_one_value_is_a_constant() -> None:
    assert texts(EXTERNAL + "OneImage", s=(8,)) == ["4096.00 b c²", "64.00 b c", "0", "4096.00 c²"]


def test_a_batch_that_enters_squared_is_said() -> None:
    row = fitted(EXTERNAL + "Pairs")["input", "macs"]
    assert "not linear in the batch size" in row.note
    assert row.residual > 0.1
    assert fitted(EXTERNAL + "Pairs")["input", "memory"].note == ""


def test_what_was_not_explained_is_said() -> None:
    rows = fitted(EXTERNAL + "Odd", s=(16, 32), k=(3,))
    assert rows["parameters", "macs"].residual > 0.1
    assert rows["input", "memory"].text == "1.00 M"
    row = rows["parameters", "macs"]
    assert (row.sum, row.leading) == (None, "no formula found")
    assert row.text == "no formula found: 8 at b = 2, s = 16, c = 8, k = 3; 8 at s = 32; 64 at c = 16"
    assert row.counts[0] == {"b": 2, "s": 16, "c": 8, "k": 3, "count": 8}
    assert "is off by 940 %" in row.note
    assert complexity.read(json.loads(json.dumps(complexity.write(row)))) == row


def test_without_a_formula_the_verb_shows_counts_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = (EXTERNAL + "Odd", "--image-size", "16,32", "--channels", "8,16,32", "--kernel-size", "3")
    code, out, err = run(capsys, *arguments)
    assert code == 3
    assert "no formula found: 8 at" in " ".join(out.split())
    assert "nearest sum is off by" in err
    code, out, _ = run(capsys, *arguments, "--format", "json")
    row = json.loads(out)[2]
    assert (code, row["sum"], row["terms"]) == (3, None, [])
    assert row["counts"][0]["count"] == 8


# ------------------------------------------------------------------------------------------------------------ command line


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as exit_:
        main(["complexity", *arguments])
    captured = capsys.readouterr()
    return int(exit_.value.code or 0), captured.out, captured.err


def test_the_table_names_its_conventions(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "aol,standard")
    assert code == 0
    assert "4.00 c³ k⁴ − 4.00 c³ k³ + 1.00 c³ k²" in out
    assert "C = b s² c² k²" in out
    assert "a complex one is 4" in out


def test_json_has_every_term(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "aol", "--format", "json")
    rows = json.loads(out)
    assert code == 0
    assert [(row["half"], row["quantity"]) for row in rows] == [
        ("input", "macs"), ("input", "memory"), ("parameters", "macs"), ("parameters", "memory"),
    ]  # fmt: skip
    assert rows[2]["terms"][0] == {
        "coefficient": 4.0, "fraction": "4", "exponents": {"b": 0, "s": 0, "c": 3, "k": 4, "t": 0}, "log": [],
    }  # fmt: skip
    assert rows[2]["residual"] == 0
    assert rows[2]["method"] == "aol"


def test_what_is_written_is_read_again() -> None:
    rows = [*fitted("cayley").values(), *fitted("bcop").values(), *fitted(EXTERNAL + "Pointwise").values()]
    assert any(row.at_kernel_1 is not None for row in rows)
    assert any(len(row.notes) > 1 for row in rows)
    for row, plain in zip(rows, complexity.as_json(rows)):
        assert complexity.read(json.loads(json.dumps(complexity.write(row)))) == row
        assert complexity.read(json.loads(json.dumps(plain))) == row


def test_a_residual_that_nothing_tells_survives_being_written() -> None:
    row = replace(fitted("standard")["input", "macs"], residual=math.nan)
    assert complexity.write(row)["residual"] is None
    assert math.isnan(complexity.read(complexity.write(row)).residual)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch"], "unknown method: got 'nosuch'"),
        (["external_layers:Nothing"], "cannot load the external layer"),
        ([EXTERNAL + "Peeking"], "cannot run on tensors without values: got DataDependentOutputException"),
        (
            [EXTERNAL + "OneImage", "--image-size", "16,32", "--channels", "8", "--kernel-size", "3"],
            "runs at none of these sizes: got RuntimeError",
        ),
        (
            [EXTERNAL + "Pointwise", "--channels", "8,16"],
            "got --channels 16 (ValueError: only for multiples of 16 channels (external_layers.py:",
        ),
        (["standard", "--kernel-size", "2,3"], "kernel size must be odd: got 2"),
        (["standard", "--batch-size", "4"], "too few sizes for standard: got --batch-size 4"),
        (["standard", "--channels", "0,8"], "--channels must be a whole number of at least 1: got 0"),
        (["standard", "--channels", "a"], "--channels takes whole numbers"),
    ],
)
def test_wrong_use_is_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("lipbench: ")
    assert message in err
    assert "; " in err


def test_the_table_for_the_report_goes_on_without_a_layer_that_cannot_be_counted() -> None:
    table = complexity.fitted_table(["standard", EXTERNAL + "Peeking"])
    assert list(table.columns) == ["method", "title", "half", "quantity", "fitted", "fitted_mathml", "residual", "note"]
    standard, peeking = table[table["method"] == "standard"], table[table["method"] != "standard"]
    assert standard["fitted"].iloc[0] == "1.00 C"
    assert standard["residual"].tolist() == [0] * 4
    assert peeking["fitted"].tolist() == [""] * 4
    assert peeking["residual"].isna().all()
    assert peeking["note"].str.contains("cannot run on tensors without values").all()
    for markup in standard["fitted_mathml"]:
        ElementTree.fromstring(markup)
