"""
Finds training images that an evaluation photograph shows too.  They are excluded.

An image is compared as a thumbnail of 16 x 16 grey pixels, less their mean, by the cosine; whole
and as its central square, since sets cut images down in either way.  A thumbnail does not show that
an image is a part of a photograph: the images of the same class, and those that both networks see
as most alike to it, are compared by local features too.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL_SIZE = 16
# 500 images scored 0.99 and more against themselves after another scaling and JPEG; what lies
# between this and 0.99 looks alike, and is left out to be safe.
ALIKE = 0.965

PLACES = 6 * 6  # of a crop's feature maps
LONGEST = 320  # pixels of the longer side, for local features
KEYPOINTS = 500
RATIO = 0.75  # of the best to the next best descriptor (Lowe 2004, section 7.1, has 0.8)
NEAR = 4.0  # pixels between a keypoint and where the transformation puts it
# Of 10,435 images of Stanford Dogs, eight were cut from the evaluation photographs of their breeds;
# they share 19 to 255 keypoints with them, one other image 14, the rest at most 9.  Two different
# monarch butterflies share 20: what looks alike is left out to be safe.
SHARED = 16

Thumbnails = NDArray[np.uint8]  # (N, 2, 256): of the whole image, and of its central square


def thumbnails(image: Image.Image) -> NDArray[np.uint8]:
    """(2, 256): the image's two thumbnails."""
    return np.stack([_thumbnail(image), _thumbnail(_square(image))])


def turned(photographs: Thumbnails) -> Thumbnails:
    """(8 N, 2, 256): as they are, turned by each quarter, and the mirror images of these.  Cameras
    say in EXIF which way is up, and copies forget it."""
    grids = photographs.reshape(-1, 2, THUMBNAIL_SIZE, THUMBNAIL_SIZE)
    quarters = [np.rot90(grids, quarter, axes=(2, 3)) for quarter in range(4)]
    both = np.concatenate([*quarters, *(grid[..., ::-1] for grid in quarters)])
    return both.reshape(-1, 2, THUMBNAIL_SIZE * THUMBNAIL_SIZE)


def alike(images: Thumbnails, photographs: Thumbnails) -> NDArray[np.bool_]:
    """(N,): which of the images is one of the photographs."""
    theirs = _unit(photographs.reshape(-1, THUMBNAIL_SIZE * THUMBNAIL_SIZE))
    ours = _unit(images.reshape(-1, THUMBNAIL_SIZE * THUMBNAIL_SIZE))
    closest: NDArray[np.float32] = (ours @ theirs.T).max(1, initial=-1.0)
    return np.asarray(closest.reshape(-1, 2).max(1) > ALIKE)


@dataclass(frozen=True)
class LocalFeatures:
    """SIFT (Lowe 2004): ``places`` float32 (K, 2) in pixels, ``descriptors`` float32 (K, 128)."""

    places: NDArray[np.float32]
    descriptors: NDArray[np.float32]


def local_features(image: Image.Image) -> LocalFeatures:
    """The image's keypoints, its longer side no more than 320 pixels."""
    grey = image.convert("L")
    grey.thumbnail((LONGEST, LONGEST))
    places, descriptors = cv2.SIFT.create(nfeatures=KEYPOINTS).detectAndCompute(
        np.asarray(grey), None
    )
    return LocalFeatures(
        np.array([place.pt for place in places], np.float32).reshape(-1, 2),
        np.empty((0, 128), np.float32)
        if descriptors is None
        else np.asarray(descriptors, np.float32),
    )


def shared_keypoints(image: LocalFeatures, photograph: LocalFeatures) -> int:
    """How many keypoints of the image are in the photograph, all moved, turned and scaled alike:
    the most that RANSAC finds (Fischler and Bolles 1981)."""
    if min(len(image.places), len(photograph.places)) < 2:
        return 0
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(image.descriptors, photograph.descriptors, k=2)
    # Each of the photograph's keypoints once: a repeated texture is no evidence.
    best: dict[int, cv2.DMatch] = {}
    for first, second in pairs:
        if first.distance < RATIO * second.distance and (
            first.trainIdx not in best or first.distance < best[first.trainIdx].distance
        ):
            best[first.trainIdx] = first
    if len(best) < 4:
        return 0
    ours = image.places[[match.queryIdx for match in best.values()]]
    theirs = photograph.places[[match.trainIdx for match in best.values()]]
    _, agree = cv2.estimateAffinePartial2D(
        ours, theirs, method=cv2.RANSAC, ransacReprojThreshold=NEAR
    )
    return 0 if agree is None else int(agree.sum())


def scenes(features: NDArray[np.uint8], logits: NDArray[np.float16]) -> NDArray[np.float32]:
    """What the networks see in crops, as unit vectors float32 (N, 1256): the trunk's features
    uint8 (N, 9216), averaged over their 36 places, and the square roots of the teacher's
    probabilities, from its logits float16 (N, 1000)."""
    seen = features.reshape(len(features), -1, PLACES).mean(2, dtype=np.float32)
    shares = np.exp(logits.astype(np.float32) - logits.max(1, keepdims=True).astype(np.float32))
    shares /= shares.sum(1, keepdims=True)
    seen /= np.maximum(np.linalg.norm(seen, axis=1, keepdims=True), 1e-6)
    return np.asarray(np.concatenate([seen, np.sqrt(shares)], 1) / 2**0.5, np.float32)


def _thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    grey = image.convert("L").resize(
        (THUMBNAIL_SIZE, THUMBNAIL_SIZE), Image.Resampling.BILINEAR, reducing_gap=2.0
    )
    return np.asarray(grey, np.uint8).ravel()


def _square(image: Image.Image) -> Image.Image:
    crop_size = min(image.size)
    left, top = ((length - crop_size) // 2 for length in image.size)
    return image.crop((left, top, left + crop_size, top + crop_size))


def _unit(rows: NDArray[np.uint8]) -> NDArray[np.float32]:
    centred = rows.astype(np.float32) - rows.mean(1, keepdims=True, dtype=np.float32)
    lengths = np.linalg.norm(centred, axis=1, keepdims=True)
    return np.asarray(centred / np.maximum(lengths, 1e-6), np.float32)
