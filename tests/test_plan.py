"""Requests as cases: presets, products of axes, networks."""

from __future__ import annotations

from pathlib import Path

import pytest

from lipbench import cases, registry
from lipbench.cases import CONDITIONS, PAPER_METHODS, PRESETS, Case, LayerSpec, NetworkSpec
from lipbench.cores import usable_cores
from lipbench.errors import LipbenchError
from lipbench.run.plan import Request, conditions, plan


def shapes(request: Request) -> list[tuple[int, int, int]]:
    return [
        (case.spec.channels, case.spec.image_size, case.spec.kernel_size)
        for case in plan(request, "cpu")
        if isinstance(case.spec, LayerSpec)
    ]


def networks(request: Request) -> list[tuple[str, int, int]]:
    return [
        (case.spec.size, case.spec.image_size, case.spec.kernel_size)
        for case in plan(request, "cpu")
        if isinstance(case.spec, NetworkSpec)
    ]


def test_quick_is_the_default_and_has_24_cases() -> None:
    found = plan(Request(), "cpu")
    assert found == plan(Request(preset="quick"), "cpu")
    assert len(found) == 24
    assert {case.spec.method for case in found} == set(PAPER_METHODS)
    assert {(case.batch_size, case.dtype, case.precision, case.device) for case in found} == {(32, "float32", "ieee", "cpu")}


def test_paper_has_the_block_shapes_and_the_networks() -> None:
    request = Request(preset="paper", methods=("aol",))
    assert shapes(request) == list(PRESETS["paper"].layer_shapes)
    assert networks(request) == [(size, 32, 3) for size in ("XS", "S", "M", "L")]


def test_axes_replace_those_of_the_preset() -> None:
    request = Request(methods=("aol",), channels=(4, 8), kernel_sizes=(1, 5))
    assert shapes(request) == [(4, 16, 1), (4, 16, 5), (8, 16, 1), (8, 16, 5)]
    assert networks(Request(preset="paper", methods=("aol",), channels=(4,))) == []


def test_conditions_multiply_and_each_case_comes_once() -> None:
    request = Request(methods=("aol", "aol"), channels=(4,), batch_sizes=(1, 2),
                      conditions={"dtype": ("float32", "float64"), "threads": (3,)})  # fmt: skip
    found = plan(request, "cuda")
    assert [(case.batch_size, case.dtype) for case in found] == [(1, "float32"), (1, "float64"), (2, "float32"), (2, "float64")]
    assert {(case.device, case.threads) for case in found} == {("cuda", 3)}


def test_all_methods_come_at_one_shape_before_the_next() -> None:
    found = plan(Request(methods=("aol", "soc"), channels=(4, 8)), "cpu")
    assert [(case.spec.method, case.spec.slug.split("-")[2]) for case in found] == [
        ("aol", "c4"), ("soc", "c4"), ("aol", "c8"), ("soc", "c8"),
    ]  # fmt: skip


def test_networks_alone_leave_the_layers_out() -> None:
    request = Request(methods=("aol",), networks=("XS",), image_sizes=(64,), kernel_sizes=(1,))
    assert (shapes(request), networks(request)) == ([], [("XS", 64, 1)])
    both = Request(methods=("aol",), networks=("XS",), channels=(4,), image_sizes=(32,))
    assert (shapes(both), networks(both)) == ([(4, 32, 3)], [("XS", 32, 3)])


def test_layers_of_others_have_one_implementation() -> None:
    request = Request(methods=("module:Class", "aol"), implementations=("paper", "lean"), channels=(4,))
    assert [(case.spec.method, case.spec.implementation) for case in plan(request, "cpu")] == [
        ("module:Class", "paper"), ("aol", "paper"), ("aol", "lean"),
    ]  # fmt: skip


def test_implementations_that_a_method_lacks_are_no_cases() -> None:
    request = Request(methods=("standard", "aol"), implementations=("paper", "lean"), channels=(4,))
    lacking = registry.lacking(request.method_names, request.implementation_names)
    assert lacking == (("standard", "lean"),)
    assert [(case.spec.method, case.spec.implementation) for case in plan(request, "cpu", lacking=lacking)] == [
        ("standard", "paper"), ("aol", "paper"), ("aol", "lean"),
    ]  # fmt: skip


def test_a_method_without_any_of_the_implementations_stays_a_case_that_fails() -> None:
    assert registry.lacking(("standard", "aol", "module:Class", "unknown"), ("lean",)) == ()


@pytest.mark.parametrize(
    "request_",
    [
        Request(preset="huge"), Request(kernel_sizes=(2,)), Request(channels=(0,)), Request(networks=("XXL",)),
        Request(networks=("XS",), kernel_sizes=(-1,)), Request(conditions={"weather": ("fair",)}),
    ],
)  # fmt: skip
def test_what_no_case_can_have_is_an_error(request_: Request) -> None:
    with pytest.raises(LipbenchError):
        plan(request_, "cpu")


@pytest.mark.parametrize(("text", "most"), [("100000 100000", 1), ("50000 100000", 1), ("max 100000", 10**6), ("", 10**6)])
def test_threads_respect_the_quota_of_a_container(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    unlimited = usable_cores(tmp_path / "absent")
    assert usable_cores(tmp_path / "cpu.max") == min(unlimited, most)


def test_compiled_cases_stand_beside_uncompiled_ones() -> None:
    sizes = {"channels": (4,), "image_sizes": (8,), "kernel_sizes": (3,)}
    found = plan(Request(methods=("aol", "soc"), **sizes, conditions={"compile": (False, True)}), "cpu")
    assert [(case.spec.method, case.compile) for case in found] == [
        ("aol", False), ("aol", True), ("soc", False), ("soc", True),
    ]  # fmt: skip
    assert [case.id.endswith("-compiled") for case in found] == [False, True] * 2
    assert not any(case.compile for case in plan(Request(methods=("aol",)), "cpu"))


def test_every_condition_of_a_case_is_named_once_with_all_that_is_written_of_it() -> None:
    fields = [name for name in Case.__dataclass_fields__ if name not in ("spec", "batch_size")]
    assert [condition.name for condition in CONDITIONS] == fields
    case = Case(LayerSpec("aol", 4, 8), 2)
    assert case.conditions() == {condition: condition.default for condition in CONDITIONS}
    assert case.id == "aol-paper-c4-s8-k3-b2-float32-ieee-cpu-t1-seed0"
    other = Case(LayerSpec("aol", 4, 8), 2, "float64", "tf32", "cuda", 3, 5, compile=True)
    assert other.id == "aol-paper-c4-s8-k3-b2-float64-tf32-cuda-t3-seed5-compiled"


def test_a_request_holds_the_conditions_that_were_asked_for() -> None:
    assert Request(conditions=conditions(dtype=None, compile=None)) == Request()
    assert not Request(conditions=conditions(dtype=("float64",))).names_cases
    assert Request(conditions=conditions(dtype=("float64",))) != Request()


def test_cases_from_before_compiling_was_an_axis_are_read_as_uncompiled() -> None:
    case = Case(NetworkSpec("aol", "S"), 2, compile=True)
    stored = cases.to_dict(case)
    assert cases.from_dict(stored) == case
    del stored["compile"]
    assert cases.from_dict(stored) == Case(NetworkSpec("aol", "S"), 2)


def test_both_specs_say_how_wide_they_are_and_what_images_they_take() -> None:
    layer, network = LayerSpec("aol", 8, 16), NetworkSpec("aol", "S", 64)
    assert (layer.channels, layer.input_channels) == (8, 8)
    assert (network.channels, network.input_channels) == (16, 3)
    assert "channels" not in cases.to_dict(Case(network, 2))["spec"]
