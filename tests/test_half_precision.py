"""Autocast to bf16 and fp16 as a condition of a case: the stages, memory, MACs, certificates and warnings."""

from __future__ import annotations

import math

import pytest
import samples
import torch
from conftest import Variant
from torch import nn

from lipbench import registry
from lipbench.analysis.expected import expected
from lipbench.cases import Case, LayerSpec, Limits
from lipbench.meters import macs
from lipbench.prediction import memory as predicted
from lipbench.quantities import Caution
from lipbench.run import doubts, measure
from lipbench.store.rounds import Round
from lipbench.workload import Workload

LIMITS = Limits(phase_seconds=0.002)


def case(method: str = "aol", precision: str = "bf16", dtype: str = "float32", device: str = "cpu") -> Case:
    return Case(LayerSpec(method, 8, 6, 3), 4, dtype, precision, device)


def workload(**chosen: str) -> Workload:
    torch.manual_seed(0)
    return Workload.build(case(**chosen), registry.build(case(**chosen).spec))


def test_forward_runs_in_half_precision_and_gradients_are_float32() -> None:
    for precision, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        it = workload(precision=precision)
        it.prepare_training()
        assert it.forward().dtype == dtype
        it.step()
        assert all(weight.grad is not None and weight.grad.dtype == torch.float32 for weight in it.module.parameters())
        it.prepare_inference()
        assert it.inference().dtype == dtype
        assert not torch.is_autocast_enabled("cpu")


def test_output_is_near_that_in_full_precision_and_not_equal_to_it() -> None:
    outputs = []
    for precision in ("ieee", "bf16"):
        it = workload(precision=precision)
        it.prepare_inference()
        outputs.append(it.inference().float())
    difference = float((outputs[1] - outputs[0]).norm() / outputs[0].norm())
    assert 1e-5 < difference < 2e-2


def test_the_parameter_half_stays_in_full_precision(variant: Variant) -> None:
    layer = variant.build(dtype=torch.float32).eval()
    x = variant.image(layer)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert layer._cache is not None
    assert all(tensor.dtype in (torch.float32, torch.complex64) for tensor in layer._cache.effective)


def test_every_layer_takes_the_images_that_autocast_gives_it(variant: Variant) -> None:
    """In a network, an earlier layer's output is in half precision."""
    layer = variant.build(dtype=torch.float32).eval()
    x = variant.image(layer)
    with torch.no_grad():
        expected_output = layer(x)
        for dtype, tolerance in ((torch.bfloat16, 5e-2), (torch.float16, 1e-2)):
            with torch.autocast("cpu", dtype):
                found = layer(x.to(dtype)).float()
            assert float((found - expected_output).norm() / expected_output.norm()) < tolerance


def test_fourier_layers_convert_half_images_without_autocast_too() -> None:
    """On CUDA, autocast leaves Fourier transforms in the images' precision."""
    layer = registry.build(LayerSpec("cayley", 4, 6, 3)).eval()
    with torch.no_grad():
        assert layer(torch.randn(2, 4, 6, 6).bfloat16()).dtype == torch.float32


def test_macs_do_not_depend_on_the_precision() -> None:
    for method in ("aol", "cpl", "soc"):
        full, half = (macs.measure(workload(method=method, precision=precision)) for precision in ("ieee", "bf16"))
        assert half.phases == full.phases
        assert (half.per_image, half.constant) == (full.per_image, full.constant)


def test_memory_is_predicted_as_it_is_measured() -> None:
    for method in ("standard", "aol", "cpl"):
        one = Case(LayerSpec(method, 32, 8, 3), 8, precision="bf16")
        torch.manual_seed(0)
        found = measure.measure(one, LIMITS, ("memory",)).memory
        foretold = predicted.memory(one)
        full = predicted.memory(Case(one.spec, one.batch_size))
        assert found is not None
        assert foretold.saved_bytes == found.saved_bytes
        assert foretold.saved_per_image_bytes == found.saved_per_image_bytes
        assert foretold.output_bytes == found.output_bytes
        assert foretold.saved_per_image_bytes is not None
        assert full.saved_per_image_bytes is not None
        assert foretold.saved_per_image_bytes < full.saved_per_image_bytes


def test_no_formula_covers_what_autocast_keeps() -> None:
    assert expected(case(), "forward")["theory_macs"] == expected(case(precision="ieee"), "forward")["theory_macs"]
    assert math.isnan(expected(case(), "forward")["theory_memory_elements"])


def test_the_certificate_says_what_it_was_computed_in() -> None:
    found = measure.measure(case(), LIMITS, ("certificate",)).certificate
    assert found is not None
    assert found.remarks == ("certified in float64; measured in bf16, whose rounding is not part of it",)
    unrounded = measure.measure(case(precision="ieee"), LIMITS, ("certificate",)).certificate
    assert unrounded is not None
    assert found.evaluation == unrounded.evaluation
    assert not unrounded.remarks


def test_a_precision_without_effect_is_said_and_no_other() -> None:
    timed = Round("ok", phases={"forward": samples.timing(1.0)})
    words = {
        ("aol", "tf32", "float32", "cpu"): "precision tf32 has no effect on a CPU; compare with ieee",
        ("aol", "tf32x3", "float32", "cpu"): "precision tf32x3 has no effect on a CPU; compare with ieee",
        ("aol", "tf32x3", "float32", "cuda"): "precision tf32x3 has no effect without Triton kernels; compare with ieee",
        ("aol", "tf32", "float64", "cuda"): "precision tf32 has no effect on float64; compare with ieee",
        ("aol", "fp16", "float64", "cpu"): "precision fp16 has no effect on float64; compare with ieee",
        ("aol", "tf32", "float32", "cuda"): "",
        ("aol", "bf16", "float32", "cpu"): "",
        ("aol", "fp16", "float32", "cuda"): "",
        ("aol", "ieee", "float64", "cpu"): "",
    }
    for chosen, text in words.items():
        method, precision, dtype, device = chosen
        found = [one for one in doubts.warnings(case(method, precision, dtype, device), timed) if one.kind == "precision"]
        assert found == ([Caution("precision", (), text)] if text else []), chosen


def test_a_layer_that_autocast_leaves_as_it_is_is_said() -> None:
    """Cayley computes with complex numbers, which have no half precision."""
    (found,) = doubts.precision_doubts(workload(method="cayley"))
    assert found.text.startswith("precision bf16 has no effect on this module")
    assert not list(doubts.precision_doubts(workload(method="aol")))
    assert not list(doubts.precision_doubts(workload(method="cayley", precision="ieee")))


class Large(nn.Module):
    """Its output is over float16's largest number, 65504, and within that of bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.convolution(x * 1e6)
        return y


class HalfRefuses(nn.Linear):
    """It raises in float16, as operations without an implementation do."""

    def __init__(self) -> None:
        super().__init__(6, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = super().forward(x)
        if y.dtype == torch.float16:
            raise RuntimeError("\"slow_op\" not implemented for 'Half'")
        return y


def measured(module: nn.Module, precision: str) -> Round:
    from lipbench import calling

    with calling.in_this_process(module) as name:
        one = Case(LayerSpec(name, 8, 6, 3), 4, precision=precision)
        return measure.measure(one, LIMITS, ("training", "inference"))


def test_an_overflow_in_fp16_is_not_finite() -> None:
    assert measured(Large(), "bf16").status == "ok"
    found = measured(Large(), "fp16")
    assert found.status == "nan"
    assert "not finite: output in evaluation" in found.parts["inference"].reason


def test_an_operation_without_half_precision_is_a_status_with_its_reason() -> None:
    from lipbench.run import failures

    assert measured(HalfRefuses(), "bf16").status == "ok"
    with pytest.raises(RuntimeError) as raised:  # while it is built; the child of a round makes it a status
        measured(HalfRefuses(), "fp16")
    found = failures.of_exception(raised.value)
    assert found.status == "raised"
    assert found.reason.startswith("RuntimeError: \"slow_op\" not implemented for 'Half' (test_half_precision.py:")
