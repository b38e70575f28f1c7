"""
Colour profiles (ICC), as small as they can be: what cameras and printers embed, made by code.
"""

import itertools
import struct
from collections.abc import Iterable, Sequence

D50 = (0.9642, 1.0, 0.8249)
# Red, green and blue as XYZ, adapted to D50.
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
DISPLAY_P3 = ((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841))
ADOBE = ((0.6097, 0.3111, 0.0195), (0.2053, 0.6257, 0.0609), (0.1492, 0.0632, 0.7446))
PROPHOTO = ((0.7977, 0.2880, 0.0), (0.1352, 0.7119, 0.0), (0.0313, 0.0001, 0.8249))


def fixed(values: Iterable[float]) -> bytes:
    """Numbers in 16.16 bits."""
    return b"".join(struct.pack(">i", round(value * 65536)) for value in values)


def xyz(values: Sequence[float]) -> bytes:
    """A tag's content: a colour."""
    return b"XYZ " + bytes(4) + fixed(values)


def gamma(exponent: float) -> bytes:
    """A tag's content: a curve."""
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(exponent * 256))


def srgb_curve() -> bytes:
    """A tag's content: sRGB's curve."""
    return (
        b"para"
        + bytes(4)
        + struct.pack(">HH", 3, 0)
        + fixed((2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045))
    )


def profile(space: bytes, pcs: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr") -> bytes:
    """A profile from a space (`RGB `, `GRAY`, `CMYK`) with these tags."""
    place = 128 + 4 + 12 * len(tags)
    table, bodies = struct.pack(">I", len(tags)), b""
    for name, body in tags.items():
        table += struct.pack(">4sII", name, place + len(bodies), len(body))
        bodies += body + bytes(-len(body) % 4)
    head = struct.pack(
        ">I4sI4s4s4s12s4s28s12s48s",
        place + len(bodies), b"", 0x0240_0000, kind, space, pcs, b"", b"acsp", b"", fixed(D50), b"",
    )  # fmt: skip
    return head + table + bodies


def rgb(colours: Sequence[Sequence[float]], curve: bytes) -> bytes:
    """A space of three colours, such as `DISPLAY_P3`, and one curve."""
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags = {name: xyz(colour) for name, colour in zip(names, colours, strict=True)}
    curves = dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), curve)
    return profile(b"RGB ", b"XYZ ", {b"wtpt": xyz(D50)} | tags | curves)


def grey(exponent: float) -> bytes:
    """Grey with a curve."""
    return profile(b"GRAY", b"XYZ ", {b"wtpt": xyz(D50), b"kTRC": gamma(exponent)})


def lut(channels: int, colours: Iterable[tuple[int, int, int]]) -> bytes:
    """A tag's content: the Lab colours, 8 bits each, of all corners of a space."""
    straight = bytes(range(256))
    return (
        b"mft1" + bytes(4) + bytes([channels, 3, 2, 0])
        + fixed((1, 0, 0, 0, 1, 0, 0, 0, 1))
        + straight * channels
        + bytes(itertools.chain.from_iterable(colours))
        + straight * 3
    )  # fmt: skip


def cmyk() -> bytes:
    """A printer whose inks are weaker than anyone's: full black is a dark grey."""
    inks = {"c": (-20, -30), "m": (45, -5), "y": (-5, 60)}
    corners = []
    for c, m, y, k in itertools.product((0, 1), repeat=4):
        light = 100 - 25 * c - 30 * m - 8 * y - 60 * k
        a = sum(inks[ink][0] * on for ink, on in zip("cmy", (c, m, y), strict=True)) * (1 - k)
        b = sum(inks[ink][1] * on for ink, on in zip("cmy", (c, m, y), strict=True)) * (1 - k)
        corners.append((round(max(light, 5) * 2.55), 128 + a, 128 + b))
    return profile(b"CMYK", b"Lab ", {b"A2B0": lut(4, corners)}, b"prtr")
