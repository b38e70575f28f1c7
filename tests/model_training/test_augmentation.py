"""Crops, mirrors and colours (section 4.1 of the paper), each against another way to compute it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from model_export.crops import Pixels, centre_crop, load_images, ten_crops
from model_export.variants import VARIANTS, greyscale
from model_export.verify import _normalised
from model_training.augmentation import SIGMA, Plan, colours_of, cut, cut_ten, plan, prepare


@pytest.fixture(scope="module")
def photographs() -> Pixels:
    return load_images(limit=8)


def test_principal_components_are_those_that_scikit_learn_finds(photographs: Pixels) -> None:
    result = colours_of(photographs, np.arange(len(photographs)))

    pixels = photographs.reshape(-1, 3).astype(np.float64)
    expected = PCA().fit(pixels)
    assert np.allclose(result.mean, pixels.mean(0))
    assert np.allclose(result.deviations**2, expected.explained_variance_, rtol=1e-5)
    along = np.abs(np.sum(result.components.T * expected.components_, axis=1))
    assert np.allclose(along, 1)


def test_only_training_rows_count_for_the_components(photographs: Pixels) -> None:
    """Numbers that validation images have a part in would make them a little known."""
    rows = np.array([1, 2])

    assert np.array_equal(
        colours_of(photographs, rows).components,
        colours_of(photographs[1:3], np.arange(2)).components,
    )


def test_colour_noise_has_a_tenth_of_the_deviation_along_each_component(
    photographs: Pixels,
) -> None:
    colours = colours_of(photographs, np.arange(len(photographs)))
    draws = np.random.default_rng(0).standard_normal((100_000, 3))

    noise = colours.noise(draws)

    covariance = np.cov(photographs.reshape(-1, 3).T.astype(np.float64))
    assert np.allclose(noise.mean(0), 0, atol=0.2)
    assert np.allclose(np.cov(noise.T), SIGMA**2 * covariance, rtol=0.02)


def test_each_image_is_shown_once_an_epoch_in_an_order_of_its_own() -> None:
    first, second = (_plan(50, epoch=epoch) for epoch in (0, 1))

    assert sorted(first.order) == sorted(second.order) == list(range(50))
    assert first.order.tolist() != second.order.tolist()


def test_what_is_drawn_follows_from_the_seed_and_the_epoch() -> None:
    again, other = _plan(50), _plan(50, seed=1)

    assert np.array_equal(_plan(50).draws, again.draws)
    assert not np.array_equal(_plan(50).draws, other.draws)


def test_crops_begin_at_each_of_the_33_by_33_places_alike() -> None:
    places = _plan(1089 * 40).places

    counts = np.bincount(places[:, 0] * 33 + places[:, 1])
    assert len(counts) == 33 * 33
    assert counts.min() > 0
    # Chi-squared with 1088 degrees of freedom: mean 1088, deviation 47.
    assert 850 < ((counts - 40) ** 2 / 40).sum() < 1330


def test_half_of_the_crops_are_mirrored_or_none() -> None:
    assert abs(_plan(10_000).mirrored.mean() - 0.5) < 0.03
    assert not _plan(1000, mirror=False).mirrored.any()


def test_a_crop_is_that_part_of_its_square(photographs: Pixels) -> None:
    rows, places = np.array([2, 0]), np.array([[0, 32], [5, 7]])

    views = cut(photographs, rows, places, np.array([False, True]), 224)

    assert np.array_equal(views[0], photographs[2, :224, 32:])
    assert np.array_equal(views[1], photographs[0, 5:229, 7:231][:, ::-1])


@pytest.mark.parametrize("crop_size", [224, 227])
def test_ten_crops_are_those_of_the_exporter(photographs: Pixels, crop_size: int) -> None:
    rows = np.array([3, 1])

    views = cut_ten(photographs, rows, crop_size)

    assert np.array_equal(
        views.reshape(2, 10, crop_size, crop_size, 3), ten_crops(photographs[rows], crop_size)
    )


@pytest.mark.parametrize("name", ["owt", "paper", "caffe", "d2l", "grey"])
def test_views_are_prepared_as_the_exporter_verifies_them(photographs: Pixels, name: str) -> None:
    of = VARIANTS["owt" if name == "grey" else name].normalisation
    normalisation = greyscale(of) if name == "grey" else of
    views = centre_crop(photographs, 224)

    prepared = prepare(torch.from_numpy(views[:, 0]), normalisation)

    assert torch.allclose(prepared, _normalised(views, normalisation)[:, 0], atol=1e-5)


def test_noise_is_added_to_the_pixels_before_they_are_normalised(photographs: Pixels) -> None:
    views = torch.from_numpy(np.ascontiguousarray(photographs[:2, :224, :224]))
    noise = torch.tensor([[10.0, -20.0, 30.0], [0.0, 0.0, 0.0]])
    caffe = VARIANTS["caffe"].normalisation

    shifted = prepare(views, caffe, noise=noise) - prepare(views, caffe)

    assert torch.allclose(shifted[0], torch.tensor([30.0, -20.0, 10.0]).view(3, 1, 1), atol=1e-4)
    assert not shifted[1].any()


def _plan(count: int, *, seed: int = 0, epoch: int = 0, mirror: bool = True) -> Plan:
    return plan(count, seed=seed, epoch=epoch, crop_size=224, mirror=mirror)
