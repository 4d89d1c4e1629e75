"""Layers and small networks with one state on both sides: training twice, then evaluation.

Compared are outputs, gradients of inputs and parameters, their second derivatives, and the state
afterwards, whose names are PyTorch's.
"""

from functools import cache

import numpy as np
import pytest
from parity.sides import (
    ALL,
    Ours,
    agree,
    both_refuse,
    close,
    derivatives,
    each,
    evaluate,
    lines,
    no_advice,
    only_ours_refuses,
    positive,
    refusals,
    results_of,
    run_in,
    theirs,
    whole,
)

IMAGES = {"x": (3, 4, 6, 5)}
ROWS = {"x": (6, 4)}

CASES = [
    *lines(
        """
        nn.Conv2d(4, 6, 3)
        nn.Conv2d(4, 6, 3, 2, 1)
        nn.Conv2d(4, 6, (2, 3), stride=(1, 2), padding=(1, 0))
        nn.Conv2d(4, 6, 3, padding=2, dilation=2, bias=False)
        nn.Conv2d(4, 6, 1, bias=False)
        nn.Conv2d(4, 6, 3, padding="same", groups=2)
        nn.Conv2d(4, 4, 3, padding="valid", groups=4)
        nn.Conv2d(4, 8, (2, 4), padding="same", dilation=(2, 1), groups=4)
        nn.ConvTranspose2d(4, 6, 3)
        nn.ConvTranspose2d(4, 6, 3, 2, 1, 1)
        nn.ConvTranspose2d(4, 6, (2, 3), stride=(2, 1), padding=(0, 1), bias=False)
        nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2, dilation=2)
        nn.BatchNorm2d(4)
        nn.BatchNorm2d(4, eps=0.1)
        nn.BatchNorm2d(4, momentum=0.3)
        nn.BatchNorm2d(4, momentum=0.0)
        nn.BatchNorm2d(4, momentum=None)  # the average of all batches
        nn.BatchNorm2d(4, affine=False)
        nn.BatchNorm2d(4, track_running_stats=False)
        nn.BatchNorm2d(4, affine=False, track_running_stats=False)
        nn.BatchNorm2d(4, 1e-3, None, True, False)
        nn.GroupNorm(2, 4)
        nn.GroupNorm(1, 4, eps=0.1)
        nn.GroupNorm(4, 4, affine=False)
        nn.LayerNorm(5)
        nn.LayerNorm((6, 5))
        nn.LayerNorm([4, 6, 5], eps=0.01)
        nn.LayerNorm(5, elementwise_affine=False)
        nn.LayerNorm(5, bias=False)
        nn.Linear(5, 3)
        nn.Linear(5, 3, bias=False)
        nn.MaxPool2d(2)
        nn.MaxPool2d(3, 2, 1)
        nn.MaxPool2d((2, 3), stride=(1, 2), dilation=(2, 1), ceil_mode=True)
        nn.AvgPool2d(2)
        nn.AvgPool2d(3, 2, 1, count_include_pad=False)
        nn.AvgPool2d((2, 3), stride=1, ceil_mode=True)
        nn.AdaptiveAvgPool2d(1)
        nn.AdaptiveAvgPool2d((1, 1))
        nn.AdaptiveAvgPool2d((2, 3))
        nn.AdaptiveAvgPool2d((None, 2))
        nn.ZeroPad2d(1)
        nn.ZeroPad2d((1, 0, 2, -1))
        nn.ReLU()
        nn.ReLU(inplace=True) <=> nn.ReLU()
        nn.LeakyReLU()
        nn.LeakyReLU(0.2)
        nn.GELU()
        nn.GELU(approximate="tanh")
        nn.SiLU()
        nn.Sigmoid()
        nn.Tanh()
        nn.Softmax(dim=1)
        nn.Softmax(-1)
        nn.LogSoftmax(dim=1)
        nn.Flatten()
        nn.Flatten(2)
        nn.Flatten(0, 1)
        nn.Identity()
        nn.Identity(54, unused=0.1)
        nn.Dropout(0.0)
        nn.Dropout(p=1.0)
        nn.Dropout2d(0.0)
        nn.Sequential()
        """,
        **IMAGES,
    ),
    *lines(
        """
        nn.Linear(4, 3)
        nn.Linear(4, 1, bias=False)
        nn.LayerNorm(4)
        nn.GroupNorm(2, 4)
        nn.Softmax(1)
        nn.LogSoftmax(1)
        nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(1))
        nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 2), nn.Tanh())
        """,
        **ROWS,
    ),
    *lines(
        """
        nn.Conv1d(4, 6, 3)
        nn.Conv1d(4, 6, 3, 2, 1, 2, 2, False)
        nn.Conv1d(4, 6, (2,), padding="same")
        nn.BatchNorm1d(4)
        nn.BatchNorm1d(4, 1e-3, None)
        nn.BatchNorm1d(4, affine=False, track_running_stats=False)
        nn.MaxPool1d(3, 2, 1)
        nn.AvgPool1d(2, ceil_mode=True)
        nn.AdaptiveAvgPool1d(3)
        nn.Sequential(nn.Conv1d(4, 5, 3), nn.BatchNorm1d(5), nn.ReLU(), nn.MaxPool1d(2))
        """,
        x=(3, 4, 9),
    ),
    *lines(
        """
        nn.BatchNorm1d(4)
        nn.SyncBatchNorm(4)
        nn.BatchNorm1d(4, momentum=0.3, track_running_stats=False)
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU())
        """,
        x=(5, 4),
    ),
    *lines(  # losses, of logits x and targets t
        """
        nn.CrossEntropyLoss()
        nn.CrossEntropyLoss(reduction="sum")
        nn.CrossEntropyLoss(reduction="none")
        nn.CrossEntropyLoss(ignore_index=2)
        nn.CrossEntropyLoss(label_smoothing=0.1)
        nn.CrossEntropyLoss(label_smoothing=0.3, ignore_index=0, reduction="sum")
        nn.NLLLoss()
        nn.NLLLoss(ignore_index=1, reduction="sum")
        nn.NLLLoss(reduction="none")
        """,
        **ROWS,
        t=whole(6, high=4),
    ),
    *lines(
        """
        nn.MSELoss()
        nn.MSELoss(reduction="sum")
        nn.MSELoss(reduction="none")
        nn.BCEWithLogitsLoss()
        nn.BCEWithLogitsLoss(reduction="sum")
        nn.BCEWithLogitsLoss(reduction="none")
        nn.BCEWithLogitsLoss(torch.ones(4), pos_weight=torch.ones(6, 1))
        """,
        **ROWS,
        t=positive(6, 4) / 2,
    ),
    *lines(  # small networks, whose passes over memory minires shares
        """
        nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), nn.BatchNorm2d(4))
        nn.Sequential(nn.Conv2d(4, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(inplace=True))
        nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1))
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 3, 2, 1), nn.BatchNorm2d(4))
        nn.Sequential(nn.BatchNorm2d(4), nn.BatchNorm2d(4, momentum=None), nn.ReLU())
        nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.SiLU(), nn.MaxPool2d(2))
        nn.Sequential(nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 6, 1), nn.BatchNorm2d(6))
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.Sequential(nn.BatchNorm2d(3), nn.ReLU()), nn.Flatten())
        nn.Sequential(nn.Conv2d(4, 3, 2, 2), nn.ReLU(), nn.ConvTranspose2d(3, 4, 2, 2))
        nn.Sequential(nn.Conv2d(4, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(6, 3))
        nn.ModuleDict({"a": nn.Conv2d(4, 2, 1), "b": nn.BatchNorm2d(2)})["a"]
        nn.ModuleDict({"a": nn.ReLU(), "b": nn.Conv2d(4, 2, 1)}).b
        nn.ModuleList([nn.Conv2d(4, 2, 1), nn.BatchNorm2d(2)])[0]
        """,
        **IMAGES,
    ),
    *lines(  # a residual block, written as its users write it
        """
        Basic(4, 4)
        Basic(4, 6, 2)
        Bottleneck(4, 2)
        Bottleneck(4, 2, 2)
        """,
        **IMAGES,
    ),
]

EVALUATED = [  # random in training
    *lines(
        """
        nn.Dropout()
        nn.Dropout(0.3)
        nn.Dropout2d(0.5)
        nn.Sequential(nn.Conv2d(4, 4, 1), nn.Dropout(0.9), nn.ReLU())
        """,
        **IMAGES,
    )
]

REPRESENTED = lines(
    """
    nn.Conv2d(2, 4, 3, 2, 1, 2, 2, False)
    nn.ConvTranspose2d(2, 4, 3, 2, 1)
    nn.ConvTranspose2d(2, 4, 3, 2, 1, 1, 2, False, 3)
    nn.Linear(3, 4)
    nn.Linear(3, 4, bias=False)
    nn.Conv1d(2, 4, 3, 2, 1, 2, 2, False)
    nn.MaxPool1d(2)
    nn.MaxPool1d((3,), 2, 1, ceil_mode=True)
    nn.AvgPool1d(2)
    nn.AdaptiveAvgPool1d((1,))
    nn.LazyLinear(3)
    nn.LazyConv2d(4, 3, 2, padding=1)
    nn.LazyConv1d(4, 3, groups=2, bias=False)
    nn.MaxPool2d(2)
    nn.MaxPool2d(3, 2, 1, ceil_mode=True)
    nn.AvgPool2d(2)
    nn.AdaptiveAvgPool2d(1)
    nn.AdaptiveAvgPool2d((1, 1))
    nn.ZeroPad2d(1)
    nn.Flatten()
    nn.Dropout(0.3, True)
    nn.ReLU()
    nn.ReLU(inplace=True)
    nn.LeakyReLU(0.2)
    nn.GELU()
    nn.SiLU()
    nn.Sigmoid()
    nn.Tanh()
    nn.Softmax(dim=1)
    nn.LogSoftmax(dim=1)
    nn.Identity()
    nn.Sequential(nn.Sequential(nn.ReLU()), nn.Identity())
    nn.Sequential()
    nn.ModuleList([nn.Linear(2, 3), nn.ReLU()])
    nn.ModuleDict({"a": nn.ReLU(), "b": nn.Sequential(nn.Linear(1, 2))})
    """
)

WRONG = [
    *lines(  # at construction
        """
        nn.Conv2d(4, 6)
        nn.Conv2d(4, 6, 3, groups=4)
        nn.Conv2d(4, 6, 3, groups=0)
        nn.Conv2d(5, 6, 3, groups=2)
        nn.Conv2d(4, 6, 3, padding="full")
        nn.Conv2d(4, 6, 3, padding="same", stride=2)
        nn.Conv2d(4, 6, 3, strides=2)
        nn.Conv2d(-4, 6, 3)
        nn.Conv2d(4.0, 6, 3)
        nn.Conv2d(4, "6", 3)
        nn.Conv2d(4, 6, None)
        nn.ConvTranspose2d(4, 6, 3, groups=4)
        nn.ConvTranspose2d(4)
        nn.Conv1d(4, 6, 3, padding="same", stride=2)
        nn.Conv1d(4, 6, 3, groups=4)
        nn.BatchNorm1d(-1)
        nn.LazyConv2d(4)
        nn.BatchNorm2d()
        nn.BatchNorm2d(-1)
        nn.BatchNorm2d("4")
        nn.GroupNorm(3, 4)
        nn.GroupNorm(4)
        nn.Linear(4)
        nn.Linear(-4, 3)
        nn.Linear(4, 3.5)
        nn.Linear("4", 3)
        nn.MaxPool2d()
        nn.AvgPool2d()
        nn.AdaptiveAvgPool2d()
        nn.Dropout(-0.1)
        nn.Dropout(1.5)
        nn.Dropout2d(2.0)
        nn.Sequential(3)
        nn.Sequential(nn.ReLU)
        nn.ModuleList([3])
        nn.ModuleDict({"a": 3})
        nn.ModuleDict({"a.b": nn.ReLU()})
        nn.ModuleDict({"": nn.ReLU()})
        nn.Sequential(nn.ReLU())[3]
        nn.ModuleList([nn.ReLU()])[1]
        nn.ModuleDict({})["a"]
        """
    ),
    *lines(  # at the call
        """
        nn.Conv2d(3, 6, 3)(x.float())
        nn.Conv2d(4, 6, 9)(x.float())
        nn.Conv2d(4, 6, 3)(x)  # float64 into a float32 layer
        nn.Conv2d(4, 6, 3)()
        nn.Conv2d(4, 6, 3)(x.float(), x.float())
        nn.Conv2d(4, 6, 3)(x.float()[0, 0])
        nn.Conv2d(4, 6, 3)([1.0])
        nn.ConvTranspose2d(3, 6, 3)(x.float())
        nn.ConvTranspose2d(4, 6, 3, output_padding=1)(x.float())
        nn.BatchNorm2d(3)(x.float())
        nn.BatchNorm2d(4)(x.float()[0])
        nn.BatchNorm2d(4)(x.float()[:1, :, :1, :1])
        nn.BatchNorm2d(4)(r.float())
        nn.GroupNorm(2, 6)(x.float())
        nn.GroupNorm(2, 4)(x)
        nn.LayerNorm(4)(x.float())
        nn.LayerNorm((5, 6))(x.float())
        nn.Linear(4, 3)(x.float())
        nn.Linear(4, 3)(r)
        nn.MaxPool2d(9)(x)
        nn.MaxPool2d(2, padding=2)(x)
        nn.AvgPool2d(0)(x)
        nn.Softmax(7)(x)
        nn.Flatten(3, 1)(x)
        nn.ModuleList([nn.ReLU()])(x)
        nn.ModuleDict({"a": nn.ReLU()})(x)
        nn.Module()(x)
        nn.CrossEntropyLoss()(r)
        nn.CrossEntropyLoss(reduction="average")(r, r)
        nn.CrossEntropyLoss(label_smoothing=2.0)(r, r)
        nn.MSELoss()(r)
        nn.MSELoss(reduction="average")(r, r)
        nn.BCEWithLogitsLoss()(r, r[:1])
        nn.BCEWithLogitsLoss(reduction="average")(r, r)
        nn.Conv2d(4, 6, 3).load_state_dict({})
        nn.Linear(4, 3).load_state_dict({"weight": r})
        nn.Linear(4, 3).load_state_dict({"weight": r, "bias": r[0, :3]})
        nn.Linear(4, 3).load_state_dict(3)
        m = nn.Linear(4, 3); m.weight = r; m
        m = nn.Module(); m.register_buffer("a.b", r); m
        m = nn.Module(); m.register_parameter("a", 3); m
        m = nn.Module(); m.add_module("a", 3); m
        """,
        **IMAGES,
        r=(6, 4),
    ),
]

# Sizes that could only be a mistake are refused when a layer is made, not when it is called.
DIFFERENT = refusals(
    {
        "nn.Conv2d(0, 6, 3)": "Conv2d: expected in_channels an integer >= 1, got 0",
        "nn.Conv2d(4, 6, 0)": "kernel_size an integer >= 1",
        "nn.Conv2d(4, 6, 3, stride=1.5)": "stride an integer >= 1",
        "nn.Conv2d(4, 6, 3, dilation=0)": "dilation an integer >= 1",
        "nn.BatchNorm2d(0)": "num_features an integer >= 1",
        "nn.BatchNorm2d(4, eps=0.0)": "eps a finite number > 0",
        "nn.BatchNorm2d(4, momentum=-0.1)": "momentum a finite number >= 0 and <= 1",
        "nn.GroupNorm(0, 4) <=> 0": "num_groups an integer >= 1",
        "nn.LayerNorm(4, eps=0.0)": "eps a finite number > 0",
        "nn.MaxPool2d(0)": "kernel_size an integer >= 1",
        "nn.MaxPool2d(2, padding=-1)": "padding an integer >= 0",
        "nn.AvgPool2d(1.5)": "kernel_size an integer >= 1",
        "nn.AdaptiveAvgPool2d(0)": "output_size an integer >= 1",
        "nn.GELU('sigmoid')": "unknown approximate 'sigmoid'. Known: none, tanh",
        "nn.CrossEntropyLoss(reduction='average')": "unknown reduction 'average'",
        "nn.MSELoss(reduction='average')": "unknown reduction 'average'",
    }
)


def blocks(nn):
    """The two blocks of residual networks, for either side."""

    def norm(c_in, c_out, k, stride=1):
        conv = nn.Conv2d(c_in, c_out, k, stride, k // 2, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(c_out))

    class Block(nn.Module):
        def __init__(self, c_in, c_out, stride, *branch):
            super().__init__()
            self.branch = nn.Sequential(*branch)
            self.relu = nn.ReLU(inplace=True)
            changes = stride != 1 or c_in != c_out
            self.downsample = norm(c_in, c_out, 1, stride) if changes else None

        def forward(self, x):
            identity = x if self.downsample is None else self.downsample(x)
            out = self.branch(x)
            out += identity
            return self.relu(out)

    def basic(c_in, c, stride=1):
        return Block(c_in, c, stride, norm(c_in, c, 3, stride), nn.ReLU(True), norm(c, c, 3))

    def bottleneck(c_in, c, stride=1):
        first, second = norm(c_in, c, 1), norm(c, c, 3, stride)
        branch = first, nn.ReLU(True), second, nn.ReLU(True), norm(c, 4 * c, 1)
        return Block(c_in, 4 * c, stride, *branch)

    return {"Basic": basic, "Bottleneck": bottleneck}


def history(side, case, line, modes):
    """Outcomes of a layer in these modes, one after the other, and its state in the end."""
    net = evaluate(line, {**side.names, **blocks(side.names["nn"])})
    net = net.float() if side.dtype == "float32" else net.double()
    draws, state = np.random.default_rng(0), {}
    for name, value in net.state_dict().items():
        array = side.array(value)
        if array.dtype.kind == "f":
            array = draws.uniform(0.5, 1.5, array.shape).astype("float32").astype(side.dtype)
            if "weight" in name and array.ndim > 1:
                array -= 1
        state[name] = side.constant(array)
    net.load_state_dict(state, strict=True)
    inputs = {name: side.tensor(array) for name, array in case.inputs.items()}
    leaves = [value for value in inputs.values() if value.requires_grad]
    outcomes = []
    for mode in modes:
        net.train(mode == "train")
        results = results_of(net(*inputs.values()))
        outcomes.append(derivatives(side, results, [*leaves, *net.parameters()]))
    final = {name: side.array(value) for name, value in net.state_dict().items()}
    names = [name for name, _ in net.named_parameters()], [name for name, _ in net.named_modules()]
    return outcomes, final, names


@cache
def expected(case, *modes):
    with no_advice():
        return history(theirs(), case, case.theirs, modes)


def compare_layers(case, ways, *modes):
    outcomes, state, names = expected(case, *modes)
    for way in ways:
        with run_in(way):
            ours, our_state, our_names = history(Ours(way.dtype), case, case.line, modes)
            for mine, other in zip(ours, outcomes, strict=True):
                agree(mine, other, way.dtype)
            assert list(our_state) == list(state)
            for name, value in state.items():
                close(our_state[name], value, way.dtype, name)
            assert our_names == names


@pytest.mark.slow
@each(CASES, ALL)
@pytest.mark.filterwarnings("ignore:cross_entropy expects logits")
def test_layers(case, ways):
    compare_layers(case, ways, "train", "train", "eval")


@each(EVALUATED, ALL)
def test_in_evaluation(case, ways):
    compare_layers(case, ways, "eval")


@each(REPRESENTED)
def test_representation(case):
    ours = evaluate(case.line, Ours("float64").names)
    assert repr(ours) == repr(evaluate(case.theirs, theirs().names))


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)
