"""Theory for reading, and as numbers of a case."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from importlib.resources import files
from xml.etree import ElementTree

import pandas as pd
import pytest
import sympy
import torch

from lipbench import registry, theory
from lipbench.analysis.expected import expected, leading_exponent
from lipbench.cases import Case, LayerSpec, NetworkSpec
from lipbench.layers.base import Implementation
from lipbench.meters import macs
from lipbench.prediction import table1
from lipbench.theory import C, Complexity, Cost, M, P

LAYER = {"b": 2, "s": 8, "c": 4, "k": 3}


def layer(method: str, implementation: str = "paper") -> Case:
    return Case(LayerSpec(method, LAYER["c"], LAYER["s"], LAYER["k"], implementation), LAYER["b"])


def test_every_text_reads_back_as_its_formula_and_every_mathml_parses() -> None:
    for row in table1.complexity_table().to_dict("records"):
        method = registry.METHODS[row["method"]]
        for kind, complexity in (("published", method.published), ("exact", method.implementations["paper"].exact)):
            if complexity is None:
                assert row[kind] == row[f"{kind}_mathml"] == ""
                continue
            formula = getattr(getattr(complexity, row["half"]), row["quantity"])
            assert sympy.simplify(theory.parse(row[kind]) - formula) == 0
            ElementTree.fromstring(f"<math>{row[f'{kind}_mathml']}</math>".replace("&", "&amp;"))


def test_recomputation_repeats_what_the_backward_pass_counts_and_keeps_the_input_and_the_vectors() -> None:
    table = table1.complexity_table().set_index(["method", "half", "quantity"])["recomputed"]
    found = {place: theory.parse(text.replace("^", "**")) for place, text in table.items() if place[0] in ("standard", "soc")}
    k, c, t1, t2 = theory.k, theory.c, theory.t1, theory.t2
    assert [found["standard", *place] for place in itertools.product(theory.HALVES, theory.QUANTITIES)] == [0, M, 0, 0]
    assert sympy.expand(found["soc", "input", "macs"] - C * (t1 - 1)) == 0
    assert sympy.expand(found["soc", "parameters", "macs"] - (4 * P + 2 * c * k + c + c * k**2)) == 0
    assert found["soc", "input", "memory"] == M
    assert sympy.expand(found["soc", "parameters", "memory"] - (4 * c * k + 2 * c + 2 * c * k**2)) == 0
    assert t2 not in found["soc", "parameters", "macs"].free_symbols, "vectors step once"


def test_exponents_are_those_of_the_published_formula() -> None:
    table = table1.complexity_table().set_index(["method", "half", "quantity"])
    columns = [f"exponent_{name}" for name in "cksb"]
    assert table.loc[("standard", "input", "macs"), columns].tolist() == [2, 2, 2, 1]
    assert table.loc[("aol", "parameters", "macs"), columns].tolist() == [3, 4, 0, 0]
    assert table.loc[("cayley", "parameters", "macs"), columns].tolist() == [3, 0, 2, 0]


def test_the_published_layout_reproduces_the_published_table_symbol_for_symbol() -> None:
    published = pd.read_csv(str(files("lipbench.published") / "complexity.csv"), keep_default_na=False)
    printed = table1.published_layout(table1.complexity_table()).head(len(published))
    pd.testing.assert_frame_equal(printed[list(published.columns)].astype(object), published.astype(object))


def test_methods_that_the_table_lacks_have_exact_costs_alone() -> None:
    printed = table1.published_layout(table1.complexity_table()).set_index("layer").loc[["ECO", "Sandwich"]]
    exact = [name for name in printed.columns if name.startswith(("exact_", "recomputed_"))]
    assert (printed.drop(columns=exact) == "").all(axis=None)
    assert (printed[exact] != "").all(axis=None)


def test_numbers_of_a_plain_convolution() -> None:
    macs, padded, parameters = 2 * 64 * 16 * 9, 2 * 4 * 100, 16 * 9
    forward = expected(layer("standard"), "forward")
    assert forward["theory_macs"] == forward["published_macs"] == macs
    assert forward["theory_memory_elements"] == padded + parameters
    assert forward["published_memory_elements"] == 2 * 64 * 4 + parameters
    assert expected(layer("standard"), "inference")["theory_macs"] == macs
    assert expected(layer("standard"), "parametrize")["theory_macs"] == 0


def test_evaluation_has_its_own_number_of_iterations() -> None:
    soc = registry.METHODS["soc"]
    one = theory.evaluate(C, **LAYER)
    assert expected(layer("soc"), "inference")["theory_macs"] == one * soc.evaluation_iterations["t1"]
    forward, parametrize = (expected(layer("soc"), phase)["theory_macs"] for phase in ("forward", "parametrize"))
    assert forward - parametrize == one * soc.iterations["t1"]


@pytest.mark.parametrize("method", ["aol", "cayley", "sandwich"])
def test_a_step_is_a_forward_and_a_backward_pass(method: str) -> None:
    forward, backward, step = (expected(layer(method), phase)["theory_macs"] for phase in ("forward", "backward", "step"))
    assert step == pytest.approx(forward + backward, abs=1)  # transforms have fractions, rounded once in each
    assert forward < backward <= 2.5 * forward


def test_backward_of_a_network_is_what_is_counted() -> None:
    case = Case(NetworkSpec("cayley", "XS"), 2)
    images = torch.randn(2, 3, 32, 32, requires_grad=True)
    output = registry.build(case.spec).train()(images)
    counted = macs.count(lambda: output.backward(torch.ones_like(output)))
    assert counted.total == expected(case, "backward")["theory_macs"]


@pytest.mark.parametrize(
    ("convention", "phase"), [("theory", "first_inference"), ("published", "backward"), ("published", "step")]
)
def test_no_macs_are_claimed_where_there_is_no_formula(convention: str, phase: str) -> None:
    assert math.isnan(expected(layer("aol"), phase)[f"{convention}_macs"])


def test_other_implementations_have_no_exact_cost_and_other_layers_none_at_all() -> None:
    other = expected(layer("aol", "other"), "forward")
    assert math.isnan(other["theory_macs"])
    assert other["published_macs"] == expected(layer("aol"), "forward")["published_macs"]
    assert all(map(math.isnan, expected(layer("module:Class"), "forward").values()))


def test_an_implementation_has_exact_costs_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    aol, case = registry.METHODS["aol"], layer("aol", "lean")
    lean = Implementation(aol.implementations["paper"].layer, Complexity(Cost(2 * C, M), Cost(C * 0, P)))
    monkeypatch.setitem(registry.METHODS, "aol", replace(aol, implementations={**aol.implementations, "lean": lean}))
    paper = expected(layer("aol"), "inference")["theory_macs"]
    assert expected(case, "inference")["theory_macs"] == 2 * paper
    assert expected(case, "parametrize")["theory_macs"] == 0


def test_a_method_without_exact_costs_has_an_empty_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    eco = registry.METHODS["eco"]
    unknown = {"paper": Implementation(eco.implementations["paper"].layer)}
    monkeypatch.setitem(registry.METHODS, "eco", replace(eco, implementations=unknown))
    rows = table1.complexity_table().query("method == 'eco'")
    assert set(rows["exact"]) == set(rows["exact_mathml"]) == {""}
    assert rows["exponent_c"].isna().all()


def test_a_network_is_the_sum_of_its_layers() -> None:
    width, batch = 16, 4
    shapes = [
        (width, 32, 1),
        *((width * 2**block, 32 // 2**block, 3 if block < 4 else 1) for block in range(5) for _ in range(5)),
    ]
    convolutions = sum(batch * size**2 * channels**2 * kernel**2 for channels, size, kernel in shapes)
    head = batch * (32 * width) ** 2
    found = expected(Case(NetworkSpec("standard", "XS"), batch), "inference")
    assert found["theory_macs"] == found["published_macs"] == convolutions + head
    assert math.isnan(found["theory_memory_elements"])


def test_leading_exponents_are_of_the_halves_of_the_phase() -> None:
    assert leading_exponent("aol", "macs", "forward") == 3
    assert leading_exponent("aol", "macs", "inference") == 2
    assert leading_exponent("cpl", "macs", "parametrize") == 2
    assert leading_exponent("standard", "memory", "forward") == 2
    assert math.isnan(leading_exponent("module:Class", "macs", "forward"))
