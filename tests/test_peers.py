"""Layers of other packages: their list, and figures of them that are known from elsewhere."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
import torch

from lipbench import adapters, certify, registry
from lipbench.cases import Case, LayerSpec
from lipbench.errors import LipbenchError
from lipbench.meters import macs
from lipbench.run.consent import require_consent
from lipbench.run.plan import Request, plan
from lipbench.workload import Workload

pytestmark = pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True to a scalar:UserWarning")
C, S, K, B = 8, 8, 3, 2
AOC, TORCHLIP = "lipbench.adapters.orthogonium:orthogonium_aoc", "lipbench.adapters.torchlip:torchlip_spectral"
ORTHOGONAL = "lipbench.adapters.torch_utils:torch_orthogonal"
SPECTRAL = "lipbench.adapters.torch_utils:torch_spectral_norm"


def workload(name: str, kernel_size: int = K) -> Workload:
    if name not in adapters.installed():
        pytest.skip(f"{adapters.PEERS[name]} is not installed")
    spec = LayerSpec(name, C, S, kernel_size)
    return Workload.build(Case(spec, B), registry.build(spec), "initial")


def test_peers_stand_for_the_installed_ones_each_once() -> None:
    found = adapters.expand(["aol", ORTHOGONAL, "peers"])
    assert found[:2] == ["aol", ORTHOGONAL]
    assert set(found[1:]) == set(adapters.installed())
    methods = [case.spec.method for case in plan(Request(methods=("peers",), channels=(C,)), "cpu")]
    assert list(dict.fromkeys(methods)) == adapters.installed()


def test_without_packages_there_are_no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(adapters, "version", missing)
    with pytest.raises(LipbenchError, match=r"install lipbench\[peers\]"):
        adapters.expand(["peers"])
    assert adapters.expand(["aol"]) == ["aol"]


def test_peers_need_no_consent() -> None:
    require_consent([LayerSpec(name, C, S) for name in adapters.PEERS], [])
    with pytest.raises(LipbenchError, match="evil:Layer"):
        require_consent([LayerSpec("evil:Layer", C, S)], [])


@pytest.mark.parametrize("name", adapters.PEERS)
def test_every_peer_keeps_the_shape_of_its_images(name: str) -> None:
    one = workload(name)
    assert one.forward().shape == (B, C, S, S)


@pytest.mark.parametrize("name", [AOC, TORCHLIP])
def test_the_input_half_of_a_peer_with_an_explicit_kernel_is_one_convolution(name: str) -> None:
    assert macs.measure(workload(name)).per_image == S**2 * C**2 * K**2


@pytest.mark.parametrize(("name", "kernel_size", "verdict"), [
    (AOC, K, "ok"), (TORCHLIP, K, "ok"), (ORTHOGONAL, K, "ok"), (SPECTRAL, 1, "ok"), (SPECTRAL, K, "violates"),
])  # fmt: skip
def test_what_a_peer_claims_is_judged(name: str, kernel_size: int, verdict: str) -> None:
    one = workload(name, kernel_size)
    for _ in range(30):  # power iterations settle
        with torch.no_grad():
            one.module.train()(one.x)
    assert certify.verdict(certify.certify(one.module, one.x, training=False))[0] == verdict
