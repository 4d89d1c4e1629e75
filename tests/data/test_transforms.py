"""Augmentation: values against plain loops, and draws that depend on (seed, epoch, index) alone."""

from __future__ import annotations

import numpy as np
import pytest

from minires.data import Compose, Draws, Normalize, RandomCrop, RandomHorizontalFlip
from minires.data.transforms import _mix, augmentation, permutation
from minires.errors import ArgumentError, ShapeError


def batch(n: int = 8, h: int = 6, w: int = 5, c: int = 3) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, h, w, c)).astype(np.float32)


def draws(n: int = 8, seed: int = 3, epoch: int = 2) -> Draws:
    return Draws(seed, epoch, np.arange(n))


def test_mix_is_splitmix64():
    # The published generator's first outputs for seed 1234567: its state grows by the constant.
    gamma = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + k * gamma) % 2**64 for k in range(3)], np.uint64)
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert _mix(states).tolist() == expected


def test_draws_are_a_function_of_seed_epoch_stream_and_index():
    whole = draws(100)
    order = np.random.default_rng(1).permutation(100)
    np.testing.assert_array_equal(Draws(3, 2, order).uniform(), whole.uniform()[order])
    np.testing.assert_array_equal(Draws(3, 2, order[:7]).uniform(1), whole.uniform(1)[order[:7]])
    others = [
        draws(100, seed=4),
        draws(100, epoch=3),
        draws(100, seed=2, epoch=3),
        whole.stream(0),
        whole.stream(1),
        whole.stream(0).stream(0),
    ]
    seen = [tuple(d.bits(k)) for d in [whole, *others] for k in (0, 1)]
    assert len(set(seen)) == len(seen)


def test_draws_are_uniform_and_independent():
    n = 200_000
    u, v = (Draws(0, 0, np.arange(n)).uniform(k) for k in (0, 1))
    assert 0 <= u.min() <= u.max() < 1
    counts = np.histogram(u, 100, (0, 1))[0]
    assert ((counts - n / 100) ** 2 / (n / 100)).sum() < 150  # chi-square, 99 degrees of freedom
    assert abs(np.corrcoef(u, v)[0, 1]) < 0.01
    assert abs(np.corrcoef(u[1:], u[:-1])[0, 1]) < 0.01
    assert abs(np.corrcoef(u, Draws(0, 1, np.arange(n)).uniform())[0, 1]) < 0.01
    whole = Draws(0, 0, np.arange(n)).integers(9)
    assert set(whole) == set(range(9))
    assert np.bincount(whole).min() > n / 9 * 0.97


def test_largest_seed_and_no_overflow_warning():
    assert Draws(2**64 - 1, 2**64 - 1, np.array([2**62])).uniform().shape == (1,)


def test_permutations():
    first = permutation(1000, seed=0, epoch=0)
    assert sorted(first) == list(range(1000))
    np.testing.assert_array_equal(first, permutation(1000, 0, 0))
    for other in (permutation(1000, 0, 1), permutation(1000, 1, 0), np.arange(1000)):
        assert (first == other).mean() < 0.02
    # The order says nothing about the augmentation.
    assert (
        augmentation(0, 0, np.arange(9)).bits().tolist()
        != Draws(0, 0, np.arange(9), (0,)).bits().tolist()
    )


def test_every_position_gets_every_image():
    counts = np.zeros((5, 5))
    for epoch in range(5000):
        counts[np.arange(5), permutation(5, 7, epoch)] += 1
    assert np.abs(counts / 5000 - 0.2).max() < 0.03


def test_normalize():
    x = batch()
    y = Normalize((0.1, 0.2, 0.3), (0.5, 1.0, 2.0))(x, draws())
    assert y.dtype == np.float32
    np.testing.assert_allclose(y[..., 2], (x[..., 2] - 0.3) / 2.0, rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(y[..., 0], (x[..., 0] - 0.1) / 0.5, rtol=1e-6, atol=1e-7)
    np.testing.assert_array_equal(x, batch())


@pytest.mark.parametrize("padding", [0, 1, 4, 7])
def test_crop_is_a_window_of_the_padded_image(padding: int):
    x, d = batch(64), draws(64)
    y = RandomCrop(padding)(x, d)
    top, left = d.integers(2 * padding + 1, 0), d.integers(2 * padding + 1, 1)
    expected = np.zeros_like(x)
    for k in range(64):
        for i in range(6):
            for j in range(5):
                row, column = i + top[k] - padding, j + left[k] - padding
                if 0 <= row < 6 and 0 <= column < 5:
                    expected[k, i, j] = x[k, row, column]
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(x, batch(64))
    assert y.flags.c_contiguous
    assert len(set(zip(top.tolist(), left.tolist()))) >= min(20, (2 * padding + 1) ** 2)


def test_flip_mirrors_the_width_of_some():
    x, d = batch(64), draws(64)
    y = RandomHorizontalFlip(0.5)(x, d)
    mirrored = np.array([np.array_equal(y[k], x[k, :, ::-1]) for k in range(64)])
    kept = np.array([np.array_equal(y[k], x[k]) for k in range(64)])
    assert (mirrored ^ kept).all()
    assert 20 < mirrored.sum() < 44
    np.testing.assert_array_equal(RandomHorizontalFlip(1)(x, d), x[:, :, ::-1])
    np.testing.assert_array_equal(RandomHorizontalFlip(0)(x, d), x)
    np.testing.assert_array_equal(x, batch(64))


def test_compose_gives_each_transform_its_own_stream():
    x, d = batch(64), draws(64)
    twice = Compose([RandomHorizontalFlip(), RandomHorizontalFlip()])(x, d)
    changed = [not np.array_equal(twice[k], x[k]) for k in range(64)]
    assert 20 < sum(changed) < 44  # with one stream for both, no image would change
    steps = [Normalize([0] * 3, [2] * 3), RandomCrop(2), RandomHorizontalFlip()]
    y = x
    for k, step in enumerate(steps):
        y = step(y, d.stream(k))
    np.testing.assert_array_equal(Compose(steps)(x, d), y)


def test_padding_after_normalisation_is_the_mean():
    x = np.full((50, 4, 4, 1), 0.9, np.float32)
    y = Compose([Normalize([0.5], [0.1]), RandomCrop(4)])(x, draws(50))
    assert set(np.unique(y.round(4)).tolist()) == {0.0, 4.0}


def test_results_do_not_depend_on_the_batch():
    x = batch(40)
    transform = Compose([RandomCrop(), RandomHorizontalFlip()])
    whole = transform(x, draws(40))
    order = np.random.default_rng(5).permutation(40)
    for part in np.array_split(order, 7):
        np.testing.assert_array_equal(transform(x[part], Draws(3, 2, part)), whole[part])


def test_reprs():
    text = repr(
        Compose([Normalize((0.4914, 0.5), (0.25, 1)), RandomCrop(), RandomHorizontalFlip()])
    )
    assert text == (
        "Compose([Normalize(mean=(0.4914, 0.5), std=(0.25, 1)), RandomCrop(padding=4), "
        "RandomHorizontalFlip(p=0.5)])"
    )


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Normalize([0.5], [0.0]), "expected std > 0, got (0.0,). A channel with std 0"),
        (lambda: Normalize([0.5], [1, 1]), "one mean and one std per channel, got 1 and 2"),
        (lambda: Normalize(0.13, 0.31), "mean a number for each channel, got 0.13. For grey image"),
        (lambda: Normalize((0.5,), 0.25), "expected std a number for each channel, got 0.25. For"),
        (lambda: Normalize([], []), "one mean and one std per channel, got 0 and 0"),
        (lambda: Normalize([float("nan")], [1]), "mean a finite number, got nan"),
        (lambda: RandomCrop(-1), "padding an integer >= 0, got -1"),
        (lambda: RandomCrop(1.5), "padding an integer >= 0, got 1.5"),
        (lambda: RandomHorizontalFlip(1.5), "p a finite number >= 0 and <= 1, got 1.5"),
        (lambda: RandomHorizontalFlip(float("nan")), "p a finite number >= 0 and <= 1, got nan"),
        (lambda: RandomHorizontalFlip("x"), "p a number >= 0 and <= 1, got 'x'"),
        (lambda: Compose([3]), "callables (x, draws) -> x, got 3"),
    ],
)
def test_bad_arguments(make, words: str):
    with pytest.raises(ArgumentError) as caught:
        make()
    assert words in str(caught.value)


def test_bad_shapes():
    for transform in (Normalize([0.5], [1]), RandomCrop(), RandomHorizontalFlip()):
        with pytest.raises(ShapeError, match=r"a batch \(n, h, w, c\), got shape \(6, 5, 1\)"):
            transform(batch(c=1)[0], draws())
    with pytest.raises(ShapeError, match=r"Normalize: expected x with 1 channels .* got 3"):
        Normalize([0.5], [1])(batch(), draws())
