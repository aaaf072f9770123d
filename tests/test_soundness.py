"""Over random compositions of known parts, no upper bound is below a dense Jacobian, and no lower bound above an upper one."""

from __future__ import annotations

import math
from collections import Counter

import pytest
import torch
from composed_layers import composition, dense_constant
from conftest import EXHAUSTIVE

from lipbench import certify
from lipbench.meters import lipschitz

NUMBER = 200 if EXHAUSTIVE else 40
ROUNDING = 1e-6


def test_bounds_of_random_compositions_are_bounds(capsys: pytest.CaptureFixture[str]) -> None:
    kinds: Counter[str] = Counter()
    for seed in range(NUMBER):
        module, like = composition(seed)
        truth = dense_constant(module, like)
        found = certify.certify(module, like, training=False)
        upper = min((bound.largest for bound in found.evaluation if bound.kind != "lower bound"), default=math.inf)
        lower = max((bound.largest for bound in found.evaluation if bound.kind != "upper bound"), default=0.0)
        assert truth <= upper * (1 + ROUNDING) + 1e-12, (seed, truth, found)
        assert lower <= upper * (1 + ROUNDING) + 1e-12, (seed, found)
        if found.evaluation[0].kind == "exact":
            assert found.evaluation[0].largest == pytest.approx(truth, rel=1e-5), (seed, found)
        limit = 1 + lipschitz.TOLERANCE
        kinds[found.evaluation[0].kind if upper <= limit or lower > limit else "undecided"] += 1
        kinds["above 1" if truth > limit else "not above 1 at the points"] += 1
    with capsys.disabled():
        print(f"\n{NUMBER} compositions: {dict(kinds)}")
    assert kinds["undecided"] <= NUMBER // 10
    assert min(kinds["above 1"], kinds["not above 1 at the points"]) >= NUMBER // 5


def test_compositions_are_the_same_in_every_run() -> None:
    (one, like), (other, _) = composition(3), composition(3)
    x = torch.randn_like(like)
    assert torch.equal(one(x.clone()), other(x.clone()))
