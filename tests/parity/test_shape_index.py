"""Views, joins and cuts, padding, and reading by every kind of index."""

import pytest
from parity.sides import (
    BOTH,
    both_refuse,
    compare,
    each,
    lines,
    mask,
    only_ours_refuses,
    refusals,
    whole,
)

CASES = [
    *lines(
        """
        x.reshape(24)
        x.reshape(6, 4)
        x.reshape((4, 3, 2))
        x.reshape(-1)
        x.reshape(2, -1)
        x.reshape(2, -1, 2)
        x.reshape([-1, 8])
        x.reshape(1, 24, 1)
        x.reshape(x.shape)
        x.view(6, 4)
        x.view(-1)
        x.view((2, 12))
        x.view(x.size(0), -1)
        torch.reshape(x, (3, 8))
        torch.reshape(x, (-1,))
        x.transpose(0, 1)
        x.transpose(1, 2)
        x.transpose(-1, 0)
        x.transpose(1, 1)
        torch.transpose(x, 0, 2)
        x.transpose(0, 2).reshape(6, 4)
        x.transpose(0, 1).contiguous().view(-1)
        x.permute(2, 0, 1)
        x.permute(0, 2, 1)
        x.permute((1, 0, 2))
        x.permute(-1, 0, -2)
        x.permute(0, 1, 2)
        torch.permute(x, (2, 1, 0))
        x.permute(1, 2, 0).reshape(-1, 3)
        x[0].T
        x[:, 0].T.T
        x.flatten()
        x.flatten(1)
        x.flatten(0, 1)
        x.flatten(1, 2)
        x.flatten(-2)
        x.flatten(start_dim=0, end_dim=-2)
        torch.flatten(x)
        torch.flatten(x, 1)
        torch.flatten(x, 0, 1)
        x.transpose(0, 2).flatten(1)
        x[0, 0, 0].flatten()
        x[:0].flatten(1)
        x.unsqueeze(0)
        x.unsqueeze(1)
        x.unsqueeze(3)
        x.unsqueeze(-1)
        x.unsqueeze(-4)
        torch.unsqueeze(x, 2)
        x.unsqueeze(0).squeeze()
        x.unsqueeze(0).squeeze(0)
        x.unsqueeze(2).squeeze(2)
        x.unsqueeze(2).squeeze(-2)
        x.unsqueeze(0).unsqueeze(-1).squeeze((0, -1))
        x.squeeze(0)
        x.squeeze()
        x[:1, :, :1].squeeze()
        torch.squeeze(x[:1])
        torch.squeeze(x[:1], 0)
        x[0, 0, 0].squeeze()
        x[0, 0, 0].unsqueeze(0)
        x[:1].expand(5, 3, 4)
        x[:1].expand(5, -1, -1)
        x.expand(2, 3, 4)
        x.expand(6, 2, 3, 4)
        x.expand(1, 2, -1, -1, 4)
        x[:, :1, :1].expand(-1, 3, 4)
        x[:, :1, :1].expand((2, 5, 1))
        x[0, 0, 0].expand(3, 2)
        x[:, :1].expand(2, 3, 4) * x
        torch.broadcast_to(x[:1], (3, 3, 4))
        x[:, None].expand(-1, 2, -1, -1).reshape(4, 3, 4)
        x.contiguous()
        x.transpose(0, 1).contiguous()
        x.clone()
        x.transpose(0, 1).clone()
        """,
        x=(2, 3, 4),
    ),
    *lines(
        """
        torch.cat([x, y])
        torch.cat((x, y), 0)
        torch.cat([x, x, x], dim=1)
        torch.cat([x, y.transpose(0, 1)[:2, :2]], 1)
        torch.cat(y[None]) <=> torch.cat(list(y[None]))
        torch.cat([x], -1)
        torch.cat([x, x * 2], -1)
        torch.cat([x[:0], y])
        torch.cat([x, y.detach()])
        torch.cat([x.detach(), y])
        torch.cat([x, y]) * torch.cat([y, x])
        torch.concatenate([x, y])
        torch.concatenate([x, x], 1)
        torch.cat([x[0], y[0], x[1]])
        torch.cat([i, j])
        torch.cat([i > 2, j > 2])
        torch.cat([x[:, :1], x[:, 2:]], 1).relu()
        torch.stack([x, x])
        torch.stack((x, x * x), 0)
        torch.stack([x, -x], 1)
        torch.stack([x, x.exp(), x], dim=-1)
        torch.stack([x, x], -3)
        torch.stack([x])
        torch.stack([x[0], y[1]])
        torch.stack([x[0, 0], y[1, 1]])
        torch.stack([i, i], 1)
        torch.stack(list(x))
        torch.stack([row * k for k, row in enumerate(y)])
        x.split(1)
        y.split(2)
        y.split(2, 0)
        y.split(5)
        y.split(2, 1)
        y.split([1, 3], 0)
        y.split((2, 0, 2))
        y.split([1, 2], dim=-1)
        torch.split(y, 3)
        torch.split(y, [1, 2], 1)
        y.split(1, 1)[2] * y.split(1, 1)[0]
        y.chunk(2)
        y.chunk(3)
        y.chunk(4, 0)
        y.chunk(9)
        y.chunk(2, 1)
        y.chunk(2, dim=-1)
        torch.chunk(y, 2)
        torch.chunk(y, 3, 1)
        torch.cat(y.split(1), 1)
        torch.cat(y.chunk(2, 1)[::-1], 1)
        """,
        x=(2, 3),
        y=(4, 3),
        i=whole(2, 3),
        j=whole(4, 3),
    ),
    *lines(
        """
        F.pad(x, (1, 2))
        F.pad(x, (0, 1, 2, 0))
        F.pad(x, (1, 1, 1, 1))
        F.pad(x, (0, 0, 0, 0, 1, 2))
        F.pad(x, (1, 0, 2, 0, 3, 0))
        F.pad(x, (0, 0))
        F.pad(x, ())
        F.pad(x, [2, 1])
        F.pad(x, (-1, 0))
        F.pad(x, (-1, -1))
        F.pad(x, (-1, 2))
        F.pad(x, (1, -2, -1, 1))
        F.pad(x, (-2, -2))  # nothing is left
        F.pad(x, (1, 1), value=2.5)
        F.pad(x, (0, 2, 1, 0), value=-1.0)
        F.pad(x, (1, 2)) * 2
        F.pad(x.transpose(0, 2), (1, 0, 0, 1))
        F.pad(F.pad(x, (1, 1)), (-1, -1))
        F.pad(x[:0], (1, 1, 0, 0, 2, 0))
        F.pad(i, (1, 1))
        F.pad(i, (1, 1), value=7)
        F.pad(x, (0, 0, 0, 0, 0, 2))[..., ::2]  # the shortcut of the CIFAR networks
        """,
        x=(2, 3, 4),
        i=whole(2, 3),
    ),
    *lines(  # integers, slices, None, Ellipsis
        """
        x[0]
        x[-1]
        x[1, 2]
        x[0, -1, 3]
        x[1][2][3]
        x[:]
        x[1:]
        x[:-1]
        x[0:1]
        x[:, 1]
        x[:, 1:3]
        x[:, ::2]
        x[:, 1::2, 3]
        x[..., 0]
        x[..., -1:]
        x[..., 1:3, ::3]
        x[...]
        x[0, ...]
        x[0, ..., 1]
        x[..., None]
        x[None]
        x[:, None]
        x[:, None, :, None]
        x[None, ..., None]
        x[1, None, 2]
        x[:, :, None, 1]
        x[2:]  # empty
        x[1:1]
        x[5:9]
        x[:, -2:]
        x[:, -9:2]
        x[:, 1:100:2]
        x[(0, 1)]
        x[slice(0, 2), slice(None, None, 2)]
        x[()]
        x[0, 0, 0]
        x[::2, ::2, ::2]
        x[1:, 1:, 1:][0, 0, 0]
        x[0][None].expand(3, -1, -1)
        x[:, [0]][:, 0]
        x[:, ::-1] <=> x.flip(1)  # PyTorch has no negative steps
        x[::-1, :, ::-1] <=> x.flip(0, 2)
        x[..., ::-2] <=> x.flip(-1)[..., ::2]
        x[:, 2:0:-1] <=> x[:, 1:3].flip(1)
        x[0] * x[1]
        x[:, :1] * x[:, 1:]
        x[..., 0] + x[..., 1] * x[..., 2]
        (x[0] * x[0, 0]).sum(0)[1:]
        x[0, 1].sum() * x[1, 0].sum()
        [row for row in x]
        [a * b for a, b in zip(x[0], x[1])]
        """,
        x=(2, 3, 4),
    ),
    *lines(  # arrays of integers, lists, masks: copies
        """
        x[i]
        x[[0, 2, 0]]
        x[[2]]
        x[[-1, 0]]
        x[[]]
        x[i, 1]
        x[:, [1, 1, 2]]
        x[:, k]
        x[..., [3, 0]]
        x[[0, 1], [2, 3]]
        x[[0, 1], [1, 2], [3, 0]]
        x[[0], [1, 2]]
        x[[0, 1], :, [1, 2]]
        x[:, [0, 1], [1, 2]]
        x[0, :, [1, 2]]
        x[[1, 0], 1:]
        x[[1, 0], ..., 0]
        x[[1, 0], None]
        x[None, [1, 0]]
        x[:, None, [0, 2]]
        x[i[:, None], k]
        x[i, :, k[:3]]
        x[k[:2, None], k[None, :2]]
        x[i][:, k]
        x[i] * x[i[:1]]
        x[torch.tensor([0, 2])]
        x[torch.arange(2)]
        x[torch.tensor(1)]
        x[x > 0]
        x[x > 100]
        x[m]
        x[m, 1]
        x[m, :, 0]
        x[m][:, 1:]
        x[:, n]
        x[..., n]
        x[m, :, :2]
        x[m, [1, 1]]
        x[[True, False, True]]
        x[x[:, 0, 0] > 0]
        x[x[:, :, 0] > 0]
        x[0][x[0] > 0] ** 2
        x[(x > 0) & (x < 1)]
        x[~m]
        x[torch.arange(3), i]
        x.reshape(3, 16)[torch.arange(3), k[:3]]
        x.log_softmax(1)[torch.arange(3), i, 0]
        x[i].sum(0)
        x[x.argmax(0)[0, 0]]
        x[[[0, 1], [1, 2]]] <=> x[torch.tensor([[0, 1], [1, 2]])]
        k[i]
        k[k > 1]
        m[i]
        k[k.argmax()]
        """,
        x=(3, 4, 4),
        i=whole(3, high=3),
        k=whole(5, high=3),
        m=mask(3),
        n=mask(4),
    ),
]

WRONG = [
    *lines(
        """
        x.reshape(5)
        x.reshape(5, -1)
        x.reshape(-1, -1)
        x.reshape(-2, 12)
        x.reshape(2.0, 12)
        x.reshape("24")
        x.reshape(2, 3, 4, 5)
        x[:0].reshape(0, -1)
        x.view(7)
        x.view(-1, -1)
        x.transpose(0, 3)
        x.transpose(-4, 0)
        x.transpose(0)
        x.transpose(0.0, 1)
        x.permute(0, 1)
        x.permute(0, 1, 1)
        x.permute(0, 1, 3)
        x.permute(0, 1, 2, 3)
        x.permute("012")
        x.flatten(2, 1)
        x.flatten(3)
        x.flatten(0, 5)
        x.flatten("a")
        x.squeeze(3)
        x.squeeze((0, 0))
        x.squeeze("a")
        x.unsqueeze(4)
        x.unsqueeze(-5)
        x.unsqueeze()
        x.unsqueeze(0.5)
        x.expand(3, 3, 4)
        x.expand(2, 3)
        x.expand(-1, 2, 3, 4)
        x.expand(2, 3, -4)
        x.expand(2, 3, 4.0)
        torch.broadcast_to(x, (2, 3))
        torch.broadcast_to(x, (2, 3, 5))
        torch.reshape(x, (5, 5))
        torch.flatten(x, 9)
        torch.flatten([1.0])
        torch.squeeze(1.0)
        torch.transpose(x, 0, 9)
        torch.permute(x, (0, 0, 1))
        """,
        x=(2, 3, 4),
    ),
    *lines(
        """
        torch.cat([])
        torch.cat([x, 1])
        torch.cat([x, None])
        torch.cat([x, y])
        torch.cat([x, y], 1)
        torch.cat([x, x], 2)
        torch.cat([x, x], -3)
        torch.cat([x, x[0]])
        torch.cat([x[0, 0], x[0, 1]])
        torch.cat([x, x], "0")
        torch.stack([])
        torch.stack([x, y])
        torch.stack([x, x[:1]])
        torch.stack([x, x], 3)
        torch.stack([x, x], -4)
        torch.stack([x, 2.0])
        x.split(0)
        x.split(-1)
        x.split([1, 2])
        x.split([3, -1])
        x.split(1, 2)
        x.split(1.5)
        x.split("1")
        x.split()
        x.chunk(0)
        x.chunk(-2)
        x.chunk(2, 2)
        x.chunk(1.5)
        F.pad(x, (1,))
        F.pad(x, (1, 2, 3))
        F.pad(x, (1, 1, 1, 1, 1, 1))
        F.pad(x, (-4, 0))
        F.pad(x, (-2, -2))
        F.pad(x, 1)
        F.pad(x, (0.5, 1))
        F.pad(x, "11")
        F.pad(x, (1, 1), value="0")
        F.pad(None, (1, 1))
        """,
        x=(2, 3),
        y=(4, 5),
    ),
    *lines(
        """
        x[2]
        x[-3]
        x[0, 3]
        x[0, 0, 0, 0]
        x[..., 0, 0, 0, 0]
        x[:, 9]
        x["a"]
        x[0.5]
        x[1.0:]
        x[::0]
        x[0, "b"]
        x[x]
        x[object()]
        x[{}]
        x[[0, 5]]
        x[[-3]]
        x[[0, 1], [0, 1, 2]]
        x[[0, 1], [0, 9]]
        x[torch.tensor(5)]
        x[x > 0, 0]
        x[m]
        x[:, m]
        x[[True, False, True]]
        x[x[0] > 0]
        x[i > 2]
        x[torch.tensor([0.5])]
        x[0][5]
        x[0, 0, 0][0]
        """,
        x=(2, 3, 4),
        m=mask(5),
        i=whole(3),
    ),
]

# No mixed dtypes; PyTorch rounds indices in lists and takes a second Ellipsis for a full slice.
DIFFERENT = refusals(
    {
        "torch.cat([x, x.float()])": "concatenate: expected one dtype",
        "torch.cat([x, i])": "concatenate: expected one dtype",
        "torch.stack([x, x.float()])": "stack: expected one dtype",
        "x[[0.5]]": "index: expected integers, slices or bools, got float64",
        "x[..., ...]": "index: an index can only have a single ellipsis",
    },
    x=(2, 3),
    i=whole(2, 3),
)


@pytest.mark.slow
@each(CASES, BOTH)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)
