"""The recipes: learning rates step by step, the paper's warm-up rule, what is done to images."""

from __future__ import annotations

import numpy as np
import pytest
from harness import raises

import minires as mr
from minires import data
from minires.errors import ArgumentError
from minires.study import PROTOCOLS
from minires.study.protocols import (
    Protocol,
    StepsWithWarmUp,
    SubtractMeanImage,
    make_normalize,
    make_optimizer,
    make_schedule,
)
from minires.train import recipe


def rates(protocol, steps_per_epoch, depth):
    optimizer = make_optimizer(protocol, [mr.zeros(1, requires_grad=True)])
    schedule = make_schedule(protocol, optimizer, steps_per_epoch, depth)
    found = []
    for _ in range(protocol.epochs * steps_per_epoch):
        found.append(optimizer.param_groups[0]["lr"])
        schedule.step()
    return np.array(found)


def test_quick_rises_then_falls():
    protocol = PROTOCOLS["quick"]
    found = rates(protocol, 12, depth=20)
    peak = round(protocol.warmup_epochs * 12)
    assert found.argmax() == peak
    assert found[peak] == pytest.approx(protocol.lr)
    assert (np.diff(found[: peak + 1]) > 0).all()
    assert (np.diff(found[peak:]) < 0).all()
    assert found[-1] < 0.001 * protocol.lr


def test_paper_divides_by_ten_at_half_and_three_quarters():
    found = rates(PROTOCOLS["paper"], 391, depth=56)
    assert len(found) == 64_124  # 64k iterations in whole epochs of 391
    drops = np.flatnonzero(np.diff(found)) + 1
    assert drops.tolist() == [32_062, 48_093]
    np.testing.assert_allclose(np.unique(found), [0.001, 0.01, 0.1])


def test_paper_warms_up_deep_networks_until_80_percent():
    optimizer = make_optimizer(PROTOCOLS["paper"], [mr.zeros(1, requires_grad=True)])
    schedule = make_schedule(PROTOCOLS["paper"], optimizer, 391, depth=110)
    assert isinstance(schedule, StepsWithWarmUp)
    group = optimizer.param_groups[0]
    schedule.step()
    assert group["lr"] == pytest.approx(0.01)
    schedule.observe(0.85)
    assert group["lr"] == pytest.approx(0.01)
    schedule.observe(0.79)
    assert group["lr"] == pytest.approx(0.1)
    assert "warming" not in schedule.state_dict()


def test_with_epochs_shortens_the_warm_up_too():
    short = PROTOCOLS["quick"].with_epochs(2)
    assert (short.epochs, short.warmup_epochs) == (2, 1)
    assert PROTOCOLS["quick"].with_epochs(None) is PROTOCOLS["quick"]
    with raises(ArgumentError, "epochs an integer >= 1", "got 0"):
        PROTOCOLS["quick"].with_epochs(0)


def test_protocol_survives_json():
    from dataclasses import asdict

    for protocol in PROTOCOLS.values():
        assert Protocol.from_json(asdict(protocol)) == protocol


def test_mean_image_is_subtracted_per_pixel():
    digits = data.load("digits")
    x, _ = digits.batch(np.arange(len(digits)))
    shown = SubtractMeanImage(digits)(x.transpose(0, 2, 3, 1), None)
    np.testing.assert_allclose(shown.mean(axis=0), 0, atol=1e-6)


def test_training_images_are_augmented_and_others_not():
    digits = data.load("digits").limit(64)
    normalize = make_normalize(PROTOCOLS["paper"], digits)
    plain = data.DataLoader(digits, 64, transform=normalize)
    augmented = recipe.training_loader(
        digits, normalize, PROTOCOLS["paper"].augment, batch_size=64, seed=3
    )

    def images(loader):  # of two epochs, each sorted: the order is another
        return [np.sort(next(iter(loader))[0].data.sum((1, 2, 3))) for _ in range(2)]

    np.testing.assert_array_equal(*images(plain))
    assert not np.array_equal(*images(augmented))


def test_a_recipe_replaces_parts_of_the_protocol():
    quick = PROTOCOLS["quick"]
    assert quick.with_recipe() is quick
    assert quick.with_recipe(lr=0.1, augment=()) is quick
    adam = quick.with_recipe(optimizer="adam", augment=["flip", "crop"], label_smoothing=0.1)
    assert (adam.lr, adam.momentum, adam.augment) == (0.001, None, ("crop", "flip"))
    assert adam.description == (
        "The quick protocol, but for: optimizer, lr, momentum, label smoothing, augment."
    )
    assert isinstance(make_optimizer(adam, [mr.zeros(1, requires_grad=True)]), mr.optim.Adam)
    assert quick.with_recipe(optimizer="rmsprop", lr=0.01).lr == 0.01
    paper = PROTOCOLS["paper"].with_recipe(schedule="linear")
    assert (paper.warmup_rule, paper.schedule) == ("linear", "linear")
    found = rates(paper, 2, depth=110)
    assert (np.diff(found) < 0).all()
    assert PROTOCOLS["paper"].with_recipe(lr=0.05).warmup_rule == "80%"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"depth": 3}, "unknown part of a recipe 'depth'"),
        ({"optimizer": "adm"}, "unknown optimizer 'adm': did you mean adam"),
        ({"optimizer": "adam", "momentum": 0.9}, "no momentum for adam, got 0.9"),
        ({"momentum": 1.0}, "momentum a finite number >= 0 and < 1"),
        ({"schedule": "plateau"}, "unknown schedule 'plateau'"),
        ({"augment": "flop"}, "unknown augmentation 'flop'"),
        ({"lr": -1}, "lr a finite number >= 0, got -1"),
        ({"batch_size": 0}, "batch_size an integer >= 1"),
        ({"label_smoothing": 1}, "label_smoothing a finite number >= 0 and < 1"),
    ],
)
def test_recipes_out_of_range(given, words):
    with raises(ArgumentError, words):
        PROTOCOLS["quick"].with_recipe(**given)


def test_protocols_of_before_have_one_name_of_an_augmentation():
    from dataclasses import asdict

    for name, former in (("quick", "none"), ("paper", "crop-flip")):
        stored = {**asdict(PROTOCOLS[name]), "augment": former}
        del stored["optimizer"], stored["label_smoothing"]
        assert Protocol.from_json(stored) == PROTOCOLS[name]
