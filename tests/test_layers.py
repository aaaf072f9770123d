"""Every layer is 1-Lipschitz if its method claims so, and behaves as a PyTorch module should."""

from __future__ import annotations

import pytest
import torch
from conftest import Variant
from torch import Tensor
from torch.func import jacrev

from lipbench import registry
from lipbench.errors import LipbenchError, UnsupportedError
from lipbench.layers.base import LipschitzConv2d

DTYPES = [torch.float32, torch.float64]
TOLERANCE = 1e-4
"""allowed excess over 1 of the largest singular value in evaluation mode"""


def call(layer: LipschitzConv2d, x: Tensor) -> Tensor:
    """The output, after the same random start vectors each time."""
    torch.manual_seed(3)
    return layer(x)  # type: ignore[no-any-return]  # modules return Any


def randomise(layer: LipschitzConv2d) -> None:
    """Replace the weights by random ones that do not depend on the initialisation."""
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    layer.refresh()


# Shapes, types, gradients


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
@pytest.mark.parametrize("sizes", [(4, 4, 1, 5), (4, 4, 3, 6), (6, 6, 5, 7), (3, 5, 3, 4), (5, 2, 3, 5)])
def test_keeps_image_size_and_dtype(
    variant: Variant, sizes: tuple[int, int, int, int], dtype: torch.dtype, training: bool
) -> None:
    layer = variant.build(*sizes, dtype=dtype).train(training)
    y = layer(variant.image(layer, batch=3))
    assert y.shape == (3, layer.out_channels, layer.image_size, layer.image_size)
    assert y.dtype == dtype
    assert y.isfinite().all()


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_takes_other_image_sizes(variant: Variant, training: bool) -> None:
    layer = variant.build().train(training)
    before = {name: value.shape for name, value in layer.state_dict().items()}
    for size in (9, 4):
        x = variant.image(layer, image_size=size)
        assert layer(x).shape == x.shape
    assert {name: value.shape for name, value in layer.state_dict().items()} == before


@pytest.mark.parametrize("disturbed", [True, False], ids=["random", "initial"])
@pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
def test_every_parameter_gets_a_gradient(variant: Variant, dtype: torch.dtype, disturbed: bool) -> None:
    layer = variant.build(dtype=dtype, disturbed=disturbed).train()
    x = variant.image(layer).requires_grad_()
    (layer(x) * torch.randn_like(x)).sum().backward()
    for name, tensor in {"input": x, **dict(layer.named_parameters())}.items():
        assert tensor.grad is not None, name
        assert tensor.grad.isfinite().all(), name
        assert tensor.grad.dtype == dtype, name
        assert disturbed is False or tensor.grad.abs().sum() > 0, name


def test_each_image_by_itself(variant: Variant) -> None:
    layer = variant.build().eval()
    x = variant.image(layer, batch=3)
    one_by_one = torch.cat([call(layer, image[None]) for image in x])
    torch.testing.assert_close(call(layer, x), one_by_one, rtol=1e-12, atol=1e-12)


def test_memory_format_of_the_input_is_free(variant: Variant) -> None:
    layer = variant.build()
    x = variant.image(layer)
    strided = x.to(memory_format=torch.channels_last)
    sliced = torch.cat((x, x), dim=3)[..., ::1][..., : x.shape[-1]]
    for training in (True, False):
        start = {name: value.clone() for name, value in layer.state_dict().items()}
        outputs = []
        for image in (x, strided, sliced):
            layer.load_state_dict(start)
            outputs.append(call(layer.train(training), image))
        for output in outputs[1:]:
            torch.testing.assert_close(output, outputs[0], rtol=1e-10, atol=1e-10)


# State


def test_state_dict_loads_into_a_fresh_layer(variant: Variant) -> None:
    layer = variant.build().eval()
    fresh = variant.build(disturbed=False).eval()
    x = variant.image(layer)
    expected = call(layer, x)
    assert not torch.allclose(call(variant.build(disturbed=False).eval(), x), expected, rtol=1e-3), "same before loading"
    fresh.load_state_dict(layer.state_dict(), strict=True)  # before any forward pass
    torch.testing.assert_close(call(fresh, x), expected, rtol=1e-10, atol=1e-10)
    layer.load_state_dict(layer.state_dict())
    assert torch.equal(call(fresh, x), call(layer, x))  # loading has the same effect on both


def test_state_is_complete_before_the_first_forward(variant: Variant) -> None:
    layer = variant.build()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    state, parameters = list(layer.state_dict()), list(layer.parameters())
    before = [parameter.detach().clone() for parameter in parameters]
    (layer(variant.image(layer)) ** 2).sum().backward()
    optimizer.step()
    layer.eval()(variant.image(layer))
    assert list(layer.state_dict()) == state
    assert all(a is b for a, b in zip(layer.parameters(), parameters))
    for parameter, value in zip(parameters, before):
        assert not torch.equal(parameter, value)


def test_only_training_changes_buffers(variant: Variant) -> None:
    layer = variant.build(disturbed=False)
    start = {name: value.clone() for name, value in layer.named_buffers()}
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(1.0 * torch.randn_like(parameter))
    layer.eval()(variant.image(layer))
    for name, value in layer.named_buffers():
        assert torch.equal(value, start[name]), name
    layer.train()(variant.image(layer))
    for name, value in layer.named_buffers():
        assert not torch.equal(value, start[name]), name


@pytest.mark.parametrize("method", ["aol", "lot"])
def test_starts_as_the_identity(method: str) -> None:
    layer = registry.implementation(method, "paper").layer(4, 4, 3, 6).eval()
    x = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(layer(x), x, rtol=1e-4, atol=1e-4)


# 1-Lipschitz


def singular_values(layer: LipschitzConv2d) -> Tensor:
    """Singular values of the Jacobian at a point where all units of a non-linear method are active: the worst case,
    I − B D Bᵀ with D = 1."""
    x = torch.zeros(1, layer.in_channels, layer.image_size, layer.image_size, dtype=torch.float64)
    if not registry.METHODS[method_of(layer)].linear:
        with torch.no_grad():
            assert isinstance(layer.bias, Tensor)
            layer.bias.fill_(1e3)
    size = x.numel()
    jacobian = jacrev(lambda image: call(layer, image))(x)
    return torch.linalg.svdvals(jacobian.reshape(-1, size))


def method_of(layer: LipschitzConv2d) -> str:
    return next(
        name
        for name, method in registry.METHODS.items()
        if type(layer) in [one.layer for one in method.implementations.values()]
    )


@pytest.mark.parametrize("start", ["initial", "random"])
@pytest.mark.parametrize("sizes", [(4, 4, 1, 4), (4, 4, 3, 6), (3, 3, 3, 5), (2, 4, 3, 5), (4, 2, 3, 5)])
def test_evaluation_is_1_lipschitz(variant: Variant, sizes: tuple[int, int, int, int], start: str) -> None:
    layer = variant.build(*sizes, disturbed=False).eval().requires_grad_(False)
    if start == "random":
        randomise(layer)
    values = singular_values(layer)
    if variant.keeps_its_promise_at(sizes[3], sizes[2]):
        assert values.max() <= 1 + TOLERANCE
    elif start == "random":
        assert values.max() > 1 + TOLERANCE, "a check that passes the plain convolution checks nothing"
    if variant.method.orthogonal and variant.keeps_its_promise_at(sizes[3], sizes[2]) and start == "initial":
        assert values.min() >= 1 - TOLERANCE


def test_is_1_lipschitz_with_loaded_weights(variant: Variant) -> None:
    """The file's buffers belong to other weights, as if it had been written between two refreshes."""
    if not variant.method.lipschitz:
        pytest.skip("does not claim to be")
    layer = variant.build().eval().requires_grad_(False)
    parameters = dict(layer.named_parameters())
    state = {name: torch.randn_like(value) if name in parameters else value for name, value in layer.state_dict().items()}
    layer.load_state_dict(state)
    assert singular_values(layer).max() <= 1 + TOLERANCE


def test_stays_1_lipschitz_in_training(variant: Variant) -> None:
    if not variant.method.lipschitz:
        pytest.skip("does not claim to be")
    layer = variant.build(3, 3, 3, 6).train()
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
    x, target = variant.image(layer, batch=4), variant.image(layer, batch=4)
    for _ in range(30):
        optimizer.zero_grad()
        (layer(x) - 3 * target).square().mean().backward()
        optimizer.step()
    layer.refresh()
    assert singular_values(layer.eval().requires_grad_(False)).max() <= 1 + TOLERANCE


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cpl_evaluates_in_half_precision_too(dtype: torch.dtype) -> None:
    layer = registry.implementation("cpl", "paper").layer(2, 2, 3, 5).to(dtype).eval()
    with torch.no_grad():
        assert torch.isfinite(layer(torch.ones(1, 2, 5, 5, dtype=dtype))).all()


def test_cpl_is_left_as_it_was_by_images_of_another_size() -> None:
    layer = registry.implementation("cpl", "paper").layer(2, 2, 3, 5)
    with torch.inference_mode():
        layer(torch.ones(1, 2, 4, 4))
    layer(torch.ones(1, 2, 4, 4)).sum().backward()
    assert list(dict(layer.named_buffers())) == ["u"]


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize(("image_size", "least"), [(8, 1.3), (9, None), (12, None), (16, 1.3)])
def test_eco_is_orthogonal_only_where_3_divides_the_image(image_size: int, least: float | None, training: bool) -> None:
    layer = registry.implementation("eco", "paper").layer(2, 2, 3, image_size).double().train(training).requires_grad_(False)
    basis = torch.eye(2 * image_size**2, dtype=torch.float64).reshape(-1, 2, image_size, image_size)
    layer.bias.zero_()
    values = torch.linalg.svdvals(layer(basis).flatten(1))
    if least is not None:
        assert values.max() > least
    else:
        # A series of n terms for the exponential of a skew matrix of norm 1 is off by less than 2/(n + 1)!.
        assert (values - 1).abs().max() <= (2 / 720 if training else 2 / 39_916_800)


def test_sandwich_contracts_every_pair() -> None:
    layer = registry.implementation("sandwich", "paper").layer(3, 3, 3, 5).double().eval().requires_grad_(False)
    randomise(layer)
    near = torch.randn(64, 3, 5, 5, dtype=torch.float64)
    for distance in (1e-3, 1.0):
        far = near + distance * torch.randn_like(near)
        ratios = (layer(near) - layer(far)).flatten(1).norm(dim=1) / (near - far).flatten(1).norm(dim=1)
        assert 0 < ratios.max() <= 1
        for x in near[:4]:
            jacobian = torch.autograd.functional.jacobian(layer, x[None]).reshape(75, 75)
            assert torch.linalg.matrix_norm(jacobian, 2) <= 1 + 1e-12


# Wrong use


@pytest.mark.parametrize("kernel_size", [2, 4])
def test_even_kernels_are_refused(variant: Variant, kernel_size: int) -> None:
    layer_type = variant.method.implementations[variant.implementation].layer
    with pytest.raises(UnsupportedError, match=f"kernel size must be odd: got {kernel_size}"):
        layer_type(4, 4, kernel_size, 6)


@pytest.mark.parametrize("shape", [(2, 4, 5, 6), (4, 6, 6), (2, 4, 6)])
def test_only_square_images_are_taken(variant: Variant, shape: tuple[int, ...]) -> None:
    layer = variant.build()
    with pytest.raises(LipbenchError, match="square"):
        layer(torch.randn(shape, dtype=torch.float64))


@pytest.mark.parametrize("method", ["cpl", "eco", "sll"])
def test_some_methods_need_equal_channels(method: str) -> None:
    with pytest.raises(UnsupportedError, match="got 3 and 4"):
        registry.implementation(method, "paper").layer(3, 4, 3, 6)


def test_eco_has_two_kernel_sizes() -> None:
    with pytest.raises(UnsupportedError, match=r"ECO does not support this kernel size: got 5; use a kernel size of 1 or 3\.$"):
        registry.implementation("eco", "paper").layer(4, 4, 5, 9)


@pytest.mark.parametrize("method", ["cayley", "sandwich"])
def test_fourier_methods_need_the_kernel_to_fit_the_image(method: str) -> None:
    layer_type = registry.implementation(method, "paper").layer
    with pytest.raises(UnsupportedError, match="kernel 5 and image 4"):
        layer_type(2, 2, 5, 4)
    with pytest.raises(UnsupportedError, match="kernel 5 and image 4"):
        layer_type(2, 2, 5, 6)(torch.randn(1, 2, 4, 4))


@pytest.mark.parametrize(("method", "kernel_size"), [("eco", 1), ("eco", 3), ("soc", 1)])
def test_a_skew_matrix_of_one_channel_is_zero_and_refused(method: str, kernel_size: int) -> None:
    with pytest.raises(UnsupportedError, match="use at least 2 channels"):
        registry.METHODS[method].implementations["paper"].layer(1, 1, kernel_size, 3)
