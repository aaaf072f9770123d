"""The frozen yardstick: MACs and stored elements of every `paper` layer, as the meters count them.

`python tests/yardstick.py` prints the table that is committed as `tests/yardstick.csv`. Commit a new one only with a reason:
the speed-ups of other implementations are told against these figures.
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch

from lipbench import registry
from lipbench.errors import UnsupportedError
from lipbench.layers.base import TwoHalves
from lipbench.meters import macs, saved

TABLE = Path(__file__).with_name("yardstick.csv")
SHAPES = ((2, 6, 3, 4), (3, 7, 3, 6), (2, 7, 3, 9), (2, 5, 5, 4), (2, 7, 7, 3), (4, 8, 1, 8))
"""(batch_size, image_size, kernel_size, channels): odd and even images and channels, four kernel sizes"""


def build(method: str, channels: int, kernel_size: int, image_size: int) -> TwoHalves:
    """The `paper` layer of a method in training mode."""
    return registry.implementation(method, "paper").layer(channels, channels, kernel_size, image_size)


def takes(method: str, batch_size: int, image_size: int, kernel_size: int, channels: int) -> bool:
    """Whether a method can be built at a shape."""
    try:
        build(method, channels, kernel_size, image_size)
    except UnsupportedError:
        return False
    return True


def counted_macs(layer: TwoHalves, x: torch.Tensor) -> tuple[int, int]:
    """Real MACs of the input and of the parameter half of one forward pass."""
    effective = layer.parameter_half(x.shape[-1])
    input_half = macs.count(lambda: layer.transform_input(x, *effective))
    parameter_half = macs.count(lambda: layer.parameter_half(x.shape[-1]))
    assert input_half.unsupported == parameter_half.unsupported == ()
    return input_half.total, parameter_half.total


def backward_macs(layer: TwoHalves, x: torch.Tensor) -> tuple[int, int]:
    """Real MACs of the backward pass through the input and through the parameter half, by themselves."""
    effective = layer.parameter_half(x.shape[-1])
    leaves = [tensor.detach().requires_grad_() for tensor in effective]
    output = layer.transform_input(x, *leaves)
    made = [tensor for tensor in effective if tensor.grad_fn is not None]  # the others are parameters as they stand
    counts = [macs.count(lambda: output.backward(torch.ones_like(output)))]
    counts += [macs.count(lambda: torch.autograd.backward(made, [torch.ones_like(one) for one in made]))] if made else []
    assert all(count.unsupported == () for count in counts)
    return counts[0].total, sum(count.total for count in counts[1:])


def evaluation_macs(layer: TwoHalves, x: torch.Tensor) -> tuple[int, int]:
    """Real MACs of a forward pass in evaluation mode, with the effective parameters cached and with an empty cache."""
    layer.eval().clear_cache()
    images = x.detach()
    with torch.inference_mode():
        first, again = (macs.count(lambda: layer(images)) for _ in range(2))
    layer.train()
    assert first.unsupported == again.unsupported == ()
    return again.total, first.total


def stored_elements(layer: TwoHalves, x: torch.Tensor) -> tuple[int, int]:
    """Elements kept for the backward pass by the input and the parameter half: what grows with the batch, what does not."""
    doubled = torch.cat((x, x)).detach().requires_grad_()
    small, large = (saved.saved_elements(lambda batch=batch: layer(batch)) for batch in (x, doubled))
    return large - small, 2 * small - large


def rows() -> pd.DataFrame:
    """One row per method and shape."""
    table = []
    for method in registry.METHODS:
        for batch_size, image_size, kernel_size, channels in SHAPES:
            torch.manual_seed(0)
            if not takes(method, batch_size, image_size, kernel_size, channels):
                continue
            layer = build(method, channels, kernel_size, image_size)
            x = torch.randn(batch_size, channels, image_size, image_size, requires_grad=True)
            counts = (*counted_macs(layer, x), *backward_macs(layer, x), *evaluation_macs(layer, x), *stored_elements(layer, x))
            table.append((method, batch_size, image_size, kernel_size, channels, *counts))
    columns = ["method", "batch_size", "image_size", "kernel_size", "channels"]
    columns += ["input_macs", "parameter_macs", "input_backward_macs", "parameter_backward_macs"]
    columns += ["inference_macs", "first_inference_macs", "input_elements", "parameter_elements"]
    return pd.DataFrame(table, columns=columns)


if __name__ == "__main__":
    print(rows().to_csv(index=False), end="")
