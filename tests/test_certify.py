"""Certificates of every method, of networks and of layers that are not 1-Lipschitz as claimed; the verb `verify`."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from conftest import Variant
from torch import Tensor, nn

from lipbench import certify, registry, training
from lipbench.cases import Case, LayerSpec, Limits, NetworkSpec
from lipbench.cli import main as cli
from lipbench.layers.cpl import PublishedCPLConv2d
from lipbench.layers.sll import SLLConv2d
from lipbench.meters import lipschitz, machine
from lipbench.quantities import GROUPS
from lipbench.run import verifying
from lipbench.store import records
from lipbench.store.rounds import Record, Round
from lipbench.store.run_plan import RunPlan, save_plan
from lipbench.workload import Workload

DIVISIBLE = 9
"""an image size at which every method is 1-Lipschitz"""


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_methods_are_1_lipschitz_before_and_after_training(variant: Variant, kernel_size: int) -> None:
    if not variant.method.lipschitz:
        pytest.skip("claims nothing")
    layer = variant.build(kernel_size=kernel_size, image_size=DIVISIBLE)
    x = variant.image(layer)
    for _ in ("random weights", "after 100 steps"):
        found = certify.certify(layer, x)
        assert certify.violation(found) == ""
        if variant.method.orthogonal and found.evaluation[0].smallest is not None and variant.method.name != "lot":
            assert found.evaluation[0].smallest > 0.99
        assert training.train(layer, x) > 0.01


@pytest.mark.parametrize(("image_size", "caught"), [(8, True), (9, False), (16, True), (32, True)])
def test_eco_is_caught_where_3_does_not_divide_the_image(image_size: int, caught: bool) -> None:
    layer = registry.build(LayerSpec("eco", 8, image_size))
    found = certify.certify(layer, torch.zeros(1, 8, image_size, image_size))
    assert bool(certify.violation(found)) is caught
    assert (found.evaluation[0].largest > 1.2) is caught


def test_two_ways_agree(variant: Variant) -> None:
    layer = variant.build()
    for bounds in (
        certify.certify(layer, variant.image(layer)).evaluation,
        certify.certify(layer, variant.image(layer)).training,
    ):
        known = [bound for bound in bounds if bound.kind == "exact"]
        assert all(bound.largest == pytest.approx(known[0].largest, rel=1e-5) for bound in known)
        assert all(bound.largest <= known[0].largest * (1 + 1e-9) for bound in bounds if bound.kind == "lower bound" and known)


def test_neither_weights_nor_buffers_nor_mode_change(variant: Variant) -> None:
    layer = variant.build().train()
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    certify.certify(layer, variant.image(layer))
    assert layer.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in layer.state_dict().items())


def test_the_worst_pattern_bounds_what_random_points_show() -> None:
    """Compares the constant of a residual layer with Jacobians at random points: it is never below one, and above most."""
    layer = SLLConv2d(4, 4, 3, 5).double().eval()
    with torch.no_grad():
        layer.weight.mul_(2)
        layer.q.zero_()
    x = torch.randn(1, 4, 5, 5, dtype=torch.float64)
    constant = certify.certify(layer, x).evaluation[0].largest
    for _ in range(5):
        point = 10 * torch.randn_like(x)
        jacobian = torch.autograd.functional.jacobian(layer, point).reshape(100, 100)  # type: ignore[no-untyped-call]
        assert torch.linalg.matrix_norm(jacobian, 2) <= constant + 1e-9


def test_the_published_number_of_power_iterations_is_not_enough() -> None:
    torch.manual_seed(0)
    found = certify.certify(PublishedCPLConv2d(16, 16, 3, 16), torch.zeros(1, 16, 16, 16))
    assert "Lipschitz constant = 1.0" in certify.violation(found)


def test_training_mode_shows_what_is_truncated_or_has_not_converged() -> None:
    for name, least in (("soc", 1 + 1e-4), ("cpl", 1.5)):
        spec = LayerSpec(name, 8, 6)
        workload = Workload.build(Case(spec, 2), registry.build(spec))
        found = certify.certify(workload.module, workload.x)
        assert certify.violation(found) == ""
        assert found.training[0].largest > least


class Scaled(nn.Module):
    """The identity times 1.001."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(1.001), requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        return 1.001 * x + 0 * self.factor


class Bent(Scaled):
    """A non-linear layer that multiplies negative numbers by 1.5."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x < 0, 1.5 * x, x) + 0 * self.factor


class Unwilling(Scaled):
    def forward(self, x: Tensor) -> Tensor:
        raise ValueError("not today")


def test_a_thousandth_is_caught() -> None:
    found = certify.certify(Scaled(2, 2, 1), torch.zeros(1, 2, 4, 4))
    assert found.evaluation[0].kind == "exact"
    assert "1.001" in certify.violation(found)


def test_of_other_nonlinear_layers_there_is_a_lower_bound() -> None:
    found = certify.certify(Bent(2, 2, 1), torch.zeros(1, 2, 4, 4))
    assert [bound.kind for bound in found.evaluation] == ["lower bound"]
    assert found.evaluation[0].largest == pytest.approx(1.5, rel=1e-2)
    assert "Lipschitz constant >= 1." in certify.violation(found)


@pytest.mark.parametrize("method", ["aol", "cpl"])
def test_a_network_has_the_product_of_its_layers(method: str) -> None:
    spec = NetworkSpec(method, "XS")
    network = registry.build(spec)
    images = torch.zeros(1, 3, 32, 32)
    certificate = certify.certify(network, images, each_layer=True)
    product, worst = certificate.evaluation
    assert (product.kind, product.how, worst.kind) == ("upper bound", "product", "exact")
    assert worst.largest <= 1 + 1e-4
    assert product.largest <= worst.largest**27
    assert certify.violation(certificate) == ""
    assert certificate.growing == ()


def test_a_network_with_one_steep_layer_is_caught_twice() -> None:
    spec = NetworkSpec("bcop", "XS")
    network = registry.build(spec)
    assert isinstance(network, nn.Sequential)
    block = network[4]
    assert isinstance(block, nn.Sequential)
    block[0] = nn.Conv2d(32, 32, 3, padding=1)
    with torch.no_grad():
        block[0].weight.mul_(10)
    certificate = certify.certify(network, torch.zeros(1, 3, 32, 32), each_layer=True)
    assert certificate.growing == ("4.0",)
    assert certificate.evaluation[1].largest > 2
    assert certify.violation(certificate)


# ------------------------------------------------------------------------------------------------------- measure and verb


@pytest.mark.parametrize(("method", "status"), [("aol", "ok"), ("standard", "ok"), (f"{__name__}:Scaled", "not_lipschitz")])
def test_a_round_carries_its_certificate(method: str, status: str) -> None:
    from lipbench.run import measure

    case = Case(LayerSpec(method, 2, 4, 1), batch_size=2)
    found = measure.measure(case, Limits(phase_seconds=0.01))
    assert found.status == status
    assert found.certificate is not None
    assert ("1.001" in found.reason) == (status == "not_lipschitz")
    assert records.round_from_dict(json.loads(json.dumps(records.round_to_dict(found)))) == found
    assert measure.measure(case, Limits(phase_seconds=0.01), tuple(GROUPS)).certificate is None


def run_verb(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["verify", *arguments])
    return int(str(ended.value.code))


def test_verify_passes_what_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("aol", "--channels", "4", "--image-size", "4", "--kernel-size", "1") == 0
    printed = capsys.readouterr().out
    assert "ok" in printed
    assert "violates" not in printed


@pytest.mark.parametrize("what", ["standard", f"{__name__}:Scaled", f"{__name__}:Unwilling"])
def test_verify_ends_with_three_on_a_violation(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(what, "--channels", "16", "--image-size", "4", "--kernel-size", "1", "--format", "json") == 3
    rows = pd.DataFrame(json.loads(capsys.readouterr().out))
    assert set(rows["verdict"]) & {verifying.VIOLATES, verifying.FAILED}


def test_verify_takes_a_run(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    from pathlib import Path

    directory = Path(str(tmp_path))
    case = Case(LayerSpec("lot", 2, 4, 1), 2)
    save_plan(directory, RunPlan())
    records.save(directory, Record(case, 1, (Round("ok"),)))
    assert run_verb(str(directory), "--format", "json") == 0
    assert {row["method"] for row in json.loads(capsys.readouterr().out)} == {"lot"}


def test_verify_says_what_it_does_not_know(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb("aoll") == 2
    assert "unknown method" in capsys.readouterr().err


def allowed() -> tuple[bool, bool]:
    """Whether products and convolutions may use tf32, by the older settings, which can be read only if the newer ones agree."""
    return torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32


def test_products_are_ieee_while_a_certificate_is_made_and_as_before_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    original = lipschitz.is_affine

    def watch(*arguments: object, **named: object) -> bool:
        seen.append(allowed())
        return original(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(lipschitz, "is_affine", watch)
    before = allowed()
    machine.set_precision("tf32")
    try:
        certify.certify(registry.build(LayerSpec("aol", 2, 3, 1)), torch.zeros(1, 2, 3, 3))
        assert allowed() == (True, True)
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
    assert set(seen) == {(False, False)}
