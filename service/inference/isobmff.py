"""
The sizes of images coded in AVIF and HEIC files.  They are known before a decoder is asked.

What the container says, the coded images need not keep to, and it is by these that decoders take
memory and time.  Containers are ISO 14496-12 and 23008-12, the images' own headers are those of
AV1 (5.5.1) and of HEVC (ISO 23008-2, 7.3.2.2).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

Size = tuple[int, int]  # width, height

MOST: Final = 10_000  # boxes, items, extents, properties or units at one place
HEADER: Final = 1024  # bytes of an image's header that are looked at
AV1_SEQUENCE_HEADER: Final = 1
HEVC_SEQUENCE_PARAMETERS: Final = 33


class Box(NamedTuple):
    """A box's type, and where its content is."""

    kind: bytes
    start: int
    end: int


@dataclass
class _Item:
    kind: bytes = b""
    extents: list[tuple[int, int]] = field(default_factory=list)  # start, end
    properties: list[int] = field(default_factory=list)  # numbers from 1


class _Numbers:
    """Big-endian numbers, one after the other."""

    def __init__(self, data: bytes, start: int, end: int) -> None:
        self._data, self.place, self._end = data, start, end

    def take(self, size: int) -> int:
        """A number of so many bytes, 0 for none."""
        if self.place + size > self._end:
            raise ValueError("a box is cut short")
        self.place += size
        return int.from_bytes(self._data[self.place - size : self.place], "big")


class _Bits:
    """Bits, one after the other."""

    def __init__(self, data: bytes) -> None:
        self._bits, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, number: int) -> int:
        if number > self._left:
            raise ValueError("a header is cut short")
        self._left -= number
        return self._bits >> self._left & (1 << number) - 1

    def exp_golomb(self) -> int:
        zeros = 0
        while not self.take(1):
            zeros += 1
        return (1 << zeros) - 1 + self.take(zeros)


def brands(data: bytes) -> list[bytes]:
    """The brands of a file, the major one first; none of what is no such file."""
    if data[4:8] != b"ftyp":
        return []
    end = min(int.from_bytes(data[:4], "big"), 1024)
    return [data[8:12], *(data[place : place + 4] for place in range(16, end, 4))]


def coded_sizes(data: bytes) -> list[Size]:
    """
    The sizes of the images that make the primary one: its tiles and its transparency.

    Raises `ValueError` where the file is damaged, or made to keep the server busy.
    """
    meta = _first(data, 0, len(data), b"meta")
    inside = {box.kind: box for box in _boxes(data, meta.start + 4, meta.end)}
    items = _items(data, inside)
    properties = list(_boxes(data, *_first(data, *inside[b"iprp"][1:], b"ipco")[1:]))
    sizes = []
    for number in _reached(data, inside):
        item = items.get(number, _Item())
        if item.kind in (b"av01", b"hvc1", b"hev1"):
            belong = [properties[n - 1] for n in item.properties if 0 < n <= len(properties)]
            sizes += _sizes(data, item, belong)
    if not sizes:
        raise ValueError("there is no coded image")
    return sizes


def _boxes(data: bytes, place: int, end: int) -> Iterator[Box]:
    for _ in range(MOST):
        if place + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, place)
        head = 8
        if size == 1:
            (size,), head = struct.unpack_from(">Q", data, place + 8), 16
        elif size == 0:
            size = end - place
        if size < head or place + size > end:
            raise ValueError("a box does not fit into the file")
        yield Box(kind, place + head, place + size)
        place += size
    raise ValueError("there are too many boxes")


def _first(data: bytes, start: int, end: int, kind: bytes) -> Box:
    for box in _boxes(data, start, end):
        if box.kind == kind:
            return box
    raise ValueError(f"there is no box {kind!r}")


def _items(data: bytes, inside: dict[bytes, Box]) -> dict[int, _Item]:
    """What is known of each item, by its number."""
    items: dict[int, _Item] = {}
    start = inside[b"iinf"].start
    for box in _boxes(data, start + (6 if data[start] == 0 else 8), inside[b"iinf"].end):
        numbers = _Numbers(data, box.start + 4, box.end)
        number = numbers.take(4 if data[box.start] > 2 else 2)
        numbers.take(2)
        items.setdefault(number, _Item()).kind = numbers.take(4).to_bytes(4, "big")
    _locate(data, inside, items)
    _associate(data, _first(data, *inside[b"iprp"][1:], b"ipma"), items)
    return items


def _locate(data: bytes, inside: dict[bytes, Box], items: dict[int, _Item]) -> None:
    """iloc: where the items' bytes are."""
    box = inside[b"iloc"]
    version = data[box.start]
    numbers = _Numbers(data, box.start + 4, box.end)
    sizes = numbers.take(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version else 0
    left = MOST
    for _ in range(numbers.take(2 if version < 2 else 4)):
        item = items.setdefault(numbers.take(2 if version < 2 else 4), _Item())
        in_idat = version and numbers.take(2) & 15 == 1
        numbers.take(2)
        base = numbers.take(base_size) + (inside[b"idat"].start if in_idat else 0)
        number = numbers.take(2)
        left -= number + 1
        if left < 0:
            raise ValueError("there are too many pieces")
        for _ in range(number):
            numbers.take(index_size)
            start = base + numbers.take(offset_size)
            length = numbers.take(length_size)
            item.extents.append((start, start + length if length else len(data)))


def _associate(data: bytes, box: Box, items: dict[int, _Item]) -> None:
    """ipma: which properties the items have."""
    version, wide = data[box.start], data[box.start + 3] & 1
    numbers = _Numbers(data, box.start + 4, box.end)
    for _ in range(min(numbers.take(4), MOST)):
        item = items.setdefault(numbers.take(4 if version else 2), _Item())
        for _ in range(numbers.take(1)):
            item.properties.append(numbers.take(2) & 0x7FFF if wide else numbers.take(1) & 0x7F)


def _reached(data: bytes, inside: dict[bytes, Box]) -> set[int]:
    """The primary item, the items that it is derived from, and what is auxiliary to them."""
    box = inside[b"pitm"]
    primary = _Numbers(data, box.start + 4, box.end).take(4 if data[box.start] else 2)
    links: list[tuple[int, int]] = []
    if box := inside.get(b"iref", Box(b"", 0, 0)):
        size = 4 if data[box.start] else 2
        for reference in _boxes(data, box.start + 4, box.end) if box.kind else ():
            numbers = _Numbers(data, reference.start, reference.end)
            source = numbers.take(size)
            targets = [numbers.take(size) for _ in range(min(numbers.take(2), MOST))]
            if reference.kind == b"dimg":
                links += ((source, target) for target in targets)
            elif reference.kind == b"auxl":
                links += ((target, source) for target in targets)
            if len(links) > MOST:
                raise ValueError("there are too many references")
    reached, new = {primary}, {primary}
    while new:
        new = {target for source, target in links if source in new} - reached
        reached |= new
    return reached


def _sizes(data: bytes, item: _Item, properties: list[Box]) -> list[Size]:
    """What the headers of a coded image say, those in its properties and those among its bits."""
    if sum(end - start for start, end in item.extents) > len(data):
        raise ValueError("an item is larger than the file")
    payload = b"".join(data[start:end] for start, end in item.extents)
    if item.kind == b"av01":
        found = [_av1_size(unit) for kind, unit in _av1_units(payload)
                 if kind == AV1_SEQUENCE_HEADER]  # fmt: skip
    else:
        found = []
        for box in (box for box in properties if box.kind == b"hvcC"):
            configuration = data[box.start : box.end]
            units = [*_hevc_arrays(configuration), *_hevc_units(payload, configuration)]
            found += [_hevc_size(unit) for unit in units if unit[:1] and _hevc_is_sequence(unit)]
    if not found:
        raise ValueError("a coded image has no header")
    return [max(found, key=lambda size: size[0] * size[1])]


def _av1_units(payload: bytes) -> Iterator[tuple[int, bytes]]:
    """The types and the beginnings of an image's units (OBU)."""
    place = 0
    for _ in range(MOST):
        if place >= len(payload):
            return
        head = payload[place]
        place += 2 if head & 4 else 1
        size = len(payload) - place
        if head & 2:
            size = 0
            for shift in range(0, 56, 7):
                byte = payload[place] if place < len(payload) else 0
                place += 1
                size |= (byte & 0x7F) << shift
                if not byte & 0x80:
                    break
        yield head >> 3 & 15, payload[place : place + min(size, HEADER)]
        place += size
    raise ValueError("there are too many units")


def _av1_size(unit: bytes) -> Size:
    """A sequence header's largest frame."""
    bits = _Bits(unit)
    bits.take(4)  # profile, still picture
    if bits.take(1):
        bits.take(5)
    else:
        _skip_av1_operation(bits)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return bits.take(width_bits) + 1, bits.take(height_bits) + 1


def _skip_av1_operation(bits: _Bits) -> None:
    """What a sequence header says of time and of operating points."""
    delay_bits = 0
    if bits.take(1):  # timing
        bits.take(64)
        if bits.take(1):
            bits.exp_golomb()
        if bits.take(1):  # the decoder's model
            delay_bits = bits.take(5) + 1
            bits.take(42)
    has_display_delay = bits.take(1)
    for _ in range(bits.take(5) + 1):
        bits.take(12)
        if bits.take(5) > 7:
            bits.take(1)
        if delay_bits and bits.take(1):
            bits.take(2 * delay_bits + 1)
        if has_display_delay and bits.take(1):
            bits.take(4)


def _hevc_arrays(configuration: bytes) -> Iterator[bytes]:
    """The units (NAL) in a hvcC box."""
    numbers = _Numbers(configuration, 22, len(configuration))
    for _ in range(numbers.take(1)):
        numbers.take(1)
        for _ in range(min(numbers.take(2), MOST)):
            length = numbers.take(2)
            yield configuration[numbers.place : numbers.place + min(length, HEADER)]
            numbers.place += length


def _hevc_units(payload: bytes, configuration: bytes) -> Iterator[bytes]:
    """The beginnings of an image's units (NAL)."""
    size = (configuration[21] & 3) + 1
    numbers = _Numbers(payload, 0, len(payload))
    for _ in range(MOST):
        if numbers.place + size > len(payload):
            return
        length = numbers.take(size)
        yield payload[numbers.place : numbers.place + min(length, HEADER)]
        numbers.place += length
    raise ValueError("there are too many units")


def _hevc_is_sequence(unit: bytes) -> bool:
    return unit[0] >> 1 & 0x3F == HEVC_SEQUENCE_PARAMETERS


def _hevc_size(unit: bytes) -> Size:
    """The size in a sequence parameter set."""
    bits = _Bits(unit[2:].replace(b"\0\0\3", b"\0\0"))
    bits.take(4)
    layers = bits.take(3)
    bits.take(1 + 96)  # nesting; profile, tier and level
    present = [(bits.take(1), bits.take(1)) for _ in range(layers)]
    if layers:
        bits.take(2 * (8 - layers))
    for has_profile, has_level in present:
        bits.take(88 * has_profile + 8 * has_level)
    bits.exp_golomb()
    if bits.exp_golomb() == 3:
        bits.take(1)
    return bits.exp_golomb(), bits.exp_golomb()
