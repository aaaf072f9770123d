"""Layers of other packages: one file per package, one function per layer, called with the sizes by name.

`PEERS` lists them, and `--method peers` stands for all whose package is installed. This file imports no torch.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from lipbench import errors

PEERS_WORD = "peers"
PEERS = {
    "lipbench.adapters.orthogonium:orthogonium_aoc": ("orthogonium",),
    "lipbench.adapters.orthogonium:orthogonium_aol": ("orthogonium",),
    "lipbench.adapters.orthogonium:orthogonium_sll": ("orthogonium",),
    "lipbench.adapters.orthogonium:orthogonium_cayley": ("orthogonium", "einops"),
    "lipbench.adapters.torchlip:torchlip_spectral": ("deel-torchlip",),
    "lipbench.adapters.torch_utils:torch_orthogonal": (),
    "lipbench.adapters.torch_utils:torch_spectral_norm": (),
}
"""external name → the distributions that it needs, beside torch"""


def installed() -> list[str]:
    """Names of the peers whose packages are installed."""
    return [name for name, needed in PEERS.items() if all(map(_is_installed, needed))]


def _is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


def expand(names: Iterable[str]) -> list[str]:
    """The names, each once, with the installed peers in place of "peers".

    Raises `LipbenchError` if "peers" is among them and no other package is installed.
    """
    found = list(names)
    if PEERS_WORD in found and not any(PEERS[name] for name in installed()):
        raise errors.no_peers()
    return list(dict.fromkeys(one for name in found for one in (installed() if name == PEERS_WORD else [name])))
