"""Threads are fixed before torch starts; tests over the registry take the fixture `variant` and so meet every method.

Tests marked `heads` meet the fully connected layers of the registry too.
"""

from __future__ import annotations

import os

# Fresh processes find the layers that are in modules beside the tests.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (os.path.dirname(__file__), os.environ.get("PYTHONPATH"))))
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"  # read once, when torch is imported

import gc
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

os.environ["XDG_CACHE_HOME"] = os.path.join(tempfile.gettempdir(), "lipbench-tests")  # no rates of this machine

from lipbench.cli import waiting
from lipbench.run import profiling

profiling.RETRIES = 0  # tests run beside each other, so that many rounds are contended

if TYPE_CHECKING:
    import torch

    from lipbench.layers.base import LipschitzConv2d, LipschitzLinear, Method

EXHAUSTIVE = os.environ.get("LIPBENCH_EXHAUSTIVE") == "1"
"""whether property tests draw all their examples; by default some of them, for speed"""
CHANNELS, KERNEL_SIZE, IMAGE_SIZE = 4, 3, 6
"""Sizes that every method must take."""
HEAD = "head"
"""stands for an implementation where a variant is the fully connected layer of a method"""


@dataclass(frozen=True)
class Variant:
    """One implementation of one method of the registry, or its fully connected layer."""

    method: Method
    implementation: str

    @property
    def layer_type(self) -> type[LipschitzConv2d] | type[LipschitzLinear]:
        from lipbench import registry

        if self.implementation == HEAD:
            assert self.method.head is not None
            return self.method.head.layer
        return registry.implementation(self.method.name, self.implementation).layer

    def keeps_its_promise_at(self, image_size: int, kernel_size: int = KERNEL_SIZE) -> bool:
        """ECO as published is 1-Lipschitz only where 3 divides the image size; `test_certify.py` has it caught elsewhere."""
        broken = self.method.name == "eco" and kernel_size > 1 and image_size % 3 != 0
        return self.method.lipschitz and not broken

    def build(
        self,
        inputs: int = CHANNELS,
        outputs: int = CHANNELS,
        kernel_size: int = KERNEL_SIZE,
        image_size: int = IMAGE_SIZE,
        *,
        dtype: torch.dtype | None = None,
        disturbed: bool = True,
    ) -> LipschitzConv2d:
        """The layer in float64 (or `dtype`), moved away from its initial weights unless told otherwise.

        Skips the test where the implementation is not available on this machine or the method cannot take these sizes. The
        channels of a fully connected layer are its features; it has no other sizes.
        """
        import torch

        from lipbench.errors import UnsupportedError

        sizes = () if self.implementation == HEAD else (kernel_size, image_size)
        try:
            layer = self.layer_type(inputs, outputs, *sizes)
        except UnsupportedError as error:
            if self.implementation == "paper" and (inputs, outputs, kernel_size, image_size) == (
                CHANNELS,
                CHANNELS,
                KERNEL_SIZE,
                IMAGE_SIZE,
            ):
                raise
            pytest.skip(str(error))
        wanted = dtype or torch.float64
        if next(layer.parameters()).dtype != wanted:
            layer.to(wanted)
        if disturbed:
            disturb(layer)
        return layer

    def image(self, layer: LipschitzConv2d, batch: int = 2, image_size: int | None = None) -> torch.Tensor:
        """A normal input of the layer's channels, size, dtype and device. Skips where a size is asked of what has none."""
        import torch

        if self.implementation == HEAD:
            if image_size is not None:
                pytest.skip("a fully connected layer takes no images")
            shape: tuple[int, ...] = (layer.in_features,)
        else:
            size = image_size or layer.image_size
            shape = (layer.in_channels, size, size)
        parameter = next(layer.parameters())
        return torch.randn(batch, *shape, dtype=parameter.dtype, device=parameter.device)


def disturb(module: torch.nn.Module) -> None:
    """Move every parameter away from where it starts (an identity hides mistakes), and let power iterations follow."""
    import torch

    from lipbench.layers.base import TwoHalves

    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
    for part in module.modules():
        for _ in range(4 if isinstance(part, TwoHalves) else 0):  # until nothing moves any more
            part.refresh()


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "heads: tests over the registry that meet its fully connected layers too")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A process has triton's interpreter for all of its life or never; what needs it is in a folder of its own."""
    if os.environ.get("TRITON_INTERPRET") == "1":
        return
    for item in items:
        if "interpreted" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason="needs TRITON_INTERPRET=1 in the environment"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "variant" not in metafunc.fixturenames:
        return
    from lipbench import registry

    # Kernels take float32 on a GPU or in triton's interpreter: `tests/interpreted` holds them against `paper`.
    variants = [
        Variant(method, name)
        for method in registry.METHODS.values()
        for name, one in method.implementations.items()
        if not one.needs
    ]
    if metafunc.definition.get_closest_marker("heads"):
        variants += [Variant(method, HEAD) for method in registry.METHODS.values() if method.head]
    ids = [v.method.name if v.implementation == "paper" else f"{v.method.name}-{v.implementation}" for v in variants]
    metafunc.parametrize("variant", variants, ids=ids)


def _seed_torch() -> None:
    if "torch" in sys.modules:
        import torch

        torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """Every test draws the same numbers, alone or among others."""
    _seed_torch()


@pytest.fixture(autouse=True)
def _no_lines_of_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verb that takes long on a slow machine prints no line that a test does not expect."""
    monkeypatch.setattr(waiting, "PERIOD_S", 3600.0)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """So does every module of tests that builds layers for its parameters."""
    if isinstance(collector, pytest.Module):
        _seed_torch()


@pytest.fixture
def calls(variant: Variant, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Image sizes that the parameter half of the variant's layers was run for, in order."""
    seen: list[int] = []
    layer_type = variant.layer_type
    original = layer_type.parameter_half

    def counted(self: LipschitzConv2d, image_size: int) -> tuple[torch.Tensor, ...]:
        seen.append(image_size)
        return original(self, image_size)

    monkeypatch.setattr(layer_type, "parameter_half", counted)
    return seen


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium by Playwright; skips where either is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no Chromium on this machine")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def quick_collections() -> Iterator[None]:
    """Freezes what other tests have loaded, since the meter of memory collects garbage before each phase."""
    gc.freeze()
    yield
    gc.unfreeze()
