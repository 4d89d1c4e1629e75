"""Random transforms: how their parameters are distributed, and that nothing but those is random."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from vision.cases import facts, picture

import minires as mr
from minires.errors import ArgumentError, DTypeError, ShapeError
from minires.vision import transforms as T
from minires.vision.transforms import functional as F

N = 2000  # draws: a share of them is off by less than 4 standard deviations, 0.045


def shares(values) -> dict:
    counts = Counter(values)
    return {key: count / counts.total() for key, count in counts.items()}


def even(found: dict, n: int) -> bool:
    """Whether all of n values came, each about equally often."""
    spread = 5 * math.sqrt(1 / n * (1 - 1 / n) / N)
    return len(found) == n and all(abs(share - 1 / n) < spread for share in found.values())


def test_crops_are_everywhere():
    whole = picture("L", 5, 6)
    places = [T.RandomCrop.get_params(whole, (3, 4)) for _ in range(N)]
    assert {place[2:] for place in places} == {(3, 4)}
    assert even(shares(place[:2] for place in places), 9)
    assert T.RandomCrop.get_params(picture("L", 5, 6), (5, 6)) == (0, 0, 5, 6)


@pytest.mark.parametrize("flip", [T.RandomHorizontalFlip, T.RandomVerticalFlip])
@pytest.mark.parametrize("p", [0.5, 0.1])
def test_flips_come_as_often_as_told(flip, p):
    turned = (F.hflip if flip is T.RandomHorizontalFlip else F.vflip)(picture("L", 2, 2))
    chosen = flip(p)
    share = np.mean([facts(chosen(picture("L", 2, 2))) == facts(turned) for _ in range(N)])
    assert abs(share - p) < 0.045


def test_windows_have_the_areas_and_shapes_that_are_told():
    scale, ratio = (0.2, 0.5), (0.5, 2.0)
    whole = picture("L", 200, 200)
    found = [T.RandomResizedCrop.get_params(whole, scale, ratio) for _ in range(N)]
    top, left, h, w = np.array(found).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + h <= 200).all()
    assert (left + w <= 200).all()
    area, aspect = h * w / 200**2, w / h
    assert 0.19 < area.min() < 0.21
    assert 0.49 < area.max() < 0.51
    assert abs(np.mean(area) - 0.35) < 0.01  # uniform
    assert 0.48 < aspect.min() < 0.52
    assert 1.9 < aspect.max() < 2.1
    assert (
        abs(np.mean(np.log(aspect))) < 0.05
    )  # uniform on a logarithmic scale: as often 1:2 as 2:1
    assert abs(np.mean(aspect < 2**-0.5) - 0.25) < 0.045
    # anywhere it fits
    assert abs(np.mean(top / np.maximum(200 - h, 1)) - 0.5) < 0.04


def test_a_window_that_never_fits_is_the_middle():
    assert T.RandomResizedCrop.get_params(picture("L", 20, 40), (1, 1), (1, 1)) == (0, 10, 20, 20)
    assert T.RandomResizedCrop.get_params(picture("L", 40, 20), (1, 1), (1, 1)) == (10, 0, 20, 20)
    assert T.RandomResizedCrop.get_params(picture("L", 40, 20), (9, 9), (0.1, 9)) == (0, 0, 40, 20)
    assert T.RandomResizedCrop.get_params(picture("L", 1, 9), (1, 1), (0.1, 0.5)) == (0, 4, 1, 1)


def test_angles_are_uniform():
    angles = [T.RandomRotation.get_params((-30, 60)) for _ in range(N)]
    assert min(angles) >= -30
    assert max(angles) < 60
    assert even(shares(int((angle + 30) // 10) for angle in angles), 9)
    assert T.RandomRotation(30).degrees == [-30.0, 30.0]


def test_affine_amounts_are_as_told():
    drawn = [
        T.RandomAffine.get_params((-9, 3), (0.1, 0.5), (0.5, 2), (-4, 4, 1, 2), (100, 40))
        for _ in range(N)
    ]
    angle, move, scale, shear = (np.array(column) for column in zip(*drawn))
    values = np.column_stack([angle, move, scale, shear])
    low, high = (-9, -10, -20, 0.5, -4, 1), (3, 10, 20, 2, 4, 2)
    assert (values >= low).all()
    assert (values <= high).all()
    span = np.subtract(high, low)
    assert (np.abs(values.min(axis=0) - low) < 0.02 * span).all()
    assert (np.abs(values.max(axis=0) - high) < 0.02 * span).all()
    assert (np.abs(values.mean(axis=0) - np.add(low, high) / 2) < 0.04 * span).all()
    assert T.RandomAffine.get_params((2, 2), None, None, None, (3, 3)) == (2, (0, 0), 1, (0, 0))
    assert T.RandomAffine.get_params((0, 0), None, None, (3, 3), (3, 3))[3] == (3, 0)
    assert T.RandomAffine(0, shear=5).shear == [-5, 5]


def test_colours_change_as_far_as_told_in_every_order():
    ranges = T.ColorJitter(0.4, (0.5, 3), 2, (-0.1, 0.3))
    assert ranges.brightness == (0.6, 1.4)
    assert ranges.contrast == (0.5, 3.0)
    assert ranges.saturation == (0.0, 3.0)
    assert ranges.hue == (-0.1, 0.3)
    own = (ranges.brightness, ranges.contrast, ranges.saturation, ranges.hue)
    drawn = [T.ColorJitter.get_params(*own) for _ in range(N)]
    assert even(shares(tuple(order) for order, *_ in drawn), 24)
    for k, (low, high) in enumerate(own, 1):
        amounts = np.array([entry[k] for entry in drawn])
        assert low <= amounts.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < amounts.max() <= high
        assert abs(np.mean(amounts) - (low + high) / 2) < 0.04 * (high - low)
    assert T.ColorJitter.get_params(None, (2, 2), None, None)[1:] == (None, 2.0, None, None)


def test_erased_rectangles_have_the_sizes_that_are_told():
    x = mr.zeros(3, 100, 150)
    found = [T.RandomErasing.get_params(x, (0.05, 0.3), (0.5, 2.0), [7]) for _ in range(N // 4)]
    i, j, h, w = np.array([entry[:4] for entry in found]).T
    assert (i + h <= 100).all()
    assert (j + w <= 150).all()
    area, aspect = h * w / 15000, h / w
    assert 0.045 < area.min() < 0.07
    assert 0.28 < area.max() < 0.305
    assert 0.48 < aspect.min() < 0.6
    assert 1.7 < aspect.max() < 2.1
    assert found[0][4].tolist() == [[[7.0]]]


def test_what_erases():
    x = mr.ones(3, 30, 40)
    mr.manual_seed(1)
    erased = T.RandomErasing(1, value=(1, 2, 3))(x).numpy()
    assert (erased[0] == 1).all()
    assert set(np.unique(erased[1])) == {1, 2}
    assert np.array_equal(erased[2] == 3, erased[1] == 2)
    assert (x.numpy() == 1).all()  # what was given is as it was
    noise = T.RandomErasing(1, scale=(0.3, 0.3), value="random")(x).numpy()
    drawn = noise[noise != 1]
    assert 900 < drawn.size < 1200
    assert abs(drawn.mean()) < 0.15
    assert abs(drawn.std() - 1) < 0.1
    own = mr.ones(3, 30, 40)
    assert T.RandomErasing(1, inplace=True)(own) is own
    assert (own.numpy() == 0).any()
    changed = [(T.RandomErasing(0.3)(x).numpy() != 1).any() for _ in range(N // 4)]
    assert abs(np.mean(changed) - 0.3) < 0.09
    with pytest.raises(ArgumentError, match="expected value a number, or one for each of 3 chan"):
        T.RandomErasing(1, value=(1, 2))(x)


def test_others_by_chance():
    def steps(transform):
        return [tuple(transform([])) for _ in range(N)]

    one, two, three = (T.Lambda(lambda done, k=k: [*done, k]) for k in (1, 2, 3))
    assert even(shares(steps(T.RandomOrder([one, two, three]))), 6)
    assert even(shares(steps(T.RandomChoice([one, two, three]))), 3)
    weighted = shares(steps(T.RandomChoice([one, two, three], p=[1, 0, 3])))
    assert set(weighted) == {(1,), (3,)}
    assert abs(weighted[(3,)] - 0.75) < 0.045
    applied = shares(steps(T.RandomApply([one, two], p=0.2)))
    assert set(applied) == {(), (1, 2)}
    assert abs(applied[(1, 2)] - 0.2) < 0.045
    grey = [T.RandomGrayscale(0.3)(picture("RGB", 2, 2)) for _ in range(N)]
    assert abs(np.mean([facts(g) != facts(picture("RGB", 2, 2)) for g in grey]) - 0.3) < 0.045


def test_padding_if_needed():
    small = picture("L", 5, 30)
    cropped = T.RandomCrop((9, 20), pad_if_needed=True, fill=255)(small)
    assert cropped.size == (20, 9)
    rows = np.asarray(cropped)
    inside = [k for k in range(9) if not (rows[k] == 255).all()]
    assert len(inside) == 5  # four rows above and four below: a window of nine has all five
    assert any(
        np.array_equal(rows[inside], np.asarray(small)[:, left : left + 20]) for left in range(11)
    )


CASES = {
    "crop": (
        T.RandomCrop((7, 9)),
        lambda: T.RandomCrop.get_params(picture(), (7, 9)),
        lambda drawn: F.crop(picture(), *drawn),
    ),
    "padded crop": (
        T.RandomCrop(20, (1, 2), fill=(1, 2, 3)),
        lambda: T.RandomCrop.get_params(F.pad(picture(), (1, 2)), (20, 20)),
        lambda drawn: F.crop(F.pad(picture(), (1, 2), (1, 2, 3)), *drawn),
    ),
    "window": (
        T.RandomResizedCrop(11, (0.1, 0.9), interpolation=T.InterpolationMode.BICUBIC),
        lambda: T.RandomResizedCrop.get_params(picture(), (0.1, 0.9), (3 / 4, 4 / 3)),
        lambda drawn: F.resized_crop(picture(), *drawn, (11, 11), T.InterpolationMode.BICUBIC),
    ),
    "rotation": (
        T.RandomRotation(40, T.InterpolationMode.BILINEAR, expand=True, fill=9),
        lambda: T.RandomRotation.get_params([-40.0, 40.0]),
        lambda drawn: F.rotate(picture(), drawn, T.InterpolationMode.BILINEAR, True, fill=9),
    ),
    "affine": (
        T.RandomAffine(30, (0.2, 0.2), (0.7, 1.3), 10, fill=5, center=(3, 4)),
        lambda: T.RandomAffine.get_params((-30, 30), (0.2, 0.2), (0.7, 1.3), (-10, 10), (37, 23)),
        lambda drawn: F.affine(picture(), *drawn, fill=5, center=(3, 4)),
    ),
    "jitter": (
        T.ColorJitter(0.4, 0.4, 0.4, 0.1),
        lambda: T.ColorJitter.get_params((0.6, 1.4), (0.6, 1.4), (0.6, 1.4), (-0.1, 0.1)),
        lambda drawn: adjusted(picture(), drawn),
    ),
}


def adjusted(img, drawn):
    order, *amounts = drawn
    functions = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for k in order:
        img = functions[k](img, amounts[k])
    return img


@pytest.mark.parametrize("name", CASES)
def test_nothing_but_the_parameters_is_random(name):
    transform, draw, apply = CASES[name]
    for seed in range(5):
        mr.manual_seed(seed)
        expected = facts(apply(draw()))
        mr.manual_seed(seed)
        assert facts(transform(picture())) == expected


def test_the_seed_decides():
    transform = T.Compose([T.RandomResizedCrop(9), T.ColorJitter(0.9), T.RandomRotation(90)])
    mr.manual_seed(3)
    first = [facts(transform(picture())) for _ in range(4)]
    mr.manual_seed(3)
    assert [facts(transform(picture())) for _ in range(4)] == first
    assert len(set(first)) == 4


def test_tensors_move_as_pictures_do():
    transform = T.Compose([T.RandomCrop(20, 4), T.RandomHorizontalFlip(), T.RandomVerticalFlip()])
    for seed in range(4):
        mr.manual_seed(seed)
        moved = F.to_tensor(transform(picture()))
        mr.manual_seed(seed)
        assert facts(transform(F.to_tensor(picture()))) == facts(moved)


def test_gradients_pass_through_what_takes_tensors():
    x = mr.rand(3, 6, 7, requires_grad=True)
    y = T.Compose([T.Normalize([0.5], [0.25]), T.CenterCrop(4), T.Pad(2, padding_mode="reflect")])(
        x
    )
    F.hflip(y).sum().backward()
    assert x.grad.shape == (3, 6, 7)
    assert float(x.grad.sum().item()) == 3 * 8 * 8 * 4


# -- what is refused


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: T.Resize(0), "Resize: expected size an integer >= 1, got 0"),
        (lambda: T.Resize((1, 2, 3)), r"expected size an integer or \(h, w\), got \(1, 2, 3\)"),
        (lambda: T.Resize((4, 5), max_size=9), "expected max_size with one integer as size"),
        (lambda: T.Resize(9, max_size=9), "expected max_size an integer >= 10, got 9"),
        (
            lambda: T.Resize(9, "bilinear"),
            r"expected interpolation one of InterpolationMode\.\{NEA",
        ),
        (lambda: T.Resize(9, antialias=3), "expected antialias True or False"),
        (lambda: T.CenterCrop("x"), "CenterCrop: expected size"),
        (lambda: T.Pad((1, 2, 3)), "expected padding 1, 2 or 4 integers"),
        (lambda: T.Pad(1, "black"), "expected fill a finite number|expected fill a number"),
        (lambda: T.Pad(1, padding_mode="mirror"), r"unknown padding_mode of Pad 'mirror'"),
        (lambda: T.RandomCrop(3, padding="x"), "expected padding"),
        (lambda: T.RandomCrop(3, pad_if_needed=1), "expected pad_if_needed True or False"),
        (lambda: T.RandomHorizontalFlip(1.5), "expected p a finite number >= 0 and <= 1, got 1.5"),
        (lambda: T.RandomResizedCrop(3, scale=(1, 0.5)), r"expected scale as \(lowest, highest\)"),
        (lambda: T.RandomResizedCrop(3, ratio=(0, 1)), "expected ratio a finite number > 0"),
        (lambda: T.RandomRotation(-3), "expected degrees a finite number >= 0"),
        (lambda: T.RandomRotation(3, T.InterpolationMode.BOX), r"\{NEAREST, BILINEAR, BICUBIC\}"),
        (lambda: T.RandomRotation(3, center=3), r"expected center as \(x, y\)"),
        (lambda: T.RandomAffine(3, 0.1), r"expected translate as \(x, y\) in 0\.\.1, got 0\.1"),
        (lambda: T.RandomAffine(3, (0.1, 2)), "expected translate a finite number >= 0 and <= 1"),
        (lambda: T.RandomAffine(3, scale=(0, 1)), "expected scale a finite number >= 1e-06"),
        (lambda: T.RandomAffine(3, shear=(1, 2, 3)), r"expected shear as \(lowest, highest\)"),
        (lambda: F.affine(picture(), 0, (0, 0), 1, 90), "expected shear of less than 90 degrees"),
        (lambda: F.affine(picture(), 0, 3, 1, 0), r"expected translate as \(x, y\), got 3"),
        (lambda: T.ColorJitter(-1), "expected brightness a finite number >= 0, got -1"),
        (lambda: T.ColorJitter(hue=0.7), "expected hue a finite number >= 0 and <= 0.5, got 0.7"),
        (lambda: T.ColorJitter(hue=(-0.1, 0.7)), r"expected hue in -0\.5\.\.0\.5"),
        (lambda: T.Grayscale(2), "expected num_output_channels 1 or 3, got 2"),
        (lambda: T.RandomErasing(value="noise"), "or \"random\", got 'noise'"),
        (lambda: T.RandomErasing(scale=(0, 2)), r"expected scale in 0\.\.1"),
        (lambda: T.Normalize(0.5, 0.5), r"For grey images, a tuple of one: \(0\.5,\)\."),
        (lambda: T.Normalize((0.5,), (0,)), "expected std other than 0"),
        (
            lambda: T.Normalize((0.5,), (1, 2)),
            "expected one mean and one std per channel, got 1 and",
        ),
        (lambda: T.Compose(T.ToTensor()), "expected transforms in a list"),
        (lambda: T.Compose([T.ToTensor]), r"Make one: ToTensor\(\.\.\.\)\."),
        (lambda: T.Compose([3]), "expected transforms to call, got 3"),
        (lambda: T.Lambda(3), "expected a function of a picture, got 3"),
        (lambda: T.RandomChoice([]), "expected at least one transform"),
        (lambda: T.RandomChoice([abs], p=[1, 2]), "expected p as a list of 1 weights, not all 0"),
        (lambda: T.ToPILImage("X"), "unknown mode of ToPILImage 'X'"),
        (
            lambda: F.to_pil_image(mr.full((3, 2, 2), -1.5)),
            r"floats in 0\.\.1, got -1\.5\.\.-1\.5\. Undo N",
        ),
        (lambda: F.to_pil_image(mr.full((1, 2, 2), math.nan)), r"floats in 0\.\.1, got nan"),
        (
            lambda: F.to_pil_image(mr.ones(3, 2, 2), "L"),
            "expected mode RGB or YCbCr or HSV or LAB for",
        ),
        (lambda: F.adjust_hue(picture(), 0.6), "expected hue_factor"),
        (
            lambda: F.pad(picture("L", 3, 3), -2),
            "expected a border that leaves pixels, got -1 x -1",
        ),
        (
            lambda: F.pad(picture("L", 3, 3), 3, padding_mode="reflect"),
            "expected a border of at most 2 for padding_mode='reflect', got 3",
        ),
        (lambda: F.pad(picture(), 1, (1, 2)), "expected fill a number, or one for each of 3 bands"),
    ],
)
def test_wrong_arguments(make, words):
    with pytest.raises(ArgumentError, match=words):
        make()


@pytest.mark.parametrize(
    ("make", "kind", "words"),
    [
        (lambda: T.ToTensor()(mr.ones(3, 2, 2)), DTypeError, "got a Tensor. It is one already"),
        (
            lambda: T.ToTensor()("a.png"),
            DTypeError,
            r"expected a PIL image or an array \(h, w, c\)",
        ),
        (
            lambda: T.ToTensor()(np.ones(3)),
            ShapeError,
            r"expected an array \(h, w, c\) or \(h, w\)",
        ),
        (lambda: T.ToTensor()(np.ones((2, 2), bool)), DTypeError, "expected an array of uint8"),
        (lambda: T.Resize(3)(mr.ones(3, 9, 9)), DTypeError, r"Put it before ToTensor\(\)\."),
        (lambda: T.ColorJitter(1)(mr.ones(3, 9, 9)), DTypeError, r"Put it before ToTensor\(\)\."),
        (lambda: T.Normalize([1], [1])(picture()), DTypeError, r"Put it after ToTensor\(\)\."),
        (lambda: T.RandomErasing(1)(picture()), DTypeError, r"Put it after ToTensor\(\)\."),
        (
            lambda: T.CenterCrop(3)(np.ones((9, 9, 3))),
            DTypeError,
            r"PIL\.Image\.fromarray\(array\)",
        ),
        (
            lambda: T.Normalize([0.5] * 3, [1] * 3)(mr.ones(1, 4, 4)),
            ShapeError,
            r"expected a tensor of 3 channels, as mean and std have, got 1 .*Grayscale\(3\)",
        ),
        (
            lambda: T.RandomCrop(30)(picture()),
            ShapeError,
            r"expected a picture of at least 30 x 30 pixels, got 23 x 37\. Use padding, pad_if",
        ),
        (lambda: T.FiveCrop(30)(picture()), ShapeError, "expected a picture of at least 30 x 30"),
        (lambda: F.adjust_contrast(picture("I"), 2), DTypeError, "expected a picture of bytes"),
        (lambda: F.to_pil_image(mr.ones(5, 2, 2)), DTypeError, "expected 1 to 4 channels of uint8"),
        (lambda: F.to_pil_image("x"), DTypeError, r"expected a tensor \(c, h, w\) or an array"),
        (
            lambda: F.to_pil_image(mr.ones(2)),
            ShapeError,
            r"expected a tensor \(c, h, w\), an array",
        ),
        (lambda: F.convert_image_dtype(mr.ones(2), "int64"), DTypeError, "enough digits"),
    ],
)
def test_wrong_pictures(make, kind, words):
    with pytest.raises(kind, match=words):
        make()
