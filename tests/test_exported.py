"""The exported form of a module: which modules have one, that it computes the same, and that only its inference is measured."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils import spectral_norm as hooked_spectral_norm
from torch.nn.utils import weight_norm as hooked_weight_norm
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from lipbench import calling, registry
from lipbench.cases import CONDITIONS, Case, LayerSpec, Limits
from lipbench.errors import LipbenchError, UnsupportedError
from lipbench.exported import exported
from lipbench.prediction import memory as predicted
from lipbench.run import measure
from lipbench.store.rounds import Round

LIMITS = Limits(phase_seconds=0.002)


def conv() -> nn.Conv2d:
    return nn.Conv2d(4, 4, 3, padding=1)


class Vanilla(nn.Module):
    """A layer in the manner of deel-torchlip: it normalises its weight in every call, and exports a plain convolution."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.inner, self.factor = conv(), factor

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.conv2d(x, self.inner.weight / self.inner.weight.norm(), self.inner.bias, padding=1)

    def vanilla_export(self) -> nn.Module:
        made = copy.deepcopy(self.inner)
        made.weight.data = self.factor * made.weight / made.weight.norm()
        return made


EXPORTABLE = {
    "spectral": lambda: spectral_norm(conv()),
    "orthogonal": lambda: orthogonal(conv()),
    "weight": lambda: weight_norm(conv()),
    "nested": lambda: nn.Sequential(nn.ReLU(), nn.Sequential(spectral_norm(conv())), conv()),
    "hooked spectral": lambda: hooked_spectral_norm(conv()),
    "vanilla": Vanilla,
    "vanilla inside": lambda: nn.Sequential(Vanilla(), nn.ReLU(), spectral_norm(conv())),
}


@pytest.mark.parametrize("name", EXPORTABLE)
def test_exported_form_computes_the_same_and_leaves_the_module_alone(name: str) -> None:
    torch.manual_seed(0)
    module, x = EXPORTABLE[name](), torch.randn(2, 4, 6, 6)
    module.train()(x)
    with torch.no_grad():
        before = module.eval()(x)
        state = {key: value.clone() for key, value in module.state_dict().items()}
        made = exported(module)
        torch.testing.assert_close(made(x), before)
        assert torch.equal(module(x), before), "the module itself still works"
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    assert not any(parametrize.is_parametrized(part) or isinstance(part, Vanilla) for part in made.modules())
    assert not any(part._forward_pre_hooks for part in made.modules())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # the old function is deprecated, and still in use
def test_weight_norm_by_hooks_is_removed() -> None:
    module, x = hooked_weight_norm(conv()).eval(), torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        made = exported(module)
        torch.testing.assert_close(made(x), module(x))
    assert not made._forward_pre_hooks


def test_own_function_comes_first() -> None:
    assert isinstance(exported(Vanilla(), lambda module: nn.Identity()), nn.Identity)
    with pytest.raises(LipbenchError, match=r"not an nn\.Module"):
        exported(Vanilla(), lambda module: 3)  # type: ignore[arg-type, return-value]  # the error is the subject


def test_modules_without_an_exported_form() -> None:
    with pytest.raises(UnsupportedError, match="no exported form"):
        exported(conv())
    with pytest.raises(UnsupportedError, match="evaluation cache"):
        exported(registry.build(LayerSpec("aol", 4, 6, 3)))


def measured(module: nn.Module, *, precision: str = "ieee", compiled: bool = False) -> Round:
    with calling.in_this_process(module) as name:
        one = Case(LayerSpec(name, 4, 6, 3), 2, precision=precision, compile=compiled, exported=True)
        return measure.measure(one, LIMITS)


def test_only_inference_is_measured() -> None:
    found = measured(spectral_norm(conv()))
    assert set(found.phases or ()) == {"inference"}
    assert set(found.parts) == {"inference", "memory", "macs", "certificate"}
    assert found.parts["inference"].status == "ok"
    assert found.macs is not None
    assert found.macs.phases == {"inference": 2 * 4 * 4 * 9 * 36}
    assert found.memory is not None
    assert set(found.memory.peaks) == {"inference"}
    assert found.memory.saved_bytes is None
    assert found.memory.parameter_bytes == 4 * (4 * 4 * 9 + 4)
    assert not [one for one in found.warnings if one.kind in ("inexact", "uncompared")]


@pytest.mark.parametrize("precision", ["ieee", "bf16"])
def test_an_exported_form_with_another_output_is_said(precision: str) -> None:
    (doubt,) = (one for one in measured(Vanilla(2.0), precision=precision).warnings if one.kind == "inexact")
    assert doubt.phases == ("inference",)
    assert doubt.text.startswith("the exported output differs from that of the trained module in evaluation mode by ")
    assert not [one for one in measured(Vanilla(), precision=precision).warnings if one.kind == "inexact"]


def test_an_adapter_file_gives_its_own_export(tmp_path: Path) -> None:
    path = tmp_path / "adapter.py"
    path.write_text(
        "from torch import nn\n\n\n"
        "def layer(channels, image_size, kernel_size):\n"
        "    return nn.Sequential(nn.Conv2d(channels, channels, kernel_size, padding=1), nn.Dropout())\n\n\n"
        "def export(module):\n"
        "    return module[0]\n"
    )
    one = Case(LayerSpec(f"{path}:layer", 4, 6, 3), 2, exported=True)
    found = measure.measure(one, LIMITS, ("inference",))
    assert set(found.phases or ()) == {"inference"}
    assert not [doubt for doubt in found.warnings if doubt.kind in ("inexact", "uncompared")]


def test_the_condition_in_ids_and_predictions() -> None:
    one = Case(LayerSpec("m:Layer", 4, 6, 3), 2, exported=True)
    assert one.id.endswith("-seed0-exported")
    assert next(condition for condition in CONDITIONS if condition.name == "exported").label == "exported"
    with pytest.raises(LipbenchError, match="as they are trained"):
        predicted.memory(one)
    assert predicted.peaks([one])[0].empty
    assert predicted.peaks([one])[1] == []
