"""Converts the requested axes of a run to cases."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lipbench import adapters, errors, external
from lipbench.cases import (
    CONDITIONS,
    PAPER,
    PAPER_METHODS,
    PRESETS,
    Case,
    ExternalNetworkSpec,
    LayerSpec,
    NetworkSpec,
    Spec,
)


@dataclass(frozen=True, kw_only=True)
class Request:
    """Requested axes of a run. An axis that is None has the preset's values, or the default."""

    preset: str | None = None
    methods: tuple[str, ...] | None = None
    implementations: tuple[str, ...] | None = None
    channels: tuple[int, ...] | None = None
    image_sizes: tuple[int, ...] | None = None
    kernel_sizes: tuple[int, ...] | None = None
    batch_sizes: tuple[int, ...] | None = None
    networks: tuple[str, ...] | None = None
    settings: str = ""
    """further arguments of external layers and networks"""
    claim: float = 1.0
    """the Lipschitz constant that external layers and networks claim"""
    conditions: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    """values of conditions by their names in `cases.CONDITIONS`, without the device; made by `conditions`"""

    @property
    def names_cases(self) -> bool:
        """Whether methods or shapes were requested, and not only conditions."""
        shapes = (self.channels, self.image_sizes, self.kernel_sizes, self.batch_sizes, self.networks)
        return any(value is not None for value in (self.preset, self.methods, *shapes))

    @property
    def preset_name(self) -> str:
        return self.preset or "quick"

    @property
    def method_names(self) -> tuple[str, ...]:
        """Names of the requested methods, or of the paper's; files of external layers as absolute paths, and "peers" as the
        installed peers."""
        return tuple(external.absolute(name, self.settings) for name in adapters.expand(self.methods or PAPER_METHODS))

    @property
    def network_sizes(self) -> tuple[str, ...] | None:
        """Requested sizes of the paper's ConvNet; None if no networks were requested."""
        return None if self.networks is None else tuple(name for name in self.networks if not external.is_external(name))

    @property
    def external_networks(self) -> tuple[str, ...]:
        """Names of the requested external networks; files as absolute paths."""
        return tuple(external.absolute(name, self.settings) for name in self.networks or () if external.is_external(name))

    @property
    def implementation_names(self) -> tuple[str, ...]:
        return self.implementations or (PAPER,)


def conditions(**values: Sequence[Any] | None) -> Mapping[str, Sequence[Any]]:
    """The conditions of a request, without those that are None: they were not requested."""
    return {name: chosen for name, chosen in values.items() if chosen is not None}


def plan(request: Request, device: str, cores: int = 1, lacking: Collection[tuple[str, str]] = ()) -> tuple[Case, ...]:
    """The cases of a request on a device, each once. Raises `LipbenchError` for sizes that no case can have.

    Cases have the requested number of threads, by default one per core of the measuring machine. All methods at one shape come
    before the next shape, and cases that differ in a condition with a label, such as compiled and uncompiled, are adjacent. So
    a run that its deadline stops has comparable cases. `lacking` are pairs of a method and an implementation that have none.
    """
    if request.preset_name not in PRESETS:
        raise errors.unknown_choice("preset", request.preset_name, PRESETS)
    external.check_options((*request.method_names, *request.external_networks), request.settings, request.claim)
    batch_sizes = request.batch_sizes or (PRESETS[request.preset_name].batch_size,)
    asked = {"threads": (cores,), **request.conditions, "device": (device,)}
    axes = {one: [(one.name, value) for value in asked.pop(one.name, (one.default,))] for one in CONDITIONS}
    if asked:
        raise errors.unknown_choice("condition", next(iter(asked)), [one.name for one in CONDITIONS])
    around, beside = (
        [dict(chosen) for chosen in itertools.product(*(values for one, values in axes.items() if bool(one.label) == labelled))]
        for labelled in (False, True)
    )
    series: list[Sequence[Spec]] = [
        _specs(request, method, implementation)
        for method in request.method_names
        for implementation in ((PAPER,) if external.is_external(method) else request.implementation_names)
        if (method, implementation) not in lacking
    ]
    return tuple(
        dict.fromkeys(
            Case(spec, batch_size, **shared, **own)
            for batch_size, shared in itertools.product(batch_sizes, around)
            for spec in (*itertools.chain.from_iterable(zip(*series)), *_external_networks(request))
            for own in beside
        )
    )


def _external_networks(request: Request) -> Iterator[ExternalNetworkSpec]:
    """Specs of the external networks. They come after all methods, since they are not built from a method."""
    for image_size, name in itertools.product(request.image_sizes or (32,), request.external_networks):
        yield ExternalNetworkSpec(name, image_size, claim=request.claim)


def _specs(request: Request, method: str, implementation: str) -> list[Spec]:
    """Specs of a method: layers, then networks.

    A request for channels, image sizes or kernel sizes replaces the preset's shapes by the product of these axes, and omits the
    preset's networks. Networks requested without channels omit the layers; image and kernel sizes then apply to the networks.
    """
    preset = PRESETS[request.preset_name]
    as_preset = request.channels is None and request.image_sizes is None and request.kernel_sizes is None
    found: list[Spec] = []
    if request.networks is None or request.channels is not None:
        shapes = preset.layer_shapes if as_preset else _product(request, preset.layer_shapes)
        claim = request.claim if external.is_external(method) else 1.0
        found += [LayerSpec(method, *shape, implementation, claim) for shape in shapes]
    sizes = (preset.network_sizes if as_preset else ()) if request.network_sizes is None else request.network_sizes
    for size, image, kernel in itertools.product(sizes, request.image_sizes or (32,), request.kernel_sizes or (3,)):
        found.append(NetworkSpec(method, size, image, kernel, implementation))
    return found


def _product(request: Request, shapes: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """All combinations of the requested axes; other axes have the preset's values."""
    channels, image_sizes, kernel_sizes = (tuple(sorted(set(values))) for values in zip(*shapes))
    axes = (request.channels or channels, request.image_sizes or image_sizes, request.kernel_sizes or kernel_sizes)
    return list(itertools.product(*axes))
