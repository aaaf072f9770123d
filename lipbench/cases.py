"""Cases as frozen data: the layer or network to measure, and the conditions of the measurement.

Nothing here imports torch, so that listing, planning and reading runs stay quick.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from lipbench import errors, external
from lipbench.bounds import require_choice, require_claim, require_positive

PAPER_METHODS = ("standard", "aol", "bcop", "cayley", "cpl", "lot", "sll", "soc")
DTYPES = ("float32", "float64")
AUTOCAST = {"bf16": "bfloat16", "fp16": "float16"}
"""precision → PyTorch's name of the dtype in which autocast lets operations compute; the weights stay float32"""
PRECISIONS = ("ieee", "tf32x3", "tf32", *AUTOCAST)
"""only Triton kernels have tf32x3: PyTorch's own products are then ieee"""
DEVICES = ("cpu", "cuda")
PAPER, TRITON, LEAN = "paper", "triton", "lean"
"""names of implementations: the algorithm as published, the one with Triton kernels, and the one with less time and memory"""
WIDTHS = {"XS": 16, "S": 32, "M": 64, "L": 128}
"""Channels w of the first block of the paper's ConvNet by size (Table 5) for 32 × 32 images; half as many for 64 × 64."""
NETWORK_IMAGE_SIZES = (8, 16, 32, 64)
"""Image sizes of the ConvNet: 32 and 64 as published, and its continuation to smaller images, with the same 32 w features."""
CLASSES = 10
"""Outputs of a network."""
EXTERNAL = "external"
"""Used in place of a size for a network that is not the paper's."""
COLOURS = 3
"""Channels of the images that networks take."""


def _claimed(claim: float) -> str:
    return "" if claim == 1 else f"-L{claim!r}"


def needs_triton(implementation: str) -> bool:
    """Whether an implementation of this name runs Triton kernels, which need a CUDA device.

    `Implementation.needs` says the same, but the process that plans and schedules cannot read it: the registry imports torch.
    """
    return implementation == TRITON


@dataclass(frozen=True, order=True)
class LayerSpec:
    """One convolution, `channels` → `channels` on `image_size` × `image_size` images, kernel `kernel_size` × `kernel_size`.

    `method` is a name of the registry, or an external one, as `external.absolute` gives it.
    """

    method: str
    channels: int
    image_size: int
    kernel_size: int = 3
    implementation: str = PAPER
    claim: float = 1.0
    """the Lipschitz constant that an external layer claims"""

    def __post_init__(self) -> None:
        require_positive(channels=self.channels, image_size=self.image_size, kernel_size=self.kernel_size)
        if self.kernel_size % 2 == 0:
            raise errors.even_kernel(self.kernel_size)
        require_claim(self.claim)

    @property
    def input_channels(self) -> int:
        """Channels of the layer's input images."""
        return self.channels

    @property
    def slug(self) -> str:
        sizes = f"c{self.channels}-s{self.image_size}-k{self.kernel_size}"
        return f"{external.slug(self.method)}-{self.implementation}-{sizes}{_claimed(self.claim)}"


@dataclass(frozen=True, order=True)
class NetworkSpec:
    """The paper's ConvNet of a `size` (XS, S, M, L) built from a method, for images of one of `NETWORK_IMAGE_SIZES`."""

    method: str
    size: str
    image_size: int = 32
    kernel_size: int = 3
    implementation: str = PAPER
    claim: ClassVar[float] = 1.0
    """each layer of the network must be 1-Lipschitz"""

    def __post_init__(self) -> None:
        require_choice("network size", self.size, tuple(WIDTHS))
        if self.image_size not in NETWORK_IMAGE_SIZES:
            raise errors.unknown_choice("network image size", self.image_size, NETWORK_IMAGE_SIZES)
        require_positive(kernel_size=self.kernel_size)
        if self.kernel_size % 2 == 0:
            raise errors.even_kernel(self.kernel_size)

    @property
    def channels(self) -> int:
        """Channels of the first block: the paper's width w."""
        return WIDTHS[self.size] * 32 // self.image_size

    @property
    def input_channels(self) -> int:
        """Channels of the network's input images."""
        return COLOURS

    @property
    def slug(self) -> str:
        return f"{external.slug(self.method)}-{self.implementation}-convnet{self.size}-s{self.image_size}-k{self.kernel_size}"


@dataclass(frozen=True, order=True)
class ExternalNetworkSpec:
    """A network that is not the paper's ConvNet: (b, 3, image_size, image_size) → (b, classes).

    `method` is its external name, `package.module:name` or `file.py:name` with the file's whole path. The network chooses its
    own layers: it has no width, no kernel size and no implementations.
    """

    method: str
    image_size: int = 32
    classes: int = CLASSES
    claim: float = 1.0
    """the Lipschitz constant that the network claims"""

    def __post_init__(self) -> None:
        require_positive(image_size=self.image_size, classes=self.classes)
        require_claim(self.claim)

    @property
    def implementation(self) -> str:
        return PAPER

    @property
    def channels(self) -> int:
        """Always 0: the network has no width."""
        return 0

    @property
    def kernel_size(self) -> int:
        """Always 0: the network has no kernel size."""
        return 0

    @property
    def input_channels(self) -> int:
        """Channels of the network's input images."""
        return COLOURS

    @property
    def slug(self) -> str:
        return f"{external.slug(self.method)}-network-s{self.image_size}{_claimed(self.claim)}"


Spec = LayerSpec | NetworkSpec | ExternalNetworkSpec
KINDS: dict[str, type[Spec]] = {"layer": LayerSpec, "network": NetworkSpec, "external network": ExternalNetworkSpec}
"""Types of spec, by the word that a case stores for them."""


def network_of(spec: Spec) -> str:
    """The word for a spec's network: a size of the paper's ConvNet, or `EXTERNAL`; "" for a layer."""
    if isinstance(spec, NetworkSpec):
        return spec.size
    return EXTERNAL if isinstance(spec, ExternalNetworkSpec) else ""


@dataclass(frozen=True)
class Condition:
    """One condition of a case: how it is written in ids, exports and reports. `CONDITIONS` has all of them."""

    name: str
    """the field of `Case`, which also has the default"""
    slug: str
    """format of the value in case ids; a condition with a label is written there only where it is not the default"""
    column: str = ""
    """name of the column in exports; "" for none"""
    choices: tuple[str, ...] = ()
    """the allowed values; empty where every value is allowed"""
    label: str = ""
    """format of a value other than the default in the names of series: cases with it are a series of their own, and are planned
    beside those without it. "" for a condition that is part of the shape, such as the dtype"""
    short: str = "{}"
    """format of the value in the name of a shape, as in "64 ch, 2 threads"; not used for a condition with a label"""
    words: str = "{}"
    """format of the value in a sentence about all cases, as in "64 channels, on cpu"; not used for a condition with a label"""
    affects_memory: bool = True
    """whether a case may fit into memory with one value and not with another"""
    always_exported: bool = True
    """False: the column is left out of the export of a run in which all cases have the default"""

    @property
    def default(self) -> Any:
        return Case.__dataclass_fields__[self.name].default

    @property
    def kind(self) -> str:
        """The column's type in data frames."""
        return {str: "str", int: "Int64", bool: "boolean"}[type(self.default)]


CONDITIONS = (
    Condition("dtype", "{}", "dtype", DTYPES),
    Condition("precision", "{}", "precision", PRECISIONS, words="{} precision"),
    Condition("device", "{}", "device", DEVICES, words="on {}"),
    Condition("threads", "t{}", "threads", short="{} threads", words="{} threads", affects_memory=False),
    Condition("seed", "seed{}", affects_memory=False),
    Condition("compile", "compiled", "compiled", label="compiled"),
    Condition("exported", "exported", "exported", label="exported", always_exported=False),
    Condition("recompute", "recomputed", "recomputed", label="recomputed", always_exported=False),
)
"""All fields of a case except its spec and its batch size. The batch size is a size, like channels and image size: the cost of
a case grows with it, so it orders cases and belongs to the shapes of presets. A new condition needs an entry here and a field
of `Case`."""


@dataclass(frozen=True, order=True)
class Case:
    """A layer or network, its batch size, and the conditions it is measured under. Equal cases mean the same measurement."""

    spec: Spec
    batch_size: int
    dtype: str = "float32"
    precision: str = "ieee"
    device: str = "cpu"
    threads: int = 1
    seed: int = 0
    compile: bool = False
    """whether `torch.compile` is used; False for records that are older than this field"""
    exported: bool = False
    """whether inference is that of the module's exported form, and nothing else is measured"""
    recompute: bool = False
    """whether the backward pass computes both halves of a layer again, in place of what the forward pass would keep"""

    def __post_init__(self) -> None:
        require_positive(batch_size=self.batch_size, threads=self.threads)
        for condition, value in self.conditions().items():
            if condition.choices:
                require_choice(condition.name, value, condition.choices)
        if self.exported and self.recompute:
            raise errors.exported_recomputed()

    def conditions(self) -> Mapping[Condition, Any]:
        """The value of each condition, in the order of `CONDITIONS`."""
        return {condition: getattr(self, condition.name) for condition in CONDITIONS}

    @property
    def is_half(self) -> bool:
        """Whether autocast lets operations compute in half precision; it changes nothing in float64."""
        return self.precision in AUTOCAST and self.dtype == "float32"

    @functools.cached_property
    def id(self) -> str:
        """Readable slug, the same on every machine; the stem of the record's file name."""
        written = [
            condition.slug.format(value)
            for condition, value in self.conditions().items()
            if not condition.label or value != condition.default
        ]
        return re.sub(r"[^A-Za-z0-9_.]+", "-", "-".join([self.spec.slug, f"b{self.batch_size}", *written]))


def columns_of(case: Case) -> dict[str, Any]:
    """Method, implementation, sizes and conditions of a case, by the names of their columns in tables."""
    spec = case.spec
    return {
        "method": spec.method, "implementation": spec.implementation, "network": network_of(spec),
        "channels": spec.channels or None, "image_size": spec.image_size, "kernel_size": spec.kernel_size or None,
        "batch_size": case.batch_size,
        **{condition.column: value for condition, value in case.conditions().items() if condition.column},
    }  # fmt: skip


def to_dict(case: Case) -> dict[str, Any]:
    """A case as JSON-ready values; `kind` is the word of its spec's type."""
    kind = next(word for word, spec_type in KINDS.items() if isinstance(case.spec, spec_type))
    return {"kind": kind, **asdict(case)}


def from_dict(values: dict[str, Any]) -> Case:
    """The case that `to_dict` wrote. Raises `LipbenchError` for a value that no case can have."""
    values = dict(values)
    spec_type = KINDS.get(values.pop("kind"), LayerSpec)
    return Case(**{**values, "spec": spec_type(**values["spec"])})


@dataclass(frozen=True)
class Preset:
    """Specs and batch size of a named selection, and the limits of its measurement."""

    layer_shapes: tuple[tuple[int, int, int], ...]
    """(channels, image_size, kernel_size)"""
    network_sizes: tuple[str, ...]
    batch_size: int
    rounds: int
    phase_seconds: float


def _block_shapes() -> tuple[tuple[int, int, int], ...]:
    """Shapes of the ConvNet's five blocks, XS to L (Table 6): channels double as the image halves; the last kernel is 1 × 1."""
    shapes = {(width * 2**block, 32 // 2**block, 3 if block < 4 else 1) for width in WIDTHS.values() for block in range(5)}
    return tuple(sorted(shapes))


PRESETS = {
    "quick": Preset(
        layer_shapes=((16, 16, 3), (32, 16, 3), (64, 16, 3)),
        network_sizes=(),
        batch_size=32,
        rounds=5,
        phase_seconds=0.2,
    ),
    "paper": Preset(layer_shapes=_block_shapes(), network_sizes=tuple(WIDTHS), batch_size=256, rounds=5, phase_seconds=0.4),
    "scaling": Preset(
        layer_shapes=(*((channels, 16, 3) for channels in (16, 32, 64, 128)), *((32, size, 3) for size in (8, 32, 64))),
        network_sizes=(),
        batch_size=16,
        rounds=3,
        phase_seconds=0.1,
    ),
}
"""scaling: costs against channels and against the image size, which share the shape of 32 channels and 16 × 16 images"""


@dataclass(frozen=True)
class Limits:
    """Limits of time and memory of a round."""

    phase_seconds: float = 0.2
    """sampling time of one phase in one round"""
    timeout_s: float = 300.0
    """wall time of one round, all its processes together"""
    memory_bytes: int | None = None
    """address space of one round's process; None: no limit"""
