"""
A file of weights -> its tensors, and its metadata.  Its name may end in anything.

Its first bytes say what it is.  Nothing in it is run: PyTorch's files are read with
``weights_only=True``; where they hold more than that admits (the arguments of a training script,
numpy's numbers), and for TorchScript and numpy's object arrays, `_Unpickler` reads the tensors, the
arrays and the containers, and puts an empty object in the place of everything else.

* PyTorch      a state dict, or a training script's checkpoint around one; a TorchScript archive
* safetensors
* numpy        ``.npz``, and ``.npy`` with a dict of layers, as Caffe's weights are handed on
* ONNX         a model file of this package, in any precision; or another exporter's
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import pickle
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import safetensors
import safetensors.torch
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor

from model_export.errors import WeightsUnusable

StateDict = dict[str, Tensor]
# What a model file of this package ends in, before 64 digits: `export.write`.
CHECKSUM = b"\x72\x4c\x0a\x08checksum\x12\x40"
TORCH_MAGIC = b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19"  # of torch.save before 1.6, after the protocol
READ = "PyTorch's (.pth, .pt, .ckpt, .bin), .safetensors, .npy, .npz and .onnx"
SAVE = "save it again with torch.save(model.state_dict(), PATH)"


@dataclass(frozen=True)
class WeightFile:
    """What a file holds; the names of the containers around a tensor are part of its name."""

    tensors: StateDict  # in the file's order, as they are stored
    metadata: Mapping[str, str] = field(default_factory=dict)  # of safetensors and ONNX
    settings: Mapping[str, object] = field(default_factory=dict)  # numbers, words, lists by name


def load(path: Path) -> WeightFile:
    """Read a file of weights; raises WeightsUnusable, which says what it is instead."""
    if not path.is_file():
        raise WeightsUnusable(f"there is no weights file at {path}; check --weights")
    with path.open("rb") as file:
        head = file.read(512)
    for is_kind, reader in KINDS:
        if is_kind(head):
            return reader(path)
    return _onnx(path)


# ---- PyTorch


def _zip(path: Path) -> WeightFile:
    """A zip: torch.save's, a TorchScript archive, or numpy's ``.npz``."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch itself does not compare them
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        raise _damaged(path, f"it is a zip archive that cannot be read whole ({error})") from error
    if damaged is not None:
        raise _damaged(path, f"the bytes of {damaged} do not match their checksum")
    if all(name.endswith(".npy") for name in names):
        return _npz(path)
    stems = {Path(name).name: name for name in names}
    if "data.pkl" not in stems:
        raise WeightsUnusable(f"{path.name} is a zip archive without weights in it; give {READ}")
    if "constants.pkl" in stems:  # TorchScript: a frozen one's weights are constants
        constants = {str(n): c for n, c in _items(_unzipped(path, "constants"))}
        return _gathered(path, {"": _unzipped(path, "data"), "constants": constants})
    try:
        return _gathered(path, _torch_load(path))
    except pickle.UnpicklingError:
        return _gathered(path, _unzipped(path, "data"))  # more than tensors


def _legacy(path: Path) -> WeightFile:
    """As torch.save wrote before 1.6, and with ``_use_new_zipfile_serialization=False``."""
    try:
        return _gathered(path, _torch_load(path))
    except pickle.UnpicklingError as error:
        raise _not_plain(path) from error


def _torch_load(path: Path) -> object:
    """Raises UnpicklingError where there are other things than tensors and containers."""
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # of the pickle's protocol
            return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise _damaged(path, "it cannot be read as a PyTorch checkpoint") from error


def _unzipped(path: Path, part: str) -> object:
    """What ``data.pkl`` or ``constants.pkl`` of a torch archive holds."""
    with zipfile.ZipFile(path) as archive:
        (name,) = (n for n in archive.namelist() if Path(n).name == f"{part}.pkl")
        folder = name.removesuffix(".pkl")

        def storage(key: str) -> bytes:
            return archive.read(f"{folder}/{key}")

        return _unpickled(path, archive.read(name), storage)


# ---- pickles, of which nothing is run


class _Unknown(dict[Any, Any]):
    """Stands for an object of a class that is not needed; its class is never imported."""

    origin = ""  # the name of the class
    state: Mapping[str, object] = {}  # of an object without one; never changed

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, state: object) -> None:
        self.state = state if isinstance(state, Mapping) else {}

    def __hash__(self) -> int:  # type: ignore[override]  # a dict has none; keys may be objects
        return id(self)

    def append(self, _: object) -> None:
        """A list's, and a set's: what it holds is not needed."""

    add = extend = append


def _tensor(
    storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: object
) -> Tensor:
    return torch.as_strided(storage, size, stride, offset)


def _parameter(data: object, *_: object) -> object:
    return data


DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_ARRAY = np.array(0).__reduce__()[0]  # rebuilds an array
_NUMBER = np.float64(0).__reduce__()[0]
_BUFFER = np.array(0).__reduce_ex__(5)[0]
# All that may be called: numpy's arrays and numbers, and what stands here for torch's tensors.
ADMITTED: dict[tuple[str, str], object] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch", "Size"): tuple,
    ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes in old protocols
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    **{
        (f"numpy.{core}.multiarray", name): function
        for core in ("core", "_core")
        for name, function in (("_reconstruct", _ARRAY), ("scalar", _NUMBER))
    },
    **{(f"numpy.{core}.numeric", "_frombuffer"): _BUFFER for core in ("core", "_core")},
    **{("torch", name): dtype for name, dtype in DTYPES.items()},
}


class _Unpickler(pickle.Unpickler):
    """Reads tensors, arrays and containers of them; imports nothing that a file names."""

    def __init__(self, content: bytes, storage: Callable[[str], bytes] | None = None) -> None:
        # Python 2's strings, array contents among them, are bytes.
        super().__init__(io.BytesIO(content), encoding="latin1")
        self._storage = storage
        self._read: dict[str, Tensor] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in ADMITTED:
            return ADMITTED[module, name]
        return type(name, (_Unknown,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Tensor:
        _, dtype, key, *_ = pid
        if self._storage is None or not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError("a storage of an unknown type")
        if key not in self._read:
            content = bytearray(self._storage(key))
            empty = torch.empty(0, dtype=dtype)
            self._read[key] = torch.frombuffer(content, dtype=dtype) if content else empty
        return self._read[key]


def _unpickled(path: Path, content: bytes, storage: Callable[[str], bytes] | None = None) -> object:
    try:
        return _Unpickler(content, storage).load()
    except Exception as error:  # a damaged pickle raises whatever its bytes say
        raise _not_plain(path) from error


def _pickle(path: Path) -> WeightFile:
    return _gathered(path, _unpickled(path, path.read_bytes()))


# ---- numpy


def _npy(path: Path) -> WeightFile:
    """An array of one object, a dict of layers: ``np.save(path, {"conv1": [weight, bias]})``."""
    with path.open("rb") as file:
        try:
            version = np.lib.format.read_magic(file)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            _, _, dtype = read_header(file)
        except (ValueError, KeyError) as error:
            raise _damaged(path, "it is not a whole .npy file") from error
        content = file.read()
    if not dtype.hasobject:
        raise WeightsUnusable(
            f"{path.name} holds a single array without names; save a dict of them with np.savez"
        )
    objects = np.asarray(_unpickled(path, content), dtype=object)
    return _gathered(path, objects.reshape(-1)[0] if objects.size == 1 else list(objects))


def _npz(path: Path) -> WeightFile:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return _gathered(path, dict(arrays))
    except ValueError as error:
        raise WeightsUnusable(
            f"{path.name} holds objects among its arrays; save arrays alone with np.savez"
        ) from error


# ---- what pickles hold


def _gathered(path: Path, content: object) -> WeightFile:
    """The tensors of nested containers, which must have names."""
    tensors: StateDict = {}
    settings: dict[str, object] = {}
    modules: list[str] = []
    numbered = 0
    for name, value in _leaves(content):
        if isinstance(value, Tensor):
            numbered += not name
            if name:
                tensors[name] = value.detach()
        elif isinstance(value, _Unknown):
            modules.append(value.origin)
        else:
            settings[name] = value
    if tensors:
        return WeightFile(tensors, settings=settings)
    if modules:
        raise _whole_module(path, modules[0])
    if numbered:
        raise WeightsUnusable(
            f"{path.name}: its tensors have numbers for names, so nothing says which layer is "
            f"which; {SAVE}"
        )
    raise WeightsUnusable(
        f"{path.name} holds no state dict: more than tensors, or none with a name; {SAVE}"
    )


def _leaves(content: object, name: str = "", depth: int = 0) -> Iterator[tuple[str, object]]:
    """Tensors, settings and whole modules by their dotted names; tensors whose own key is a number
    have none, but for the ``[weight, bias]`` of a layer."""
    if isinstance(content, np.ndarray):
        content = list(content.flat) if content.dtype.hasobject else _from_numpy(content)
    if isinstance(content, np.generic):
        content = content.item()
    if isinstance(content, Tensor | int | float | str):
        yield name, content
    elif depth > 20:
        return  # a container that holds itself
    elif isinstance(content, _Unknown) and "_modules" in content.state:
        yield name, content
    elif isinstance(content, list | tuple) and _numbers(content):
        yield name, list(content)
    else:
        for key, value in _items(content):
            inner = f"{name}.{key}" if name else str(key)
            unnamed = not isinstance(key, str) and not _of_layer(content, name)
            if unnamed and isinstance(value, Tensor | np.ndarray):
                yield "", torch.empty(0)
            else:
                yield from _leaves(value, inner, depth + 1)


def _items(content: object) -> Iterator[tuple[object, object]]:
    """The parts of a container, by their keys."""
    if isinstance(content, _Unknown):
        yield from content.state.items()
    if isinstance(content, argparse.Namespace):
        yield from vars(content).items()
    if isinstance(content, Mapping):
        yield from content.items()
    if isinstance(content, list | tuple):
        yield from enumerate(content)


def _of_layer(content: object, name: str) -> bool:
    """Whether a list is the weight and the bias of a layer, as in files made of Caffe's."""
    return bool(name) and isinstance(content, list | tuple) and len(content) <= 2


def _numbers(values: list[object] | tuple[object, ...]) -> bool:
    return bool(values) and all(isinstance(value, int | float) for value in values)


def _from_numpy(array: np.ndarray[Any, Any]) -> Tensor | str:
    if array.dtype.kind not in "fiubc":
        return str(array)
    return torch.from_numpy(np.array(array, array.dtype.newbyteorder("=")))


# ---- safetensors


def _safetensors(path: Path) -> WeightFile:
    try:
        tensors = safetensors.torch.load_file(path)
        with safetensors.safe_open(path, "pt") as file:
            return WeightFile(tensors, file.metadata() or {})
    except (safetensors.SafetensorError, OSError) as error:
        raise _damaged(path, f"it is not a whole safetensors file ({error})") from error


# ---- ONNX


def _onnx(path: Path) -> WeightFile:
    """The initialisers; 8-bit ones of this package are multiplied out."""
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf's DecodeError has no public home
        raise WeightsUnusable(
            f"{path.name} is not a whole ONNX file, nor another kind of weights file that is read "
            f"here: {READ}; fetch, save or export it again"
        ) from error
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    _must_be_whole(path, metadata)
    tensors = {name: tensor for name, tensor in _own(path, model).items() if _is_parameter(name)}
    if "crops" not in metadata:  # another exporter's
        parts = ("_quantized", "_scale", "_zero_point") if tensors else ()
        others = {n: t for n, t in _foreign(model).items() if not n.endswith(parts)}
        tensors = {**others, **tensors}
    if not tensors:
        raise WeightsUnusable(f"{path.name} holds no weights; give an ONNX file with weights in it")
    if "folded" in metadata:
        _unfold(tensors, **json.loads(metadata["folded"]))
    return WeightFile(tensors, metadata)


def _must_be_whole(path: Path, metadata: Mapping[str, str]) -> None:
    """A model file of this package ends in the checksum of all before; others have none."""
    content = memoryview(path.read_bytes())
    tail = len(CHECKSUM) + 64
    mark, digits = content[-tail:-64], bytes(content[-64:])
    if mark == CHECKSUM and hashlib.sha256(content[:-tail]).hexdigest().encode() == digits:
        return
    if mark == CHECKSUM or "checksum" in metadata or {"format", "golden"} & metadata.keys():
        raise _damaged(path, "its bytes do not match its checksum")


def _own(path: Path, model: ModelProto) -> StateDict:
    """By their names, 8-bit weights multiplied by their scales."""
    arrays = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer}
    state = {}
    for name, array in arrays.items():
        if name.endswith("_quantized"):
            base = name.removesuffix("_quantized")
            scale = arrays.get(f"{base}_scale", arrays.get(f"{base}_quantized_scale"))
            if scale is None:
                raise WeightsUnusable(
                    f"{path.name}: the 8-bit weight {name} has no scale; export the file again"
                )
            along = scale.reshape(-1, *[1] * (array.ndim - 1)) if scale.size > 1 else scale
            array, name = array.astype(np.float32) * along, base
        if array.dtype.kind in "fiubc":
            state[name] = torch.from_numpy(np.array(array))
    return state


def _foreign(model: ModelProto) -> StateDict:
    """Another exporter's weights: what its convolutions and matrix products take, in the order in
    which they stand in the graph, and constants that stand in the place of initialisers."""
    arrays = {i.name: i for i in model.graph.initializer}
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                arrays[node.output[0]] = attribute.t
    order = [name for node in model.graph.node for name in node.input if name in arrays]
    return {
        name: torch.from_numpy(np.array(numpy_helper.to_array(arrays[name])))
        for name in dict.fromkeys(order)
        if arrays[name].data_type
        in (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.INT8)
    }


def _is_parameter(name: str) -> bool:
    """Whether an initialiser is a weight by its name, and not a scale, a shape or a constant."""
    of_layers = (".weight", ".bias", ".u", ".v", ".running_mean", ".running_var")
    return name.endswith((*of_layers, "_w_0", "_b_0"))


def _unfold(state: StateDict, layer: str, mean: list[float], std: list[float]) -> None:
    """Undo `int8.quantise` reading pixels: the weights and the bias for normalised views."""
    weight, bias = f"{layer}.weight", f"{layer}.bias"
    channels = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
    by_channel = state[weight].double()  # (out, channels, rows, columns), for pixels
    if bias in state:  # a layer without a bias has one only in the quantised graph
        state[bias] = (state[bias] + torch.einsum("oikl,i->o", by_channel, channels[0])).float()
    state[weight] = (by_channel * channels[1].reshape(-1, 1, 1)).float()


# ---- what a file is, by its first bytes


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and head[6:8] == b"\0\0"


def _empty(path: Path) -> WeightFile:
    raise WeightsUnusable(f"{path.name} is empty; fetch or save it again")


def _text(path: Path) -> WeightFile:
    raise WeightsUnusable(
        f"{path.name} is text, such as a web page or Git LFS's pointer to a file, and holds no "
        "weights; fetch the file itself"
    )


def _hdf5(path: Path) -> WeightFile:
    raise WeightsUnusable(
        f"{path.name} is an HDF5 file, which is not read here; write its arrays with np.savez"
    )


KINDS: tuple[tuple[Callable[[bytes], bool], Callable[[Path], WeightFile]], ...] = (
    (lambda head: not head, _empty),
    (lambda head: head.startswith(b"PK"), _zip),
    (lambda head: head.startswith(b"\x93NUMPY"), _npy),
    (lambda head: head[:1] == b"\x80" and head[2:].startswith(TORCH_MAGIC), _legacy),
    (lambda head: head[:1] == b"\x80", _pickle),
    (lambda head: head.startswith(b"\x89HDF"), _hdf5),
    (_is_safetensors, _safetensors),
    (lambda head: head.lstrip()[:1] == b"<" or head.startswith(b"version https://"), _text),
)


def _damaged(path: Path, reason: str) -> WeightsUnusable:
    return WeightsUnusable(f"{path.name} is damaged: {reason}; fetch, copy or save it again")


def _not_plain(path: Path) -> WeightsUnusable:
    return WeightsUnusable(
        f"{path.name} cannot be read as a PyTorch checkpoint of plain tensors: it is damaged, or "
        f"holds more than tensors; {SAVE}"
    )


def _whole_module(path: Path, origin: str) -> WeightsUnusable:
    return WeightsUnusable(
        f"{path.name} is a whole pickled network ({origin}), and reading that would run the code "
        "that it names; where that is trusted, these two lines make a state dict of it: "
        f'model = torch.load("{path.name}", weights_only=False) and '
        'torch.save(model.state_dict(), "weights.pth")'
    )
