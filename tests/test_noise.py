"""The noise of maps, and certificates of layers that do not compute what they claim in the dtype that they claim."""

from __future__ import annotations

import random

import noisy_layers
import pytest
import torch
from noisy_layers import CHANNELS, Noisy, noisy_map
from torch import Tensor, nn

from lipbench import certify
from lipbench.meters import lipschitz, noise, search

LIKE = torch.zeros(1, CHANNELS, 3, 3, dtype=torch.float64)
COARSE = "grid 0.125"
"""a grid that no arithmetic and no tolerance explains: the map has no Lipschitz constant"""
INSIDES = (
    "float64", "float32", "bfloat16", "float16", COARSE, "grid 1e-6", "random 1e-8", "random 1e-3", "random 0.1",
    "solver 0.5", "solver -0.5",
)  # fmt: skip


def certified(layer: nn.Module) -> tuple[str, str]:
    return certify.verdict(certify.certify(layer, LIKE, training=False))


@pytest.mark.parametrize("inside", INSIDES)
@pytest.mark.parametrize("bent", [False, True])
def test_no_bound_is_wrong_and_what_can_be_decided_is(inside: str, bent: bool) -> None:
    """Random constants between 0.01 and 10, and one near 1: four for each kind of noise, or two where these take long."""
    draw = random.Random(f"{inside} {bent}")
    number = 1 if bent else 3
    for constant in (*(10 ** draw.uniform(-2, 1) for _ in range(number)), draw.choice((1 - 5e-4, 1 + 5e-4))):
        found = certify.certify(Noisy(inside, constant, bent, draw.randrange(100)), LIKE, training=False)
        word, reason = certify.verdict(found)
        if inside == COARSE:
            assert (word, [bound.how for bound in found.evaluation]) == ("violates", ["jump"])
            continue
        for bound in found.evaluation:
            if bound.kind == "upper bound":
                assert bound.largest >= constant * (1 - 1e-9)
            elif bound.kind == "lower bound":  # iterates deviate by their tolerance, and keep to it: the map's own constant
                assert bound.largest <= constant * (1 + (1e-5 if "solver" in inside else 1e-9))
            else:
                assert abs(bound.largest - constant) <= bound.uncertainty + 1e-9 * constant
        assert word != ("violates" if constant < 1 else "ok")
        if inside in ("float64", "float32") and not bent:
            assert word == ("ok" if constant < 1 else "violates")
        if inside in ("float64", "float32") and bent:
            below = ("ok", "not refuted")
            assert word in (("violates",) if constant > 1.3 else below if constant < 1 else ("violates", "not refuted"))
        assert reason or word == "ok"


@pytest.mark.parametrize(("layer", "word", "says"), [
    (Noisy("float32", 1.0), "ok", ""),
    (Noisy("float32", 0.5, bent=True), "not refuted", "lower bound"),
    (Noisy("bfloat16", 1.0), "cannot tell", "computes in bfloat16"),
    (Noisy("bfloat16", 2.0), "violates", "2."),
    (Noisy("bfloat16", 0.5), "ok", ""),
    (noisy_layers.PaddedByZeros(), "ok", ""),
    (noisy_layers.StraightThrough(), "violates", "no Lipschitz constant; it rounds: the output jumps by 1e-01"),
    (noisy_layers.Threshold(), "violates", "no Lipschitz constant; the output jumps by"),
    (noisy_layers.Equilibrium(), "not refuted", "lower bound"),
    (noisy_layers.RandomShort(), "cannot tell", "two calls on one input differ by"),
    (noisy_layers.DropoutMix(), "ok", ""),
    (noisy_layers.CentredBatch(), "ok", ""),
    (noisy_layers.ActNorm(), "violates", "1.648721"),
], ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None)  # fmt: skip
def test_layers_as_they_are_published(layer: nn.Module, word: str, says: str) -> None:
    found, reason = certified(layer)
    assert found == word
    assert says in reason


def test_state_that_moves_at_every_call_is_seen_until_it_has_converged() -> None:
    layer = noisy_layers.EveryForward()
    before = certify.certify(layer, LIKE, training=False)
    assert before.unknown.startswith("two calls on one input differ by")
    assert before.evaluation[0].kind == "lower bound"
    for _ in range(200):
        layer(LIKE.float())
    assert certified(layer) == ("ok", "")


def test_a_random_layer_is_measured_with_one_draw() -> None:
    found = certify.certify(noisy_layers.DropoutMix(), LIKE)
    assert found.evaluation[0].kind == "exact"
    assert found.training[0].kind == "lower bound"
    assert found.training[0].largest <= 1 / 0.9 + 1e-9
    assert any(remark.startswith("in training: two calls on one input differ by") for remark in found.remarks)


def test_images_that_influence_each_other_are_measured_alone() -> None:
    found = certify.certify(noisy_layers.CentredBatch(), LIKE)
    assert "in training: images of a batch influence each other" in found.remarks
    assert found.training[0].largest == pytest.approx(1)


@pytest.mark.parametrize("function", [noisy_layers.WrongBackward, noisy_layers.NoBackward])
@pytest.mark.parametrize("bent", [False, True])
def test_gradients_are_never_believed(function: type[torch.autograd.Function], bent: bool) -> None:
    def apply(x: Tensor) -> Tensor:
        y: Tensor = function.apply(x)  # type: ignore[no-untyped-call]
        return y.abs() if bent else y

    assert lipschitz.extreme_singular_values(apply, LIKE) is None
    assert search.lower_bound(apply, LIKE).largest == pytest.approx(2, rel=1e-3 if not bent else 0.3)
    assert search.lower_bound(apply, LIKE).largest <= 2 + 1e-9


def test_a_scale_at_which_a_map_raises_is_left_out() -> None:
    def apply(x: Tensor) -> Tensor:
        if float(x.abs().max()) > 20:
            raise ValueError("too large")
        return 0.5 * x

    assert lipschitz.is_affine(apply, LIKE)
    assert noise.survey(apply, LIKE).largest_scale == 1
    assert search.lower_bound(apply, LIKE).largest == pytest.approx(0.5)


def test_a_clamp_far_away_is_not_affine() -> None:
    assert not lipschitz.is_affine(lambda x: x.clamp(-1e5, 1e5), LIKE)


@pytest.mark.parametrize(("apply", "says"), [
    (lambda x: x / (0 * x), "NaN or infinite"), (lambda x: x * float("inf"), "NaN or infinite"),
])  # fmt: skip
def test_what_is_not_finite_has_no_bound(apply: noise.Map, says: str) -> None:
    layer = Noisy("float64", 1.0)
    layer.map = apply
    found = certify.certify(layer, LIKE, training=False)
    assert found.evaluation == ()
    assert says in found.unknown
    assert certify.verdict(found) == ("cannot tell", found.unknown)


@pytest.mark.parametrize(("apply", "got"), [
    (lambda x: (x, x), "a tuple"), (lambda x: x.to(torch.complex128), "a tensor of torch.complex128"),
    (lambda x: x.long(), "a tensor of torch.int64"),
])  # fmt: skip
def test_outputs_that_are_no_real_tensor_are_named(apply: noise.Map, got: str) -> None:
    layer = Noisy("float64", 1.0)
    layer.map = apply
    with pytest.raises(TypeError, match=f"the output is {got}"):
        certify.certify(layer, LIKE)


def test_an_output_that_ignores_the_input_is_suspicious() -> None:
    layer = Noisy("float64", 0.0)
    found = certify.certify(layer, LIKE, training=False)
    assert found.remarks == ("the output hardly depends on the input: check that the layer computes what it should",)


def test_an_in_place_first_operation_changes_no_input() -> None:
    layer = nn.ReLU(inplace=True)
    found = certify.certify(layer, LIKE, training=False)
    assert found.evaluation[0].largest == pytest.approx(1, abs=1e-6)
    assert found.evaluation[0].largest <= 1


@pytest.mark.parametrize(("inside", "dtype", "rounds"), [
    ("float64", None, False), ("float32", torch.float32, False), ("bfloat16", torch.bfloat16, False),
    ("grid 0.125", None, True),
])  # fmt: skip
def test_the_survey_finds_how_a_map_computes(inside: str, dtype: torch.dtype | None, rounds: bool) -> None:
    found = noise.survey(noisy_map(inside, 1.0, True, 0), LIKE)
    assert (found.dtype, found.rounds) == (dtype, rounds)
    assert (found.reason() == "") is (inside == "float64")


def test_the_state_of_random_numbers_is_left_as_it_was() -> None:
    torch.manual_seed(7)
    expected = torch.rand(1)
    torch.manual_seed(7)
    fixed = noise._fixed(lambda x: x + torch.rand_like(x), None)
    assert torch.equal(fixed(LIKE), fixed(LIKE))
    assert torch.equal(torch.rand(1), expected)
