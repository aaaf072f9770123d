"""Checkpoints: everything that a training needs to go on, in one file of safetensors, which executes nothing when it is read.

The tensors of a module lie in its parameters and buffers, under the names of its state dict, and in plain attributes and
containers, under a name that begins with `+`. They are copied into place, since `load_state_dict` calls hooks that iterate
state.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lipbench import errors
from lipbench.store import files
from lipbench.weights import REGISTERED, Holder, holders, items

FILE, WEIGHTS = "checkpoint.safetensors", "weights.safetensors"
_KEY = "lipbench"
"""of the JSON in the file's metadata"""


@dataclass(frozen=True)
class Checkpoint:
    """Tensors by name, and JSON-ready values."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names begin with a prefix, which is removed."""
        return {name.removeprefix(prefix): one for name, one in self.tensors.items() if name.startswith(prefix)}


def write(path: Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a checkpoint atomically. Raises `LipbenchError` without the package safetensors."""
    stored = {name: _stored(tensor) for name, tensor in tensors.items()}
    files.write_file(path, _safetensors().torch.save(stored, {_KEY: json.dumps(values)}))


def _stored(tensor: Tensor) -> Tensor:
    value = tensor.detach().to("cpu", copy=True).resolve_conj()
    return (torch.view_as_real(value) if value.is_complex() else value).contiguous()


def read(path: Path) -> Checkpoint:
    """Read a checkpoint to the CPU. Raises `LipbenchError` for what `write` did not write, and without safetensors."""
    package = _safetensors()
    if not path.is_file():
        raise errors.unreadable_checkpoint(path, "there is no such file")
    try:
        with package.safe_open(path, "pt") as file:
            values = json.loads((file.metadata() or {})[_KEY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no dict
    except KeyError:
        raise errors.unreadable_checkpoint(path, "it is a file of another program") from None
    except (OSError, ValueError, RecursionError, package.SafetensorError) as error:
        raise errors.unreadable_checkpoint(path, str(error)) from error
    if not isinstance(values, dict):
        raise errors.unreadable_checkpoint(path, "its metadata are no object")
    return Checkpoint(tensors, values)


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise errors.no_train_extra("a checkpoint", "safetensors") from error
    return safetensors


def write_weights(module: nn.Module, path: Path, case: Mapping[str, Any]) -> None:
    """Write the tensors of a trained module, with the case as `records.case_to_dict` gives it. Raises as `write` does."""
    write(path, tensors_of(module), {"case": dict(case), "numbers": numbers_of(module)})


def load_weights(module: nn.Module, path: Path) -> None:
    """Put stored weights into a module that was built for their case. Raises `LipbenchError` where they do not fit."""
    stored = read(path)
    numbers = stored.values.get("numbers")
    if why := restore(module, stored.tensors, numbers if isinstance(numbers, dict) else {}):
        raise errors.unreadable_checkpoint(path, why)


# ------------------------------------------------------------------------------------------------------ the state of a module


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor that a module holds, by its name; also the states of its random generators."""
    found = _registered(module)
    known = {id(tensor) for tensor in found.values()}
    for name, _, _, value in _places(module):
        if isinstance(value, torch.Generator):
            found[name] = value.get_state()
        elif isinstance(value, Tensor) and id(value) not in known and not nn.parameter.is_lazy(value):
            found[name] = value
    return found


def numbers_of(module: nn.Module) -> dict[str, float | bool]:
    """Every plain number that a module holds in attributes and containers, such as a count of its calls, by its name."""
    return {name: value for name, _, _, value in _places(module) if isinstance(value, bool | int | float)}


def _registered(module: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(module.named_parameters(remove_duplicate=False)), **dict(module.named_buffers(remove_duplicate=False))
    }  # fmt: skip


def _attributes(module: nn.Module) -> Iterator[tuple[str, Holder]]:
    """The containers that hold state, with their names, except those in which PyTorch keeps what is registered."""
    registered = {id(vars(part)[name]) for part in module.modules() for name in REGISTERED}
    yield from ((f"+{place}", holder) for place, holder in list(holders(module)) if id(holder) not in registered)


def _places(module: nn.Module) -> Iterator[tuple[str, Holder | None, Any, Any]]:
    """Name, container, key and value of everything outside parameters and buffers, except the mode.

    What lies in a tuple has no container, since it cannot be replaced.
    """
    for place, holder in _attributes(module):
        for key, value in items(holder):
            if key != "training":
                yield f"{place}.{key}", holder, key, value
                if isinstance(value, tuple):
                    yield from ((f"{place}.{key}[{number}]", None, number, one) for number, one in enumerate(value))


@torch.no_grad()
def restore(module: nn.Module, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> str:
    """Put tensors and numbers into a module of the same kind; returns what does not fit, "" if all fits.

    The numbers of a module may be more than were stored. An attribute that was a tensor and is not yet one becomes one.
    """
    registered, left = _registered(module), dict(tensors)
    for name, tensor in registered.items():
        value = left.pop(name, None)
        if value is None or not _fits(value, tensor):
            return f"{name} is missing or has another shape"
        tensor.copy_(_read_as(value, tensor.dtype))
    device = next((tensor.device for tensor in registered.values()), torch.device("cpu"))
    attributes = dict(_attributes(module))
    places = {name: (holder, key, value) for name, holder, key, value in _places(module)}
    for name, value in left.items():
        holder, key, present = places.get(name, (attributes.get(name.rpartition(".")[0]), name.rpartition(".")[2], None))
        if isinstance(present, torch.Generator):
            present.set_state(value)
        elif isinstance(present, Tensor) and present.is_leaf and _fits(value, present):
            present.copy_(_read_as(value, present.dtype))
        elif holder is not None:
            holder[key] = value.to(device)
        else:
            return f"the module has no place {name}"
    for name, number in numbers.items():
        holder, key, present = places.get(name, (None, None, None))
        if holder is not None and type(present) is type(number):
            holder[key] = number
    return ""


def _read_as(value: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.view_as_complex(value) if dtype.is_complex and not value.is_complex() else value


def _fits(value: Tensor, like: Tensor) -> bool:
    shape = (*like.shape, 2) if like.dtype.is_complex and not value.is_complex() else tuple(like.shape)
    return tuple(value.shape) == shape
