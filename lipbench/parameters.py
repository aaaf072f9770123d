"""What a parameter of an external layer or network means, by its name, and only where the name is clear."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence

IN, OUT, KERNEL, IMAGE, CLASSES = "input channels", "output channels", "kernel size", "image size", "classes"
"""meanings; `IN` is also that of a count that serves input and output"""

_COUNT = "(channels?|chans?|chn?s?|planes?|features?|feats?|dims?|c)"
_WITH_SIDE = {
    IN: f"(n|num)?(in|ins|input){_COUNT}|({_COUNT}|n|d)in(put)?|inp|in",
    OUT: f"(n|num)?(out|outs|output){_COUNT}|({_COUNT}|n|d)out(put)?|outp|out",
}
_MEANINGS = {
    **_WITH_SIDE,
    KERNEL: "k|ks|ksize|kernel|kernel(size|width|height|sz|length)|kersize|convsize|filtersize",
    IMAGE: "(input|in)?(image|img|im)(size|res|resolution|width|height|dim)|(input|in)?resolution|spatial(size)?"
    "|(input|in)(height|width)",
}
"""meaning → names, in small letters without underscores"""
_CHANNELS = "(n|num|nb|no)?(of)?(channels?|chans?|planes?|features?)|ch|c"
_CLASSES = "classes|(n|num|nb|no|number)(of)?(class|classes|cls|labels|outputs)|class(num|count)|outfeatures|outdim"
_FEATURES = "(n|num)?(in|input)(features?|feats?|dims?)|(features?|feats?|dims?|d)in"
_WEAK = ("k", "kernel", "c", "ch", "spatial")
"""names that have their meaning only where no other parameter has it"""
_UNNAMED = "abimnoxy"
"""names of one letter that say nothing: the parameter has the meaning of its place, as one named `_` has"""
_SHORT_IMAGE = ("s", "size", "image", "inputsize", "side", "hw", "")
"""names of the second of three parameters, without underscores, that mean the image size in an adapter"""

Parameters = Mapping[str, inspect.Parameter]
Meanings = Mapping[str, str]
"""name of a parameter → its meaning; without those whose names say nothing clear"""


def of_layer(found: Parameters) -> Meanings:
    """Meanings of a layer's parameters: its channels, kernel size and image size."""
    known = _known(found, {**_MEANINGS, IN: f"{_MEANINGS[IN]}|{_CHANNELS}"})
    if "c" in known and next(iter(found)) != "c":
        del known["c"]  # in another place it may be the third of (a, b, c)
    for name, meaning in zip(found, (IN, OUT, KERNEL)):
        if not _plain(name) or (name in _UNNAMED and meaning != KERNEL and _is_count(found[name])):
            known[name] = meaning
    for pair in (("height", "width"), ("h", "w")):
        if {*pair} <= {*found}:
            known |= dict.fromkeys(pair, IMAGE)
    if {IN, OUT} & {*known.values()}:  # else it may be a number of features
        known |= {name: IMAGE for name, one in found.items() if name in ("input_size", "in_size") and _is_whole(one)}
    return known


def of_adapter(found: Parameters) -> Meanings:
    """Meanings of the parameters of a function in a file: (channels, image_size, kernel_size), also under short names."""
    known = dict(of_layer(found))
    names = [*found][:3]
    if [known.get(name) for name in names[::2]] == [IN, KERNEL] and _plain(names[1]) in _SHORT_IMAGE:
        known[names[1]] = IMAGE
    return known


def of_network(found: Parameters) -> Meanings:
    """Meanings of a network's parameters: its image size, classes and input channels."""
    return _known(found, {CLASSES: _CLASSES, IN: _MEANINGS[IN], IMAGE: _MEANINGS[IMAGE]})


def counts_features(name: str) -> bool:
    """Whether a parameter is the number of input features of a fully connected layer."""
    return re.fullmatch(_FEATURES, _plain(name)) is not None


def wants_pair(one: inspect.Parameter) -> bool:
    """Whether a parameter takes a size as a pair: its default is one, or its annotation says so."""
    return isinstance(one.default, tuple | list) or re.match(r"(typing\.)?tuple\[", _annotation(one).lower()) is not None


def _known(found: Parameters, meanings: Mapping[str, str]) -> dict[str, str]:
    known: dict[str, str] = {}
    for name, one in found.items():
        meaning = next((meaning for meaning, names in meanings.items() if re.fullmatch(names, _plain(name))), None)
        if meaning and _is_count(one, pairs=meaning in (KERNEL, IMAGE)):
            known[name] = meaning
    return {name: meaning for name, meaning in known.items() if name not in _WEAK or not _others(known, name)}


def _others(known: Meanings, name: str) -> Sequence[str]:
    return [other for other in known if other not in _WEAK and known[other] == known[name]]


def _plain(name: str) -> str:
    return name.replace("_", "").lower()


def _is_count(one: inspect.Parameter, pairs: bool = False) -> bool:
    """Whether a parameter can take a whole number, by its kind, annotation and default."""
    if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) or _annotation(one) in ("bool", "float", "str"):
        return False
    if wants_pair(one):
        return pairs and (one.default is one.empty or len(one.default) == 2)
    whole = isinstance(one.default, int) and not isinstance(one.default, bool)
    return whole or one.default is one.empty or one.default is None


def _is_whole(one: inspect.Parameter) -> bool:
    return one.default is one.empty and _annotation(one) == "int"


def _annotation(one: inspect.Parameter) -> str:
    if one.annotation is one.empty:
        return ""
    return one.annotation if isinstance(one.annotation, str) else getattr(one.annotation, "__name__", str(one.annotation))


def signature(function: Callable[..., object]) -> Parameters:
    """The parameters of a callable by name. Raises `ValueError` or `TypeError` where Python cannot tell them."""
    return dict(inspect.signature(function).parameters)
