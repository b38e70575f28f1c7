"""Embedded colour profiles: the network sees what people see, and sRGB costs nothing."""

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from service.inference import appearance
from service.inference.appearance import CACHED, conversion
from service.inference.image import decode
from service.inference.limits import PROFILE_BYTES, DecodeLimits
from tests.support import profiles, traps

CAT = Path(__file__).parents[1] / "pictures" / "cat.jpg"
SRGB = profiles.rgb(profiles.SRGB, profiles.srgb_curve())
PROFILES = {
    "Display P3": profiles.rgb(profiles.DISPLAY_P3, profiles.srgb_curve()),
    "Adobe RGB": profiles.rgb(profiles.ADOBE, profiles.gamma(2.2)),
    "ProPhoto RGB": profiles.rgb(profiles.PROPHOTO, profiles.gamma(1.8)),
}
FORMATS: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 100, "subsampling": 0},
    "WEBP": {"lossless": True},
    "AVIF": {"quality": 100, "subsampling": "4:4:4", "speed": 10},
}


def seen(data: bytes, *, colour_profiles: bool = True) -> NDArray[np.int16]:
    """The square, however long it takes."""
    limits = DecodeLimits(decode_timeout=600.0, colour_profiles=colour_profiles)
    return decode(data, limits).astype(np.int16)


def opened(profile: bytes) -> ImageCms.ImageCmsProfile:
    """The profile as Pillow has it."""
    return ImageCms.ImageCmsProfile(BytesIO(profile))


def photograph() -> Image.Image:
    """A photograph with its colours a little greyer, so that every space has them."""
    with Image.open(CAT) as image:
        return image.convert("RGB").resize((300, 260)).point(lambda level: 40 + level * 2 // 3)


def in_space(image: Image.Image, profile: bytes) -> Image.Image:
    """The same colours, as numbers of another space."""
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
    converted = ImageCms.profileToProfile(image, srgb, opened(profile))
    assert converted is not None
    return converted


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("space", PROFILES)
def test_equal_colours_are_seen_equal_in_whatever_space_they_are(space: str, kind: str) -> None:
    image = photograph()
    other = in_space(image, PROFILES[space])
    file = traps.encoded(other, kind, icc_profile=PROFILES[space], **FORMATS[kind])

    plain = seen(traps.encoded(image, "PNG"))

    # 8 bits are few for ProPhoto's wide space, and the square is converted after it is scaled.
    assert np.abs(seen(file) - plain).mean() < 1.5
    assert np.abs(seen(file) - plain).max() <= 12
    assert np.abs(seen(file, colour_profiles=False) - plain).mean() > 2.0


def test_without_the_setting_the_numbers_are_taken_as_they_are() -> None:
    image = photograph()
    file = traps.encoded(image, "PNG", icc_profile=PROFILES["ProPhoto RGB"])

    np.testing.assert_array_equal(
        seen(file, colour_profiles=False), seen(traps.encoded(image, "PNG"))
    )


def test_grey_has_a_curve_of_its_own() -> None:
    linear = Image.linear_gradient("L")
    with_alpha = Image.merge("LA", (linear, Image.new("L", linear.size, 255)))
    profile = profiles.grey(1.0)
    meant = np.round(255 * np.clip(1.055 * (np.arange(256) / 255) ** (1 / 2.4) - 0.055, 0, 1))

    for image, kind in ((linear, "PNG"), (with_alpha, "PNG")):
        square = seen(traps.encoded(image, kind, icc_profile=profile))
        assert np.abs(square[16:, 0] - meant[16:, None]).max() <= 1
        assert (square[..., 0] == square[..., 2]).all()


@pytest.mark.parametrize("size", [(256, 256), (300, 270)])
def test_the_inks_of_a_printer_are_those_of_its_profile(size: tuple[int, int]) -> None:
    inks = np.random.default_rng(0).integers(0, 256, (9, 9, 4), np.uint8)
    image = Image.fromarray(inks, "CMYK").resize(size, Image.Resampling.BICUBIC)
    options = {"quality": 100, "subsampling": 0, "icc_profile": profiles.cmyk()}
    square = seen(traps.encoded(image, "JPEG", **options))

    meant = ImageCms.profileToProfile(
        image, opened(profiles.cmyk()), ImageCms.createProfile("sRGB"), outputMode="RGB"
    )
    assert meant is not None

    assert np.abs(square - seen(traps.encoded(meant, "PNG"))).max() <= 4
    assert np.abs(square - seen(traps.encoded(image, "JPEG", quality=100))).max() > 40


BROKEN = {
    "nothing": b"",
    "a word": b"no profile at all",
    "a start": PROFILES["Adobe RGB"][:150],
    "another kind of pixels": profiles.cmyk(),
    "grey": profiles.grey(1.0),
    "too large": PROFILES["Adobe RGB"] + bytes(PROFILE_BYTES),
    "no tags": profiles.profile(b"RGB ", b"XYZ ", {}),
    "a million tags": PROFILES["Adobe RGB"][:128] + b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_profile_that_is_broken_or_does_not_fit_counts_as_none(name: str, kind: str) -> None:
    image = photograph()
    file = traps.encoded(image, kind, icc_profile=BROKEN[name])

    np.testing.assert_array_equal(seen(file), seen(traps.encoded(image, kind)))


@pytest.mark.parametrize(
    "pieces",
    [
        [b""],
        [b"\1"],
        [b"\1\1"],
        [b"\1\2" + PROFILES["Adobe RGB"]],  # the second is missing
        [b"\2\2" + PROFILES["Adobe RGB"][100:], b"\2\2" + PROFILES["Adobe RGB"][:100]],
    ],
)
def test_a_jpegs_profile_that_lacks_a_piece_counts_as_none(pieces: list[bytes]) -> None:
    plain = traps.inside_jpeg(b"")
    segments = b"".join(traps.segment(0xE2, b"ICC_PROFILE\0" + piece) for piece in pieces)

    np.testing.assert_array_equal(seen(traps.inside_jpeg(segments)), seen(plain))


def test_the_pieces_of_a_jpegs_profile_are_put_in_order() -> None:
    profile = PROFILES["ProPhoto RGB"]
    segments = b"".join(
        traps.segment(0xE2, b"ICC_PROFILE\0" + head + piece)
        for head, piece in ((b"\2\2", profile[100:]), (b"\1\2", profile[:100]))
    )

    assert np.abs(seen(traps.inside_jpeg(segments)) - seen(traps.inside_jpeg(b""))).max() > 10


@pytest.mark.parametrize("name", ["ours", "LittleCMS's"])
def test_srgb_under_any_name_costs_nothing(name: str) -> None:
    own = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    assert conversion(SRGB if name == "ours" else own, "RGB") is None


def test_conversions_are_kept_for_the_images_that_come_next_but_not_too_many() -> None:
    first = conversion(PROFILES["Display P3"], "RGB")

    assert first is not None
    assert conversion(bytes(bytearray(PROFILES["Display P3"])), "RGBA") is first
    for exponent in range(CACHED):
        conversion(profiles.rgb(profiles.ADOBE, profiles.gamma(1 + exponent / 16)), "RGB")
    assert conversion(PROFILES["Display P3"], "RGB") is not first
    assert appearance._conversion.cache_info().currsize <= CACHED


def test_a_profile_of_endless_calculations_is_taken_without_them() -> None:
    matrix = b"matf" + bytes(4) + bytes([0, 3, 0, 3]) + bytes(48)
    number = 4000
    start = 16 + 8 * number
    table = b"".join(
        (start + len(matrix) * n).to_bytes(4, "big") + len(matrix).to_bytes(4, "big")
        for n in range(number)
    )
    calculations = (
        b"mpet" + bytes(4) + bytes([0, 3, 0, 3]) + number.to_bytes(4, "big")
        + table + matrix * number
    )  # fmt: skip
    tags = {b"D2B0": calculations}
    names = (b"rXYZ", b"gXYZ", b"bXYZ")
    tags |= {n: profiles.xyz(c) for n, c in zip(names, profiles.ADOBE, strict=True)}
    tags |= dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), profiles.gamma(2.2))
    image = photograph()

    square = seen(traps.encoded(image, "PNG", icc_profile=profiles.profile(b"RGB ", b"XYZ ", tags)))

    plain = traps.encoded(image, "PNG", icc_profile=PROFILES["Adobe RGB"])
    assert np.abs(square - seen(plain)).max() <= 1
