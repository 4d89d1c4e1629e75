"""The identity path: what the proof states, and that it fails for every way to break a skip."""

from __future__ import annotations

import itertools
import json
import xml.etree.ElementTree as ET
from operator import add

import numpy as np
import pytest
from harness import raises
from PIL import Image

import minires as mr
from minires import identity, nn
from minires.errors import ArgumentError, DTypeError, GradcheckError, ShapeError
from minires.identity import example, figures, jacobians, prove_block
from minires.models import (
    BasicBlock,
    Bottleneck,
    PlainBlock,
    PreActBlock,
    PreActBottleneck,
    PreActPlainBlock,
    cifar_plain,
    cifar_resnet,
)
from minires.report.figures import FORMATS, to_bytes

RESIDUAL = [BasicBlock, Bottleneck, PreActBlock, PreActBottleneck]
ALL = [*RESIDUAL, PlainBlock, PreActPlainBlock]


@pytest.fixture(scope="module")
def proofs():
    return identity.prove()


# -- one block


@pytest.mark.slow
def test_every_block_is_proved(proofs):
    assert [str(p) for p in proofs if not p.ok] == []
    cases = {(p.block, p.mode, p.shortcut, p.stride) for p in proofs}
    kinds = [(k.__name__, s) for k in RESIDUAL for s in "ABC"] + [
        ("PlainBlock", ""),
        ("PreActPlainBlock", ""),
    ]
    assert cases == {
        (kind, mode, shortcut, stride)
        for (kind, shortcut), mode, stride in itertools.product(kinds, ("train", "eval"), (1, 2))
    }
    for p in proofs:
        assert p.bitwise
        assert 0 <= p.disagreement <= 1e-12
        assert 0 < p.truth <= 1e-12  # exactly 0 would mean that nothing independent was compared
        assert p.entries == (48 * 48 if p.stride == 1 else 32 * 48)
        assert p.shape == (2, 4, 3, 2)


@pytest.mark.slow
def test_the_skip_is_what_the_paper_says(proofs):
    for p in proofs:
        same = p.stride == 1 and p.shortcut in ("A", "B")
        expected = "none" if not p.shortcut else "identity" if same else "projection"
        assert p.skip == ("0/1 matrix" if (p.shortcut, p.stride) == ("A", 2) else expected)


@pytest.mark.slow
def test_batch_norm_couples_images_in_f_and_never_in_the_identity(proofs):
    for p in proofs:
        assert (p.coupling > 0.05) == (p.mode == "train"), p.name
        projects_in_training = p.skip == "projection" and p.mode == "train"
        assert (p.skip_coupling > 0) == projects_in_training, p.name


@pytest.mark.slow
def test_a_proof_is_plain_values_for_json(proofs):
    read = json.loads(json.dumps(proofs[2].as_dict()))
    assert read["name"] == "BasicBlock, shortcut A, stride 2, train"
    assert (read["ok"], read["bitwise"], read["faults"], read["entries"]) == (True, True, [], 1536)


@pytest.mark.slow
def test_worst_is_one_per_block_kind(proofs):
    worst = identity.worst(proofs)
    assert [p.block for p in worst] == [kind.__name__ for kind in ALL]
    for p in worst:
        assert p.disagreement == max(q.disagreement for q in proofs if q.block == p.block)


@pytest.mark.parametrize("kind", [BasicBlock, PreActBlock])
def test_jacobians_by_hand(kind, backend):
    """Against a product of explicit matrices, written without the engine."""
    block, x = example(kind, training=False)
    j = jacobians(block, x)
    n = x.numel()

    def conv(layer):
        """The matrix of a 3x3 convolution with padding 1."""
        w, shape = layer.weight.data, x.shape
        matrix = np.zeros((*shape, *shape))
        for i, c, o, h, v, a, b in itertools.product(*map(range, (2, 4, 4, 3, 2, 3, 3))):
            if 0 <= h + a - 1 < 3 and 0 <= v + b - 1 < 2:
                matrix[i, o, h, v, i, c, h + a - 1, v + b - 1] = w[o, c, a, b]
        return matrix.reshape(n, n)

    def norm(layer, values):
        slope = layer.weight.data / np.sqrt(layer.running_var.data + layer.eps)
        offset = layer.bias.data - slope * layer.running_mean.data
        slope, offset = (
            np.broadcast_to(t[:, None, None], x.shape).ravel() for t in (slope, offset)
        )
        return np.diag(slope), slope * values + offset

    v = x.detach().numpy().ravel()
    if kind is BasicBlock:
        c1, c2 = conv(block.conv1), conv(block.conv2)
        b1, out = norm(block.bn1, c1 @ v)
        b2, f = norm(block.bn2, c2 @ np.maximum(out, 0))
        j_f = b2 @ c2 @ np.diag(out > 0) @ b1 @ c1
        expected = np.diag(f + v > 0) @ (j_f + np.eye(n))
        np.testing.assert_array_equal(j.open, f + v > 0)
    else:
        c1, c2 = conv(block.conv1), conv(block.conv2)
        b1, out = norm(block.bn1, v)
        b2, out2 = norm(block.bn2, c1 @ np.maximum(out, 0))
        j_f = c2 @ np.diag(out2 > 0) @ b2 @ c1 @ np.diag(out > 0) @ b1
        expected = j_f + np.eye(n)
    np.testing.assert_allclose(j.residual, j_f, rtol=0, atol=1e-13)
    np.testing.assert_allclose(j.block, expected, rtol=0, atol=1e-13)
    np.testing.assert_array_equal(j.skip, np.eye(n))
    np.testing.assert_array_equal(j.block, j.expected)
    assert j.coupling(j.residual) == j.coupling(j.skip) == 0


def test_coupling_is_the_norm_of_the_largest_part_between_images():
    block, x = example(BasicBlock)
    j = jacobians(block, x)
    parts = j.residual.reshape(2, 24, 2, 24)
    expected = max(np.linalg.svd(parts[a, :, 1 - a])[1][0] for a in (0, 1))
    assert j.coupling(j.residual) == pytest.approx(expected, rel=1e-12)


def test_option_a_matrix_by_hand():
    matrix = identity.option_a_matrix((1, 1, 3, 2), (1, 2, 2, 1), 2)
    expected = np.zeros((4, 6))
    expected[0, 0] = expected[1, 4] = 1  # pixels (0, 0) and (2, 0); channel 1 is zeros
    np.testing.assert_array_equal(matrix, expected)


@pytest.mark.parametrize(
    ("plain", "residual"), [(PlainBlock, BasicBlock), (PreActPlainBlock, PreActBlock)]
)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_plain_twin_has_the_jacobian_of_f(plain, residual, stride):
    block, x = example(residual, "A", stride)
    twin, _ = example(plain, "", stride)
    twin.load_state_dict(block.state_dict())
    j, j_plain = jacobians(block, x), jacobians(twin, x)
    np.testing.assert_array_equal(j_plain.block, j_plain.masked(j.residual))
    assert not j_plain.skip.any()


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.3, -1.0])
@pytest.mark.parametrize("kind", RESIDUAL)
@pytest.mark.parametrize("shortcut", ["A", "C"])
def test_a_scaled_skip_adds_lambda_s(kind, shortcut, factor):
    block, x = example(kind, shortcut, 2)
    j, scaled = jacobians(block, x), jacobians(identity.scaled_skip(block, factor), x)
    np.testing.assert_array_equal(scaled.residual, j.residual)
    expected = scaled.masked(j.residual + factor * j.skip)
    np.testing.assert_allclose(scaled.block, expected, rtol=0, atol=1e-13 * np.abs(expected).max())


@pytest.mark.parametrize("kind", RESIDUAL)
def test_a_silent_branch_leaves_the_skip(kind):
    block, x = example(kind)
    name, silent = identity.silenced(block)
    assert (
        name
        == {
            "BasicBlock": "bn2",
            "Bottleneck": "bn3",
            "PreActBlock": "conv2",
            "PreActBottleneck": "conv3",
        }[kind.__name__]
    )
    j = jacobians(silent, x)
    assert not j.residual.any()
    np.testing.assert_array_equal(j.block, j.masked(np.eye(x.numel())))
    assert block.state_dict()[f"{name}.weight"].data.any()  # a copy was silenced


def test_blocks_are_left_as_they_are():
    block, x = example(BasicBlock, "C", 2)
    block = block.float()
    before = {name: t.data.copy() for name, t in block.state_dict().items()}
    prove_block(block, x).assert_ok()
    identity.path_lengths([block], mr.randn(2, 4, 3, 2), mr.randn(2, 8, 2, 1))
    for name, t in block.state_dict().items():
        np.testing.assert_array_equal(t.data, before[name])
        assert t.data.dtype == before[name].dtype
    assert all(p.requires_grad and p.grad is None for p in block.parameters())
    assert x.grad is None


def test_a_block_of_ones_own():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 2, 3, padding=1)

        def residual(self, x):
            return self.conv(x).tanh()

        def skip(self, x):
            return x

        def forward(self, x):
            return (self.residual(x) + self.skip(x)).relu()

    proof = prove_block(Mine(), mr.randn(2, 2, 3, 4))
    proof.assert_ok()
    assert (proof.block, proof.skip, proof.stride) == ("Mine", "identity", 1)
    assert proof.name == "Mine, stride 1, train"
    Mine.skip = lambda self, x: 2 * x
    halved = prove_block(Mine(), mr.randn(2, 2, 3, 4))
    assert (halved.ok, halved.skip) == (True, "of its own")


# -- broken blocks


class Dropped(BasicBlock):
    def forward(self, x):
        return self.relu(self.residual(x))


class Scaled(BasicBlock):
    def forward(self, x):
        return self.relu(add(self.residual(x), 1.001 * self.skip(x)))


class LostChannel(BasicBlock):
    def forward(self, x):
        mask = np.ones((1, 4, 1, 1))
        mask[0, 2] = 0
        return self.relu(add(self.residual(x), self.skip(x) * mr.tensor(mask)))


class AfterReLU(BasicBlock):
    def forward(self, x):
        return add(self.relu(self.residual(x)), self.skip(x))


class Detached(BasicBlock):
    def forward(self, x):
        return self.relu(add(self.residual(x), self.skip(x).detach()))


class Twice(BasicBlock):
    def forward(self, x):
        return self.relu(add(self.residual(x), self.skip(x)) + self.skip(x))


class DoubledOnTheWayBack(BasicBlock):
    def forward(self, x):
        skip = self.skip(x)
        return self.relu(add(self.residual(x), skip + skip - skip.detach()))


class Shuffled(BasicBlock):
    def forward(self, x):
        return self.relu(add(self.residual(x), self.skip(x)[:, [1, 0, 2, 3]]))


VALUE = "the value is not relu(F(x) + S(x)): off by up to"
MUTANTS = {
    Dropped: [VALUE, "J_block - J_F is not S, it is 0: the skip was dropped"],
    Scaled: [VALUE, "J_block - J_F is not S, it is 1.001 S: the skip is scaled"],
    LostChannel: [VALUE, "J_block - J_F is not S: the skip is lost in channel 2 of 4"],
    AfterReLU: [VALUE, "J_block - J_F is not S: the skip is added after the ReLU"],
    Detached: [
        "J_block - J_F is not S, it is 0: the skip is in the value, but no gradient",
        "J_block by backward is not the derivative: off by",
    ],
    Twice: [VALUE, "J_block - J_F is not S, it is 2 S: the skip is counted twice"],
    DoubledOnTheWayBack: [
        "J_block - J_F is not S, it is 2 S: the skip is counted twice",
        "J_block by backward is not the derivative: off by",
    ],
    Shuffled: [VALUE, "J_block - J_F is not S: ", "entries differ, most at ∂y[", "D (J_F + S)"],
}


@pytest.mark.slow
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("kind", MUTANTS)
def test_a_broken_skip_is_found_and_named(kind, training):
    block, x = example(kind, "A", 1, training)
    proof = prove_block(block, x)
    assert not proof.ok
    assert not proof
    assert not proof.bitwise
    with raises(GradcheckError, f"{kind.__name__}, stride 1", *MUTANTS[kind]):
        proof.assert_ok()
    if kind not in (
        Detached,
        DoubledOnTheWayBack,
    ):  # their gradients are those of what they compute
        assert not any("not the derivative" in fault for fault in proof.faults)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Dropped, Scaled, Detached, Twice])
def test_a_broken_projection_is_found(kind):
    block, x = example(kind, "B", 2)
    text = str(prove_block(block, x))
    assert MUTANTS[kind][-2 if kind is Detached else -1] in text


def test_a_broken_pre_activation_block_is_found():
    class Wrong(PreActBlock):
        def forward(self, x):
            return self.residual(x) + 1.001 * self.skip(x)

    text = str(prove_block(*example(Wrong)))
    assert "the value is not F(x) + S(x)" in text
    assert "it is 1.001 S: the skip is scaled" in text

    class Swapped(PreActBlock):
        """Both paths share an activation, of which one is detached."""

        def forward(self, x):
            a = self.preactivate(x)
            return self.branch(a) + self.downsample(a.detach())

    assert "no gradient comes back through it (detached)" in str(
        prove_block(*example(Swapped, "B", 2))
    )


@pytest.mark.slow
def test_a_wrong_skip_and_mixed_images_are_found():
    class NotIdentity(BasicBlock):
        def skip(self, x):
            return x * 1.0000001

    class Mixed(BasicBlock):
        def residual(self, x):
            return super().residual(x - x.mean(0, keepdim=True))

    assert prove_block(*example(NotIdentity)).faults == ("J_S is not the identity",)
    mixed = prove_block(*example(Mixed))
    assert mixed.ok
    assert not mixed.bitwise  # this F reads x twice: three gradients are added at x, not two
    assert prove_block(*example(Mixed, training=False)).faults == (
        "in evaluation one image of the batch acts on another",
    )


def test_a_dead_branch_proves_nothing():
    block, x = example(BasicBlock)
    _, silent = identity.silenced(block)
    assert "J_F is 0 at this x" in str(prove_block(silent, x))


ERRORS = {
    "no residual": (lambda: prove_block(nn.Conv2d(2, 2, 1), mr.randn(1, 2, 3, 3)), ArgumentError,
                    ["residual(x)", "got Conv2d"]),
    "no tensor": (lambda: jacobians(BasicBlock(2, 2), np.ones((1, 2, 3, 3))), DTypeError,
                  ["x to be a floating-point tensor, got ndarray"]),
    "integers": (lambda: jacobians(BasicBlock(2, 2), mr.ones(1, 2, 3, 3, dtype="int64")),
                 DTypeError, ["got int64"]),
    "gy": (lambda: identity.path_lengths([BasicBlock(2, 2)], mr.randn(2, 2, 3, 3), mr.ones(2)),
           ShapeError, ["gy of shape (2, 2, 3, 3), got (2,)"]),
    "too many": (lambda: identity.paths_through([None] * 9), ArgumentError,
                 ["1 to 8 blocks, got 9", "path_lengths"]),
    "none": (lambda: identity.product([]), ArgumentError, ["at least one block"]),
    "training": (lambda: identity.stack_jacobians(BasicBlock(2, 2), mr.randn(2, 2, 3, 3)),
                 ArgumentError, ["evaluation mode", ".eval()"]),
    "no blocks": (lambda: identity.around_blocks(nn.ReLU(), mr.ones(1), mr.ones(1)), ArgumentError,
                  ["a network of blocks with residual(x), got ReLU"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ERRORS.values(), ids=ERRORS)
def test_errors(case):
    call, kind, words = case
    with raises(kind, *words):
        call()


# -- chains


def chain(kind, n, seed=0):
    """n blocks, of which the second changes shape; γ of both signs."""
    mr.manual_seed(seed)
    blocks = [kind(4, 4 // kind.expansion)]
    if n > 1:
        blocks.append(kind(4, 8 // kind.expansion, 2, shortcut="AB"[n % 2]))
    blocks += [kind(8, 8 // kind.expansion) for _ in range(n - 2)]
    return blocks, mr.randn(2, 4, 3, 2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", RESIDUAL)
@pytest.mark.parametrize("n", [1, 4])
def test_the_product_is_the_sum_over_all_paths(kind, n):
    blocks, x = chain(kind, n)
    found = identity.prove_chain(blocks, x)
    assert found.faults == ()
    assert found.ok
    assert max(found.product, found.paths, found.split) <= 1e-12
    assert found.name == f"{n} × {kind.__name__}, train"


def test_paths_are_named_after_their_way():
    blocks, x = chain(PreActBlock, 2)
    one, two = js = identity.chain_jacobians(blocks, x)
    ways = identity.paths_through(js)
    assert list(ways) == ["FF", "FS", "SF", "SS"]
    np.testing.assert_array_equal(ways["FS"], two.skip @ one.residual)
    np.testing.assert_array_equal(ways["SF"], two.residual @ one.skip)


def test_the_split_by_length_is_the_sum_over_paths_of_that_length():
    blocks, x = chain(BasicBlock, 4)
    blocks, x = [b.double() for b in blocks], x.double()
    js = identity.chain_jacobians(blocks, x)
    gy = np.random.default_rng(0).standard_normal(js[-1].shape_out)
    split = identity.path_lengths(blocks, x, mr.tensor(gy))
    assert split.gradients.shape == (5, *x.shape)
    assert split.counts == [1, 4, 6, 4, 1]
    expected = np.zeros((5, x.numel()))
    for way, matrix in identity.paths_through(js).items():
        expected[way.count("F")] += gy.ravel() @ matrix
    np.testing.assert_allclose(split.gradients.reshape(5, -1), expected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(split.norms, np.linalg.norm(expected, axis=1), rtol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("pre_activation", [False, True])
@pytest.mark.parametrize("depth", [8, 56])
def test_the_split_sums_to_the_ordinary_gradient(depth, pre_activation):
    net = cifar_resnet(depth, in_channels=1, pre_activation=pre_activation).double()
    images, labels = mr.randn(4, 1, 8, 8, dtype="float64"), mr.randint(0, 10, (4,))
    blocks, x, gy, gx = identity.around_blocks(net, images, labels)
    assert len(blocks) == (depth - 2) // 2
    split = identity.path_lengths(blocks, x, gy)
    np.testing.assert_allclose(split.total, gx.data, rtol=0, atol=1e-12 * np.abs(gx.data).max())
    # and that gradient is the one of the loss: the stem's weight gets the same through it
    loss = mr.cross_entropy(net(images), labels)
    (expected,) = mr.grad(loss, net.conv1.weight)
    stem = net.conv1(images) if pre_activation else net.relu(net.bn1(net.conv1(images)))
    (through,) = mr.grad(stem, net.conv1.weight, gx)
    np.testing.assert_allclose(
        through.data, expected.data, rtol=0, atol=1e-11 * np.abs(expected.data).max()
    )


def test_plain_blocks_have_the_longest_path_only():
    net = cifar_plain(8, in_channels=1).double()
    images, labels = mr.randn(4, 1, 8, 8, dtype="float64"), mr.randint(0, 10, (4,))
    blocks, x, gy, gx = identity.around_blocks(net, images, labels)
    split = identity.path_lengths(blocks, x, gy)
    assert not split.gradients[:-1].any()
    np.testing.assert_allclose(split.gradients[-1], gx.data, rtol=0, atol=1e-14)


def test_single_paths():
    blocks, x = chain(PreActBlock, 3)
    blocks, x = [b.double() for b in blocks], x.double()
    gy = mr.tensor(np.random.default_rng(0).standard_normal((2, 8, 2, 1)))
    norms = identity.sample_path_norms(blocks, x, gy, samples=6)
    ways = identity.paths_through(identity.chain_jacobians(blocks, x))
    for k in range(4):
        all_of_k = [
            np.linalg.norm(gy.data.ravel() @ m) for way, m in ways.items() if way.count("F") == k
        ]
        for norm in norms[:, k]:
            assert min(abs(norm - other) for other in all_of_k) < 1e-12
    assert len({round(norm, 12) for norm in norms[:, 1]}) > 1


def test_a_chain_that_does_not_add_up_is_told():
    class Leaky(PreActBlock):
        def forward(self, x):
            return self.residual(x) + 0.999 * self.skip(x)

    found = identity.prove_chain([PreActBlock(3, 3), Leaky(3, 3)], mr.randn(2, 3, 4, 4))
    assert not found
    assert [fault.split(":")[0] for fault in found.faults] == [
        "backward through the chain is not the product of the blocks' Jacobians",
        "the Jacobians of all paths do not add up to that of the chain",
        "the gradients by path length do not add up to the ordinary gradient",
    ]


# -- spectra and figures


@pytest.fixture(scope="module")
def spectra():
    return identity.singular_values((1, 4, 12), shape=(4, 3, 4), images=2)


def test_stack_jacobians_are_products_of_block_jacobians():
    mr.manual_seed(0)
    stack = nn.Sequential(BasicBlock(3, 3), BasicBlock(3, 6, 2)).double()
    x = mr.randn(5, 3, 4, 3, dtype="float64")
    identity.calibrate(stack, x)
    assert stack.training
    stack.eval()
    found = identity.stack_jacobians(stack, x[:2])
    for i in range(2):
        expected = identity.product(identity.chain_jacobians(list(stack), x[i : i + 1]))
        np.testing.assert_allclose(found[i], expected, rtol=0, atol=1e-12)


def test_calibration_gives_evaluation_the_statistics_of_the_batch():
    norm, x = nn.BatchNorm2d(3), mr.randn(4, 3, 5, 5) * 3 + 1
    identity.calibrate(norm, x)
    assert norm.momentum == 0.1
    y = norm.eval()(x).detach().numpy()
    np.testing.assert_allclose(y.mean((0, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(y.std((0, 2, 3)), 1, atol=1e-2)


def test_singular_values_of_plain_stacks_spread_and_of_residual_ones_do_not(spectra):
    assert spectra.plain.shape == spectra.residual.shape == (3, 48)
    assert spectra.kinds == ("PreActPlainBlock", "PreActBlock")
    for values in (spectra.plain, spectra.residual):
        assert (np.diff(values, axis=1) <= 0).all()
    plain, residual = (v[:, 15] / v[:, 0] for v in (spectra.plain, spectra.residual))
    assert plain[2] < 1e-3 * residual[2]
    assert (np.diff(plain) < 0).all()


def test_a_heat_map_shows_the_matrices():
    j = jacobians(*example(BasicBlock))
    figure = figures.heat_maps(j, "BasicBlock")
    panels = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title(loc="left") for axis in panels] == [
        "∂F/∂x",
        "I",
        "∂F/∂x + I",
        "D (∂F/∂x + I) = ∂y/∂x",
    ]
    for axis, matrix in zip(panels, (j.residual, j.skip, j.residual + j.skip, j.block)):
        np.testing.assert_array_equal(axis.images[0].get_array(), matrix)
    limits = {axis.images[0].get_clim() for axis in panels}
    assert len(limits) == 1  # one scale for all, white at zero
    low, high = limits.pop()
    assert low == -high
    texts = [text.get_text() for text in figure.texts]
    assert "The Jacobian of BasicBlock, entry by entry" in texts
    assert any("never in I" in text for text in texts)
    j = jacobians(*example(PreActBlock, "A", 2, False))
    titles = [axis.get_title(loc="left") for axis in figures.heat_maps(j).axes if axis.images]
    assert titles == ["∂F/∂x", "S", "∂F/∂x + S = ∂y/∂x"]


def test_the_singular_values_are_drawn_down_to_what_float64_resolves(spectra):
    figure = figures.singular_values(spectra)
    for axis, values in zip(figure.axes, (spectra.plain, spectra.residual)):
        lines = [line for line in axis.get_lines() if len(line.get_xdata()) == 3]
        assert len(lines) == 6  # the 1st, 2nd, 4th, 8th, 16th and 32nd of 48
        floor = values[:, 0] * 48 * np.finfo(float).eps
        for rank, line in zip((1, 2, 4, 8, 16, 32), lines):
            expected = values[:, rank - 1]
            expected = np.where(expected > floor, expected, np.nan)
            np.testing.assert_array_equal(line.get_ydata(), expected)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["largest", "2nd", "4th", "8th", "16th", "32nd"]


def test_the_path_lengths_are_drawn():
    split, singles, name = figures.example_split(8, images=4, samples=3)
    assert name == "pre-activation ResNet-8 before training, a batch of 4 digits"
    figure = figures.path_lengths(split, singles, name)
    left, right = figure.axes
    np.testing.assert_allclose([bar.get_height() for bar in left.patches], split.norms)
    (counts,) = left.get_lines()
    np.testing.assert_allclose(counts.get_ydata() / split.norms.max(), [1 / 3, 1, 1, 1 / 3])
    np.testing.assert_allclose(right.get_lines()[0].get_ydata(), np.exp(np.log(singles).mean(0)))
    assert any("3 blocks: 2³ paths" in text.get_text() for text in figure.texts)


@pytest.mark.slow
def test_draw_all_writes_png_svg_and_pdf(tmp_path, spectra, monkeypatch):
    small = figures.example_split(8, images=4, samples=2)
    monkeypatch.setattr(figures, "compute_spectra", lambda: spectra)
    monkeypatch.setattr(figures, "example_split", lambda: small)
    paths = figures.draw_all(tmp_path)
    names = [*(f"jacobian_{kind.__name__}" for kind in RESIDUAL), "singular_values", "path_lengths"]
    assert [path.name for path in paths] == [f"{n}.{e}" for n in names for e in FORMATS]
    for path in paths:
        if path.suffix == ".png":
            with Image.open(path) as image:
                assert image.width >= 1200
        elif path.suffix == ".svg":
            ET.parse(path)
        else:
            assert path.read_bytes().startswith(b"%PDF")
    at = names.index("singular_values") * len(FORMATS) + FORMATS.index("svg")
    assert to_bytes(figures.singular_values(spectra), "svg") == paths[at].read_bytes()


def test_narrow_figures_fit_a_phone(spectra):
    split, singles, name = figures.example_split(8, images=4, samples=1)
    for figure in (
        figures.heat_maps(jacobians(*example(BasicBlock)), narrow=True),
        figures.singular_values(spectra, narrow=True),
        figures.path_lengths(split, singles, name, narrow=True),
    ):
        assert figure.get_figwidth() < 5
        assert figure.get_figheight() > figure.get_figwidth() * 0.9
