"""Training steps of any module towards random targets, and the weights that a module is measured with.

Nothing here judges a module. Steps move trainable parameters alone; the other state moves as it does in training.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from lipbench.layers.base import TwoHalves
from lipbench.state import State
from lipbench.weights import forget_graphs

NOISE = 0.1
"""size of the noise added to the initial weights, relative to their root mean square"""
TRAINING_STEPS, LEARNING_RATES, MOMENTUM, TRAINING_BATCH = 100, (0.05, 0.005, 0.0005), 0.9, 8
"""steps of `train`; a smaller learning rate is tried where the values do not stay finite"""
FEW_STEPS, FEW_BATCH, ATTEMPTS = 5, 2, 4
STEP_SIZE, FASTER, SLOWER = 0.03, 3.0, 0.03
"""change of the weights in one of the few steps, relative to their norm, and its factor in another attempt"""
LEFT = 1e-3
"""relative change of the output by which a module has left its initial map"""
TARGET = 3.0
"""size of the targets: larger than a 1-Lipschitz map can reach, so that training raises the constant wherever it can"""


@torch.no_grad()
def add_noise(module: nn.Module, generator: torch.Generator) -> None:
    """Add noise to every trainable parameter, since many layers start as the identity and a trained layer never is.

    State that is iterated, such as vectors of power iterations, is brought to convergence where the layer has `refresh()`.
    """
    for parameter in module.parameters():
        if parameter.requires_grad:
            scale = parameter.abs().square().mean().sqrt() if parameter.any() else torch.ones(())
            parameter.add_(NOISE * scale * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
    refresh(module)


def refresh(module: nn.Module) -> None:
    """Bring the iterated state of every layer with two halves to convergence on the present weights."""
    for half in module.modules():
        if isinstance(half, TwoHalves):
            half.refresh()


def first_output(module: nn.Module, run: Callable[[], Tensor]) -> Tensor:
    """The output of the module's first pass, which `run` makes.

    Parameters and modules that this first pass makes stay; other state is restored.
    """
    is_unmade = any(nn.parameter.is_lazy(one) for one in module.parameters())
    state = None if is_unmade else State(module)
    with torch.no_grad():
        output = run()
    if state is not None:
        state.restore(keep_new_weights=True)
    return output


def leave_initial(module: nn.Module, x: Tensor, generator: torch.Generator) -> str:
    """Train a module in place for a few SGD steps on images of `x`, so that it is no longer the map that it started as.

    Each step changes the weights by some percent of their norm. Where that does not change the output, larger steps follow.
    Where values do not stay finite, the steps are smaller. Returns "" if the map has changed or has nothing to train, or else
    the reason. The weights are then the initial ones, or those after steps that did not change the map.
    """
    state, size, reason = State(module), STEP_SIZE, ""
    for _ in range(ATTEMPTS):
        try:
            change = _few_steps(module.train(), x.detach()[:FEW_BATCH], generator, size)
        except BaseException as error:  # an external module may raise anything, SystemExit too
            state.restore()
            reason = f"training steps failed ({' '.join(f'{type(error).__name__}: {error}'.split())})"
            break
        if change >= LEFT and math.isfinite(change):
            reason = ""
            break
        if math.isfinite(change):
            size, reason = size * FASTER, "the weights did not move in training steps"
        else:
            state.restore()
            size, reason = size * SLOWER, "training steps gave values that are not finite"
    if not any(parameter.requires_grad for parameter in module.parameters()):
        reason = ""
    module.zero_grad(set_to_none=True)
    forget_graphs(module)
    refresh(module)
    return reason


def _few_steps(module: nn.Module, images: Tensor, generator: torch.Generator, size: float) -> float:
    """Steps of a chosen size, relative to the weights' norm; returns the relative change of the output.

    It is 0 where no parameter moved, and not finite where an output or a parameter is not.
    """
    target, moved = _target(module, images, generator), False
    first: Tensor | None = None
    with torch.enable_grad():
        for _ in range(FEW_STEPS):
            module.zero_grad(set_to_none=True)
            output = module(images)
            first = output.detach().clone() if first is None else first
            _loss(output, target).backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            moved |= _step(module, size)
        last = module(images).detach()
    if not all(torch.isfinite(tensor).all() for tensor in (last, *module.parameters())):
        return math.nan
    assert first is not None
    change = float(torch.linalg.vector_norm(last - first) / torch.linalg.vector_norm(first).clamp_min(1e-30))
    return change if moved else 0.0


@torch.no_grad()
def _step(module: nn.Module, size: float) -> bool:
    """One step against the gradient, of `size` times the weights' norm; whether there was a gradient other than 0."""
    moving = [
        (one, one.grad.coalesce() if one.grad.is_sparse else one.grad) for one in module.parameters() if one.grad is not None
    ]
    slope = _norm(gradient for _, gradient in moving)
    if slope == 0.0:
        return False
    length = _norm(one for one, _ in moving) or math.sqrt(sum(one.numel() for one, _ in moving))
    for parameter, gradient in moving:
        parameter.add_(gradient, alpha=-size * length / slope)
    return True


def _norm(tensors: Iterable[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(one.detach())) for one in tensors))


def train(module: nn.Module, like: Tensor, seed: int = 0) -> float:
    """Train a module for 100 SGD steps towards random targets; returns the relative change of its weights.

    The targets have the shape of the output. Raises `ArithmeticError` where weights or loss are not finite, even with smaller
    steps; the module is then as before.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(TRAINING_BATCH, *like.shape[1:], generator=generator, dtype=like.dtype).to(like.device)
    state = State(module)
    target = _target(module.train(), x, generator)
    state.restore(keep_new_weights=True)
    parameters = [one for one in module.parameters() if one.is_floating_point() or one.is_complex()]
    before = [one.detach().clone() for one in parameters]
    for rate in LEARNING_RATES:
        loss = _train(module, parameters, x, target, rate)
        if math.isfinite(loss) and all(torch.isfinite(one).all() for one in parameters):
            break
        state.restore()
    else:
        raise ArithmeticError(f"{TRAINING_STEPS} SGD steps give values that are not finite; initialise the weights smaller")
    module.zero_grad(set_to_none=True)
    forget_graphs(module)
    moved = _norm(new.detach() - old for new, old in zip(parameters, before))
    return moved / max(1e-150, _norm(before))


def _train(module: nn.Module, parameters: list[nn.Parameter], x: Tensor, target: Tensor, rate: float) -> float:
    """All steps with one learning rate; returns the last loss."""
    optimizer = torch.optim.SGD([{"params": parameters}], lr=rate, momentum=MOMENTUM)
    for _ in range(TRAINING_STEPS):
        optimizer.zero_grad()
        loss = _loss(module(x), target)
        loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
        optimizer.step()
    return float(loss.detach())


def _target(module: nn.Module, x: Tensor, generator: torch.Generator) -> Tensor:
    """Random targets in the shape of the module's output."""
    with torch.no_grad():
        output: Tensor = module(x)
    return TARGET * torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)


def _loss(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).abs().square().mean()


def pass_through(module: nn.Module, like: Tensor, passes: int, scale: float, seed: int = 0) -> None:
    """Forward passes in training mode without a step, on random images of a size: only the module's own state moves."""
    generator = torch.Generator().manual_seed(seed)
    module.train()
    with torch.enable_grad():
        for _ in range(passes):
            x = torch.randn(FEW_BATCH, *like.shape[1:], generator=generator, dtype=like.dtype).to(like.device)
            module(scale * x)
    forget_graphs(module)
