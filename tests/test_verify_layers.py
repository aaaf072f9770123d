"""`verify` and the certificates of `profile` on layers as people publish them: before and after training steps."""

from __future__ import annotations

import math
from functools import cache

import pandas as pd
import pytest
import torch
from published_layers import Normalised, Strided, Wide

import lipbench
from lipbench.cases import Case, LayerSpec, Limits
from lipbench.run import certifying, measure, verifying

ORTHOGONAL = (
    "FrozenMask", "FrozenOrder", "Toggled", "KeptWeight", "Cached", "Nested", "Closure", "Locked", "Uncopied", "LazyWeight",
    "Late", "Average", "Shared", "ComplexBuffer", "ComplexParametrised", "Orthogonal", "Householder", "CayleyMap", "Wide",
    "Strided",
)  # fmt: skip
SETTLING = ("SpectralPointwise", "SpectralHook", "EveryForward")


@cache
def rows(layer: str, kernel_size: int = 1, channels: int = 4, image_size: int = 4) -> pd.DataFrame:
    """The rows of `verify` in evaluation mode."""
    spec = LayerSpec(f"published_layers:{layer}", channels, image_size, kernel_size)
    found = verifying.verify([spec])
    return found[found["mode"] != "training"]


@cache
def orthogonal_rows() -> pd.DataFrame:
    """The same of all orthogonal layers, by one call, since processes to ask take seconds to start."""
    found = verifying.verify([LayerSpec(f"published_layers:{layer}", 4, 4, 1) for layer in ORTHOGONAL])
    return found[found["mode"] != "training"]


@pytest.mark.parametrize("layer", ORTHOGONAL)
def test_orthogonal_layers_are_orthogonal_before_and_after_training(layer: str) -> None:
    found = orthogonal_rows()
    found = found[found["method"] == f"published_layers:{layer}"]
    assert [*dict.fromkeys(found["weights"])] == ["initial", "trained"]
    assert {*found["verdict"]} == {"ok"}
    first = found.groupby("weights").first()
    assert first["largest"].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)
    assert first["smallest"].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


@pytest.mark.parametrize("layer", ["FrozenFilter", "PhaseMask", "Pooled"])
def test_layers_of_norm_1_have_norm_1(layer: str) -> None:
    first = rows(layer).groupby("weights").first()
    assert first["largest"].tolist() == pytest.approx([1.0, 1.0], abs=1e-6)


def test_an_unpadded_layer_is_trained_too() -> None:
    found = rows("Unpadded", 3)
    assert {*found["weights"]} == {"initial", "trained"}
    assert {*found["verdict"]} == {"ok"}
    assert found["largest"].max() < 1


@pytest.mark.parametrize("layer", SETTLING)
def test_a_bound_that_holds_once_its_state_has_settled_is_no_violation(layer: str) -> None:
    found = rows(layer, channels=8)
    assert {*found["verdict"]} == {"ok"}
    assert found["largest"].max() == pytest.approx(1.0, abs=1e-4)


def test_a_state_that_has_not_settled_is_said() -> None:
    first = rows("SpectralHook", channels=8).iloc[0]
    before, after = first["reason"].split(" before the layer's own state has settled, ")
    assert float(before) > 1.1
    assert float(after.split()[0]) == pytest.approx(first["largest"], abs=1e-6)
    assert "training passes without a step" in after


@pytest.mark.parametrize(("layer", "kernel_size"), [("SpectralPointwise", 3), ("Normalised", 1)])
def test_a_bound_that_does_not_hold_violates(layer: str, kernel_size: int) -> None:
    """The norm of a reshaped kernel bounds no convolution, and statistics of the data bound nothing."""
    found = rows(layer, kernel_size)
    assert "violates" in {*found["verdict"]}
    assert found["largest"].max() > 1.1
    assert not found["reason"].str.contains("settled").any()


def test_weights_that_do_not_move_are_said() -> None:
    trained = rows("Stuck").groupby("weights").first().loc["trained"]
    assert "the weights did not move in training steps" in trained["reason"]


def test_methods_have_random_and_trained_rows() -> None:
    found = verifying.verify([LayerSpec("aol", 4, 4, 1)])
    assert [*dict.fromkeys(found["weights"])] == ["random", "trained"]


def test_a_round_does_not_blame_a_state_that_has_not_settled() -> None:
    case = Case(LayerSpec("published_layers:SpectralHook", 16, 4, 1), batch_size=2)
    found = measure.measure(case, Limits(), ("certificate",))
    assert (found.status, found.reason) == ("ok", "")
    assert found.certificate is not None
    assert found.certificate.evaluation[0].largest == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("layer", ["Late", "KeptWeight", "Cached", "PhaseMask", "FrozenOrder", "Strided", "LazyWeight"])
def test_a_round_measures_every_part(layer: str) -> None:
    case = Case(LayerSpec(f"published_layers:{layer}", 4, 4, 1), batch_size=2)
    found = measure.measure(case, Limits(phase_seconds=0.01))
    assert {name: part.status for name, part in found.parts.items()} == dict.fromkeys(found.parts, "ok"), found.reason
    assert found.certificate is not None
    assert found.certificate.evaluation[0].largest == pytest.approx(1.0, abs=1e-5)


def test_a_round_says_which_weights_it_has() -> None:
    case = Case(LayerSpec("published_layers:Stuck", 4, 4, 1), batch_size=2)
    told = []
    found = measure.measure(case, Limits(), ("certificate",), lambda one, doing, left: told.append((doing, left)))
    assert [one.kind for one in found.warnings] == ["weights"]
    assert "the weights did not move" in found.warnings[0].text
    assert told == [("certificate", ()), ("certificate", ()), (None, ())]
    again = measure.measure(case, Limits(), ("certificate",), failed=("training",))
    assert [one.text.partition(":")[0] for one in again.warnings] == ["training failed"]


def test_a_live_module_is_certified_with_its_own_shapes() -> None:
    torch.manual_seed(0)
    for layer in (Strided(4, 4, 1), Wide(4, 4, 1)):
        assert lipbench.verify(layer, torch.randn(2, 4, 4, 4)).evaluation[0].largest == pytest.approx(1.0, abs=1e-6)


def test_a_module_that_violates_stays_as_it_is() -> None:
    layer = Normalised(4, 4, 1)
    found = certifying.certified(layer, torch.zeros(1, 4, 4, 4))
    assert found.evaluation[0].largest == pytest.approx(2.0, rel=1e-4)
    assert not math.isnan(found.evaluation[0].largest)
    assert torch.equal(layer.norm.running_var, torch.ones(4))  # type: ignore[arg-type]
