"""The rule of learning (section 5 of the paper), computed once more by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from model_export import alexnet
from model_training import recipe as rule
from model_training.recipe import Plateau, Recipe


def test_a_step_is_the_papers_update_also_where_the_rate_is_divided() -> None:
    """v <- 0.9 v - 0.0005 rate w - rate gradient; w <- w + v, in float64 numpy."""
    layer = nn.Linear(3, 2).double()
    optimiser = rule.optimiser(layer, Recipe(), (layer,))
    plateau = Plateau(optimiser, patience=0)
    plateau.step(0.4)
    w = layer.weight.detach().numpy().copy()
    v, rate = np.zeros_like(w), 0.01
    random = np.random.default_rng(0)

    for step in range(12):
        gradient = random.standard_normal(w.shape)
        layer.weight.grad = torch.from_numpy(gradient.copy())
        layer.bias.grad = torch.zeros(2).double()
        optimiser.step()
        v = 0.9 * v - 0.0005 * rate * w - rate * gradient
        w = w + v
        if step % 5 == 4:
            plateau.step(0.5)
            rate = rule.rates(optimiser)[0]

    assert rate == pytest.approx(0.0001)
    assert np.allclose(layer.weight.detach().numpy(), w, rtol=0, atol=1e-12)


def test_the_rate_is_divided_by_ten_when_the_error_no_longer_falls() -> None:
    optimiser = _optimiser()
    plateau = Plateau(optimiser, patience=2)

    seen = []
    for error in (0.9, 0.8, 0.8, 0.81, 0.7, 0.7, 0.7, 0.7, 0.6, 0.5):
        plateau.step(error)
        seen.append(rule.rates(optimiser)[0])

    assert seen == pytest.approx([0.01] * 7 + [0.001] * 3)


def test_after_three_divisions_the_next_plateau_is_the_end() -> None:
    optimiser = _optimiser()
    plateau = Plateau(optimiser, patience=1)

    epochs = 0
    while not plateau.over:
        plateau.step(0.5)
        epochs += 1

    assert epochs == 1 + 4 * 2
    assert plateau.divisions == 4


def test_a_plateau_that_is_restored_goes_on_counting() -> None:
    one, other = Plateau(_optimiser(), patience=2), Plateau(_optimiser(), patience=2)
    for error in (0.5, 0.5, 0.5):
        one.step(error)

    other.load_state_dict(one.state_dict())
    other.step(0.5)

    assert other.divisions == 1


def test_layers_with_weights_learn_at_their_share_of_the_rate() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))

    optimiser = rule.optimiser(network, Recipe(pretrained=0.1), (network[1],))

    assert rule.rates(optimiser) == pytest.approx([0.01, 0.001])
    assert optimiser.param_groups[0]["params"] == list(network[1].parameters())


def test_layers_whose_rate_is_nothing_get_over_a_plateau() -> None:
    """As `--pretrained-rate 0` has it."""
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    optimiser = rule.optimiser(network, Recipe(pretrained=0.0), (network[1],))
    plateau = Plateau(optimiser, patience=0)
    torch.autograd.backward(network(torch.ones(1, 2)).sum())
    optimiser.step()

    plateau.step(0.5)
    plateau.step(0.5)

    assert rule.rates(optimiser) == pytest.approx([0.001, 0.0])


def test_the_defaults_are_the_papers() -> None:
    group = _optimiser().param_groups[0]

    assert (Recipe().batch, Recipe().epochs, rule.DIVISIONS) == (128, 90, 3)
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.01, 0.9, 0.0005)
    assert (group["nesterov"], group["dampening"]) == (False, 0)


def test_the_network_of_2012_begins_as_the_paper_says() -> None:
    """Weights N(0, 0.01); biases 1 in conv2, conv4, conv5, fc6 and fc7, else 0."""
    torch.manual_seed(0)
    network = alexnet.paper(10)
    layers = [m for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]

    for layer in layers:
        weight = layer.weight.detach()
        assert weight.mean().abs() < 5 * 0.01 / weight.numel() ** 0.5
        assert weight.std() == pytest.approx(0.01, rel=5 / (2 * weight.numel()) ** 0.5)
        within = (weight.abs() < 0.01).float().mean()
        assert within == pytest.approx(0.6827, abs=0.01)
    biases = [np.unique(layer.bias.detach()).tolist() for layer in layers if layer.bias is not None]
    assert biases == [[0.0], [1.0], [0.0], [1.0], [1.0], [1.0], [1.0], [0.0]]
    assert sum(isinstance(m, nn.Dropout) and m.p == 0.5 for m in network.modules()) == 2


def _optimiser() -> torch.optim.SGD:
    layer = nn.Linear(1, 1)
    return rule.optimiser(layer, Recipe(), (layer,))
