"""
Which checkpoint tensor is which parameter: prefixes, names, shapes.

By its name, whatever stands before it (``state_dict.model.features.0.weight``) and whatever
wrappers stand within it (``features.module.0.weight``).  What has another name is found by its
shape, and where two have one shape, by the order in which they stand.  The fully connected layers
may have other widths than the variant's, and there may be more or fewer of them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn

from model_export.alexnet import FULL, AlexNet, Ranks
from model_export.variants import Variant

StateDict = dict[str, Tensor]
Shape = tuple[int | None, ...]  # None: any length
# Batch normalisation counts its training steps; no output depends on the count.
COUNTER = ".num_batches_tracked"
# What DataParallel, torch.compile, FSDP and activation checkpointing put into names.
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
# Containers that are read only where no other fits: averages of weights, and other networks.
SECOND = re.compile(r"ema|avg|average|shadow|swa|teacher|target|momentum|optim", re.IGNORECASE)
# The parts of a layer in its names: ``fc6.weight``, ``fc6_w_0``, ``fc6.0`` of ``[weight, bias]``.
PART = re.compile(r"[._/](weights?|kernel|bias(es)?|[wbWB]|0|1)(_0|:0)?$")


@dataclass
class Match:
    """The tensors that were found, under the variant's names, and what is wrong."""

    build: Callable[[], AlexNet]  # the network of these shapes
    tensors: StateDict = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    prefix: str = ""  # stood before the names
    wrappers: tuple[str, ...] = ()  # stood within them
    renamed: int = 0  # tensors that were found by shape and order
    widths: tuple[int, ...] = ()  # of fully connected layers that are not the variant's
    left_out: tuple[str, ...] = ()  # tensors of something else
    others: tuple[str, ...] = ()  # prefixes before which the same names stand again

    def told(self, variant: Variant) -> str:
        """How the tensors were read, in one line."""
        parts = [f"{len(self.tensors)} tensors"]
        gone = [part for part in (self.prefix, *self.wrappers) if part]
        if gone:
            parts.append(f"prefix {' and '.join(gone)} removed")
        if self.renamed:
            parts.append(f"{self.renamed} of them found by shape and order")
        if self.widths:
            widths = "-".join(map(str, self.widths))
            parts.append(f"fully connected layers {widths}, taken to have ReLU between them")
        if self.others:
            parts.append(f"those of {' and '.join(self.others)} fit too and were not read")
        if self.left_out:
            more = f" and {len(self.left_out) - 3} more" if len(self.left_out) > 3 else ""
            parts.append(f"left out: {', '.join(self.left_out[:3])}{more}")
        return f"read as {variant.name}: {', '.join(parts)}"


def match(variant: Variant, state: Mapping[str, Tensor]) -> Match:
    """The variant's parameters among the tensors of a checkpoint; the problems name what fails."""
    with torch.device("meta"):  # shapes without numbers
        stock = variant.build(1, 3, FULL)
    state = {key: tensor for key, tensor in state.items() if not key.endswith(COUNTER)}
    prefixes = _prefixes(variant, stock, state) or [""]
    matches = [
        _matched(variant, stock, _behind(variant, state, prefix), prefix) for prefix in prefixes
    ]
    matches.sort(key=lambda each: (len(each.problems), bool(SECOND.search(each.prefix))))
    best, others = matches[0], [each.prefix for each in matches[1:] if not each.problems]
    best.others = tuple(others)
    best.wrappers = _wrappers(state, best.prefix)
    read = (best.prefix, *others)
    best.left_out += tuple(key for key in state if not key.startswith(read))
    return best


# ---- names


def _clean(key: str) -> str:
    """A name without the wrappers within it."""
    return ".".join(part for part in key.split(".") if part not in WRAPPERS)


def _wrappers(state: Mapping[str, Tensor], prefix: str) -> tuple[str, ...]:
    """The wrappers within the names behind a prefix."""
    names = [key.removeprefix(prefix) for key in state if key.startswith(prefix)]
    parts = {part for name in names for part in name.split(".")}
    return tuple(f"{part}." for part in sorted(parts & WRAPPERS))


def _behind(variant: Variant, state: Mapping[str, Tensor], prefix: str) -> StateDict:
    """The tensors behind a prefix, under the variant's names where they are known."""
    return {
        variant.rename(_clean(key.removeprefix(prefix))): tensor
        for key, tensor in state.items()
        if key.startswith(prefix)
    }


def _prefixes(variant: Variant, stock: AlexNet, state: Mapping[str, Tensor]) -> list[str]:
    """What stands before the name of the first convolution's weight, wherever it stands."""
    first, prefixes = _first_convolution(stock), []
    for key, tensor in state.items():
        parts = key.split(".") if tensor.ndim == 4 else []
        for place in range(len(parts)):
            if variant.rename(_clean(".".join(parts[place:]))) == first:
                prefixes.append("".join(f"{part}." for part in parts[:place]))
                break
    return list(dict.fromkeys(prefixes))


def _first_convolution(network: AlexNet) -> str:
    layers = network.named_modules()
    return next(f"{name}.weight" for name, layer in layers if isinstance(layer, nn.Conv2d))


def _layer(key: str) -> str:
    """The layer of a tensor: its name without the word for weight or bias."""
    return PART.sub("", key)


def _natural(key: str) -> list[str | int]:
    """Sorts numbers in names by their size: safetensors has ``10`` before ``4``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", key)]


# ---- one network's tensors


def _matched(variant: Variant, stock: AlexNet, inside: StateDict, prefix: str) -> Match:
    """The tensors of one network against the variant's parameters."""
    inside = _channels_first(variant, stock, inside)
    ranks = _ranks(inside)
    shapes = _wanted(stock)
    head = [key for key in shapes if key.startswith("classifier.")]
    if any(ranks):  # only this package's files have factors, by their names
        return _low_rank(variant, ranks, inside, prefix, head[-1])
    names = {key: key for key, shape in shapes.items() if _fits(inside.get(key), shape)}
    if len(names) < len(shapes) and _has_only_weights(shapes):
        features = {key: shapes[key] for key in shapes if key not in head}
        _find_by_shape(features, inside, names)
        own = _find_head(shapes, head, inside, names)
        if own:
            return _with_own_head(variant, inside, names, own, prefix)
    conv1 = names.get(_first_convolution(stock))
    channels = inside[conv1].shape[1] if conv1 else 3
    classes = len(inside[names[head[-1]]].flatten()) if head[-1] in names else None
    build = _builder(variant, classes or 1, channels, FULL)
    return _compared(variant, build, inside, names, prefix, classes)


def _low_rank(
    variant: Variant, ranks: Ranks, inside: StateDict, prefix: str, last_bias: str
) -> Match:
    bias = inside.get(last_bias)
    classes = len(bias) if bias is not None and bias.ndim == 1 else None
    first = next((t for t in inside.values() if t.ndim == 4), None)
    channels = 3 if first is None else first.shape[1]
    build = _builder(variant, classes or 1, channels, ranks)
    return _compared(variant, build, inside, {key: key for key in inside}, prefix, classes)


def _builder(variant: Variant, classes: int, channels: int, ranks: Ranks) -> Callable[[], AlexNet]:
    return lambda: variant.build(classes, channels, ranks)


def _compared(
    variant: Variant,
    build: Callable[[], AlexNet],
    inside: StateDict,
    names: Mapping[str, str],
    prefix: str,
    classes: int | None,
) -> Match:
    """A match, whose problems are what is missing, too many, or of another shape.

    ``names`` are those in the file by the variant's.
    """
    with torch.device("meta"):
        network = build()
    expected = {
        key: tuple(tensor.shape)
        for key, tensor in network.state_dict().items()
        if not key.endswith(COUNTER)
    }
    found = {key: names.get(key, key) for key in expected}
    read = set(found.values())
    surplus = [key for key in inside if key not in read]
    top = {key.partition(".")[0] for key in expected}
    kept_out = [k for k in surplus if inside[k].numel() <= 1 and k.partition(".")[0] not in top]
    tensors = {key: inside[name] for key, name in found.items() if name in inside}
    unlike = {
        key: tensor
        for key, tensor in tensors.items()
        if not _fits(tensor, expected[key]) and not (classes is None and _is_last(key, expected))
    }
    problems = [
        *(f"{key} is missing" for key in expected if key not in tensors),
        *(f"{key} is not part of {variant.name}" for key in surplus if key not in kept_out),
        *(f"{key} is {_words(t.shape)} and should be {expected[key]}" for key, t in unlike.items()),
    ]
    renamed = sum(name != key for key, name in found.items())
    return Match(
        build,
        {} if problems else {key: _reshaped(t, expected[key]) for key, t in tensors.items()},
        problems,
        prefix,
        renamed=renamed,
        left_out=tuple(kept_out),
    )


def _reshaped(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    return tensor if tensor.shape == shape else tensor.reshape(shape)  # not for sparse ones


def _is_last(key: str, expected: Mapping[str, Shape]) -> bool:
    """Whether a parameter is of the last layer, whose classes could not be counted."""
    return _layer(key) == _layer(list(expected)[-1])


def _words(shape: Iterable[int]) -> str:
    return str(tuple(shape))


# ---- shapes


def _wanted(stock: AlexNet) -> dict[str, Shape]:
    """The shapes of the variant's parameters; channels and classes may be any number."""
    shapes: dict[str, Shape] = {
        key: tuple(tensor.shape)
        for key, tensor in stock.state_dict().items()
        if not key.endswith(COUNTER)
    }
    first = _first_convolution(stock)
    out, _, *kernel = shapes[first]
    shapes[first] = (out, None, *kernel)
    last = f"classifier.{len(stock.classifier) - 1}"
    shapes[f"{last}.weight"] = (None, *shapes[f"{last}.weight"][1:])
    shapes[f"{last}.bias"] = (None,)
    return shapes


def _has_only_weights(shapes: Mapping[str, Shape]) -> bool:
    """Batch normalisation has parameters of equal shapes that only their names tell apart."""
    return all(key.endswith((".weight", ".bias")) for key in shapes)


def _fits(tensor: Tensor | None, shape: Shape) -> bool:
    """Whether a tensor has a shape, but for axes of length 1 (Caffe's blobs have four), and for a
    fully connected layer that is stored as a convolution."""
    if tensor is None or not tensor.ndim:
        return False
    if len(shape) == 1:
        return tensor.numel() == max(tensor.shape) and shape[0] in (None, tensor.numel())
    if len(shape) == 2 and tensor.ndim == 4:
        return _fits(_flat(tensor), shape)
    return tensor.ndim == len(shape) and all(
        wanted in (None, length) for wanted, length in zip(shape, tensor.shape, strict=True)
    )


def _flat(tensor: Tensor) -> Tensor:
    """A fully connected layer's weight as (out, in), from (1, 1, out, in) or (out, c, h, w)."""
    if tensor.ndim == 4 and tensor.shape[:2] == (1, 1):
        return tensor[0, 0]
    return tensor.flatten(1)


def _is_matrix(tensor: Tensor) -> bool:
    """Whether a tensor may be a fully connected layer's weight, and not one of Caffe's biases."""
    return tensor.ndim == 2 or (tensor.ndim == 4 and tensor.shape[:3] != (1, 1, 1))


def _find_by_shape(shapes: Mapping[str, Shape], inside: StateDict, names: dict[str, str]) -> None:
    """Add to ``names`` what has other names in the file: weights by their shape, the first that
    fits; a bias by its weight's name, or else as the next of its length."""
    used = set(names.values())
    for key, shape in shapes.items():
        if key in names:
            continue
        if key.endswith(".weight"):
            name = next((n for n, t in inside.items() if n not in used and _fits(t, shape)), None)
        else:
            own = key.removesuffix("bias") + "weight"
            weight = names.get(own, own)
            name = None if weight == own else _bias_of(weight, shape, inside, used)
        if name is not None:
            names[key] = name
            used.add(name)


def _bias_of(weight: str, shape: Shape, inside: StateDict, used: set[str]) -> str | None:
    """The bias that belongs to a weight with a name of its own."""
    if _layer(weight) + ".weight" == weight and _layer(weight) + ".bias" not in inside:
        return None  # its name would be known
    order = list(inside)
    place = order.index(weight)
    fitting = [
        n for n in order[place:] + order[:place] if n not in used and _fits(inside[n], shape)
    ]
    same = [name for name in fitting if _layer(name) == _layer(weight)]
    return next(iter(same or fitting), None)


# ---- fully connected layers


def _find_head(
    shapes: Mapping[str, Shape], head: list[str], inside: StateDict, names: dict[str, str]
) -> list[str]:
    """Find the fully connected layers as a chain of widths, from the features to the classes.

    Where they are the variant's own, they are added to ``names``; otherwise the names of their
    weights are given.  An empty list also where there is no such chain: then names say what fails.
    """
    if all(key in names for key in head):
        return []
    for key in head:
        names.pop(key, None)
    used = set(names.values())
    left = {n: _flat(t) for n, t in inside.items() if n not in used and _is_matrix(t)}
    weights = [key for key in head if key.endswith(".weight")]
    chain, width = [], shapes[weights[0]][1]
    for _ in range(len(left)):
        fitting = [name for name, tensor in left.items() if tensor.shape[1] == width]
        if not fitting:
            break
        chain.append(min(fitting, key=_natural))
        width = left.pop(chain[-1]).shape[0]
    own = [shapes[key] for key in weights]
    alike = [_fits(inside[n], shape) for n, shape in zip(chain, own, strict=False)]
    if not left and len(chain) == len(own) and all(alike):
        names |= dict(zip(weights, chain, strict=True))
        _find_biases({key: shapes[key] for key in head}, inside, names)
        return []
    others = [n for n, t in inside.items() if n not in {*used, *chain} and t.numel() > 1]
    unfinished = len(chain) < len(own) and all(alike)
    if left or unfinished or len(others) != len(chain):  # as many biases as weights
        names |= {key: key for key in head if _fits(inside.get(key), shapes[key])}
        return []
    return chain


def _find_biases(shapes: Mapping[str, Shape], inside: StateDict, names: dict[str, str]) -> None:
    for key, shape in shapes.items():
        if key.endswith(".bias"):
            weight = names[key.removesuffix("bias") + "weight"]
            width: Shape = (len(_flat(inside[weight])),) if shape == (None,) else shape
            name = _bias_of(weight, width, inside, set(names.values()))
            if name is not None:
                names[key] = name


def _with_own_head(
    variant: Variant, inside: StateDict, names: dict[str, str], chain: list[str], prefix: str
) -> Match:
    """A match of the variant's convolutions with fully connected layers of other widths."""
    widths = [_flat(inside[chain[0]]).shape[1], *(_flat(inside[n]).shape[0] for n in chain)]
    relus = [not _adjacent(*pair) for pair in pairwise(chain)]
    place = 0
    shapes: dict[str, Shape] = {}
    for weight, width, relu in zip(chain, widths[1:], [*relus, False], strict=True):
        names[f"classifier.{place}.weight"] = weight
        shapes[f"classifier.{place}.bias"] = (width,)
        place += 2 if relu else 1
    _find_biases(shapes, inside, names)
    conv1 = next(tensor for tensor in inside.values() if tensor.ndim == 4)

    def build() -> AlexNet:
        network = variant.build(1, conv1.shape[1], FULL)
        layers: list[nn.Module] = []
        for (inputs, outputs), relu in zip(pairwise(widths), [*relus, False], strict=True):
            layers += [nn.Linear(inputs, outputs), *([nn.ReLU()] if relu else [])]
        return AlexNet(network.features, nn.Sequential(*layers))

    match = _compared(variant, build, inside, names, prefix, widths[-1])
    match.widths = tuple(widths)
    match.renamed = sum(
        name != key for key, name in names.items() if not key.startswith("classifier.")
    )
    return match


def _adjacent(first: str, second: str) -> bool:
    """Whether two layers follow each other in a Sequential, with nothing between them."""
    (outer, _, place), (other, _, next_place) = (_layer_place(name) for name in (first, second))
    return outer == other and next_place - place == 1 and place >= 0


def _layer_place(name: str) -> tuple[str, str, int]:
    outer, dot, place = name.rpartition(".")[0].rpartition(".")
    return outer, dot, int(place) if place.isdecimal() else -10


def _ranks(state: Mapping[str, Tensor]) -> Ranks:
    """The ranks of fc6, fc7, fc8: ``classifier.N.v`` is (rank, in) where a layer is factored."""
    keys = (k.split(".") for k in state if k.startswith("classifier."))
    places = sorted({int(place) for _, place, *_ in keys if place.isdecimal()})
    factors = [state.get(f"classifier.{place}.v") for place in places]
    ranks = [None if v is None else int(v.shape[0]) for v in factors] + [None] * 3
    return (ranks[0], ranks[1], ranks[2])


# ---- other libraries' order of axes


def _channels_first(variant: Variant, stock: AlexNet, inside: StateDict) -> StateDict:
    """TensorFlow has (rows, columns, in, out) and (in, out), and flattens channels last."""
    out, _, *kernel = stock.state_dict()[_first_convolution(stock)].shape
    weights = [t for t in inside.values() if t.ndim == 4]
    channels_last = any(
        t.shape[:2] == tuple(kernel) and t.shape[3] == out and t.shape[:1] != (out,)
        for t in weights
    )
    linear = next((m for m in stock.classifier if isinstance(m, nn.Linear)), None)
    if linear is None:
        return inside
    features = linear.in_features
    flat = {tuple(t.shape) for t in inside.values() if t.ndim == 2}
    transposed = any(i == features != o for i, o in flat) and not any(
        i == features for _, i in flat
    )
    if not (channels_last or transposed):
        return inside
    with torch.device("meta"):
        maps = stock.features(torch.zeros(1, 3, variant.crop_size, variant.crop_size)).shape[1:]
    return {
        name: _reordered(tensor, features, maps, channels_last=channels_last)
        for name, tensor in inside.items()
    }


def _reordered(tensor: Tensor, features: int, maps: torch.Size, *, channels_last: bool) -> Tensor:
    if tensor.ndim == 4 and channels_last:
        return tensor.permute(3, 2, 0, 1)
    if tensor.ndim != 2:
        return tensor
    if channels_last and len(tensor) == features == math.prod(maps):
        channels, rows, columns = maps
        tensor = tensor.reshape(rows, columns, channels, -1).permute(2, 0, 1, 3).flatten(0, 2)
    return tensor.T
