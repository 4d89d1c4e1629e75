"""The same layers in PyTorch, where it is installed: outputs, gradients and states."""

import numpy as np
import pytest

import minires as mr
from minires import nn


def compare(ours, theirs, shape, steps=1):
    """Load our state into their layer; run both, forward and backward; compare all there is."""
    torch = pytest.importorskip("torch")
    ours.double()
    theirs.double()
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    rng = np.random.default_rng(0)
    for _ in range(steps):
        a = rng.standard_normal(shape)
        x, t = mr.tensor(a), torch.tensor(a, requires_grad=True)
        x.requires_grad = True
        ours.zero_grad()
        theirs.zero_grad()
        y, u = ours(x), theirs(t)
        g = rng.standard_normal(tuple(u.shape))
        y.backward(mr.tensor(g))
        u.backward(torch.tensor(g))
        np.testing.assert_allclose(y.detach().numpy(), u.detach().numpy(), rtol=1e-9, atol=1e-11)
        np.testing.assert_allclose(x.grad.numpy(), t.grad.numpy(), rtol=1e-8, atol=1e-10)
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(
            p.grad.numpy(), q.grad.numpy(), rtol=1e-8, atol=1e-10, err_msg=name
        )
    state = theirs.state_dict()
    assert list(state) == list(ours.state_dict())
    for name, value in ours.state_dict().items():
        np.testing.assert_allclose(value.numpy(), state[name].numpy(), rtol=1e-9, err_msg=name)


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ((4, 6, 3), {"padding": 1, "stride": 2}),
        ((4, 6, (2, 4)), {"padding": "same", "groups": 2}),
        ((4, 6, (4, 3)), {"padding": "same", "dilation": (1, 2), "bias": False}),
        ((4, 2, 1), {"padding": "valid"}),
    ],
)
@pytest.mark.filterwarnings("ignore:Using padding='same':UserWarning")  # of torch's own
def test_parity_conv2d(arguments, options):
    torch = pytest.importorskip("torch")
    with mr.backend("numpy"):
        compare(
            nn.Conv2d(*arguments, **options), torch.nn.Conv2d(*arguments, **options), (2, 4, 7, 9)
        )


@pytest.mark.parametrize(
    "options", [{}, {"momentum": None}, {"momentum": 0.3, "eps": 0.01}, {"affine": False}]
)
def test_parity_batch_norm(options):
    torch = pytest.importorskip("torch")
    ours, theirs = nn.BatchNorm2d(3, **options), torch.nn.BatchNorm2d(3, **options)
    with mr.backend("numpy"):
        compare(ours, theirs, (4, 3, 5, 2), steps=3)
        compare(ours.eval(), theirs.eval(), (4, 3, 5, 2))


def test_parity_linear():
    torch = pytest.importorskip("torch")
    compare(nn.Linear(5, 3), torch.nn.Linear(5, 3), (4, 5))


def test_parity_repr():
    torch = pytest.importorskip("torch")
    for ours, theirs in (
        (nn.Conv2d(2, 4, 3, 2, 1, 2, 2, False), torch.nn.Conv2d(2, 4, 3, 2, 1, 2, 2, False)),
        (nn.Linear(3, 4), torch.nn.Linear(3, 4)),
        (nn.MaxPool2d(2), torch.nn.MaxPool2d(2)),
        (nn.AvgPool2d(2), torch.nn.AvgPool2d(2)),
        (nn.AdaptiveAvgPool2d(1), torch.nn.AdaptiveAvgPool2d(1)),
        (nn.Flatten(), torch.nn.Flatten()),
        (
            nn.Sequential(nn.Sequential(nn.ReLU()), nn.Identity()),
            torch.nn.Sequential(torch.nn.Sequential(torch.nn.ReLU()), torch.nn.Identity()),
        ),
    ):
        assert repr(ours) == repr(theirs)
