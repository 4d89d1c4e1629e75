"""Convolution and the fully connected layer's product."""

import pytest
from parity.sides import (
    ALL,
    BOTH,
    both_refuse,
    compare,
    each,
    lines,
    whole,
)

CASES = [
    *lines(
        """
        F.conv2d(x, w)
        F.conv2d(x, w, b)
        F.conv2d(x, w, None, 2)
        F.conv2d(x, w, b, 2)
        F.conv2d(x, w, b, 1, 1)
        F.conv2d(x, w, b, 2, 1, 2, 1)
        F.conv2d(input=x, weight=w, bias=b, stride=2, padding=1, dilation=1, groups=1)
        F.conv2d(x, w, b, stride=(1, 2))
        F.conv2d(x, w, b, stride=[2, 1])
        F.conv2d(x, w, b, stride=(3, 1))
        F.conv2d(x, w, b, stride=5)  # wider than the kernel
        F.conv2d(x, w, stride=100)  # one position
        F.conv2d(x, w, padding=1)
        F.conv2d(x, w, b, padding=(0, 2))
        F.conv2d(x, w, b, padding=4)  # wider than the kernel
        F.conv2d(x, w, stride=2, padding=1)
        F.conv2d(x, w, stride=4, padding=3)
        F.conv2d(x, w, b, stride=(2, 3), padding=(2, 1))
        F.conv2d(x, w, b, dilation=2)
        F.conv2d(x, w, b, dilation=(3, 1))
        F.conv2d(x, w, dilation=(1, 3), padding=(0, 1))
        F.conv2d(x, w, b, stride=2, padding=2, dilation=2)
        F.conv2d(x, w, b, stride=(1, 3), padding=(3, 2), dilation=(3, 2))
        F.conv2d(x, w, b, padding="valid")
        F.conv2d(x, w, b, padding="valid", stride=2)
        F.conv2d(x, w, b, padding="same")
        F.conv2d(x, w, b, padding="same", dilation=(1, 2))
        """,
        x=(2, 3, 7, 8),
        w=(4, 3, 3, 3),
        b=(4,),
    ),
    *lines(  # the kernel's form
        """
        F.conv2d(x, w11)
        F.conv2d(x, w11, stride=2)
        F.conv2d(x, w11, stride=3, padding=1)
        F.conv2d(x, w11, padding=(2, 0))
        F.conv2d(x, w11, dilation=4)
        F.conv2d(x, w13)
        F.conv2d(x, w13, padding=(0, 1))
        F.conv2d(x, w13, padding="same")
        F.conv2d(x, w31, stride=(2, 1))
        F.conv2d(x, w24)
        F.conv2d(x, w24, padding=(1, 2))
        F.conv2d(x, w24, padding="same")  # the odd row and column come last
        F.conv2d(x, w24, padding="same", dilation=(3, 1))
        F.conv2d(x, w24, stride=(2, 3), dilation=(2, 1), padding=1)
        F.conv2d(x, w55, padding=2)
        F.conv2d(x, w55, padding=2, stride=2)
        F.conv2d(x, w65)  # as large as the image
        F.conv2d(x, w77, padding=3, stride=2)  # the stem of an ImageNet network
        F.conv2d(x, w77, padding=(1, 2))
        """,
        x=(2, 2, 6, 5),
        w11=(5, 2, 1, 1),
        w13=(3, 2, 1, 3),
        w31=(3, 2, 3, 1),
        w24=(3, 2, 2, 4),
        w55=(2, 2, 5, 5),
        w65=(2, 2, 6, 5),
        w77=(4, 2, 7, 7),
    ),
    *lines(  # groups
        """
        F.conv2d(x, w2, b, groups=2)
        F.conv2d(x, w2, b, padding=1, groups=2)
        F.conv2d(x, w2, b, stride=2, padding=1, groups=2)
        F.conv2d(x, w2, b, padding=2, dilation=2, groups=2)
        F.conv2d(x, w3, groups=3)
        F.conv2d(x, w3, padding=(1, 0), groups=3)
        F.conv2d(x, w3, stride=(2, 1), groups=3)
        F.conv2d(x, w6, groups=6)  # depthwise
        F.conv2d(x, w6, padding=1, groups=6)
        F.conv2d(x, w6, stride=2, padding=1, groups=6)
        F.conv2d(x, w6, padding=2, dilation=2, groups=6)
        F.conv2d(x, w6, padding="same", groups=6)
        F.conv2d(x, w18, groups=6)  # depthwise, three outputs of each channel
        F.conv2d(x, w18, stride=2, padding=1, groups=6)
        F.conv2d(x, w11, groups=2)
        F.conv2d(x, w11, stride=2, groups=2)
        """,
        x=(2, 6, 5, 4),
        w2=(4, 3, 3, 3),
        b=(4,),
        w3=(3, 2, 3, 2),
        w6=(6, 1, 3, 3),
        w18=(18, 1, 3, 3),
        w11=(8, 3, 1, 1),
    ),
    *lines(  # sizes at the edge of what there is
        """
        F.conv2d(one, w)
        F.conv2d(one, w, padding=1)
        F.conv2d(pixel, w33, padding=1)
        F.conv2d(pixel, w33, padding=1, stride=2)
        F.conv2d(row, w13)
        F.conv2d(row, w33, padding=(1, 0))
        F.conv2d(column, w, stride=(3, 1))
        F.conv2d(none, w)  # an empty batch
        """,
        one=(1, 1, 1, 1),
        pixel=(3, 1, 1, 1),
        row=(2, 1, 1, 9),
        column=(2, 1, 9, 1),
        none=(0, 1, 3, 4),
        w=(1, 1, 1, 1),
        w33=(2, 1, 3, 3),
        w13=(2, 1, 1, 3),
    ),
    *lines(  # just below, at and just above the tiles of the kernels
        """
        F.conv2d(x, w7, padding=1)
        F.conv2d(x, w8, padding=1)
        F.conv2d(x, w9, padding=1)
        F.conv2d(x, w16, padding=1, stride=2)
        F.conv2d(x, w17, padding=1)
        F.conv2d(x, w33, padding=1)
        F.conv2d(x, v17)
        F.conv2d(x, v33, stride=2)
        """,
        x=(1, 9, 9, 7),
        w7=(7, 9, 3, 3),
        w8=(8, 9, 3, 3),
        w9=(9, 9, 3, 3),
        w16=(16, 9, 3, 3),
        w17=(17, 9, 3, 3),
        w33=(33, 9, 3, 3),
        v17=(17, 9, 1, 1),
        v33=(33, 9, 1, 1),
    ),
    *lines(  # memory in another order, strides, expanded and shared inputs
        """
        F.conv2d(x.transpose(2, 3), w)
        F.conv2d(x.permute(0, 3, 1, 2), v)
        F.conv2d(x.permute(0, 3, 1, 2), v, padding=1, stride=2)
        F.conv2d(x[:, :, ::2], w)
        F.conv2d(x[:, :, 1:, :-1], w)
        F.conv2d(x[::2, 1:2].expand(-1, 3, -1, -1), w)
        F.conv2d(x[:1].expand(4, -1, -1, -1), w, padding=1)
        F.conv2d(x, w.transpose(2, 3))
        F.conv2d(x, w[:, :, ::2, ::2])
        F.conv2d(x, w[::2])
        F.conv2d(x, w[..., ::-1]) <=> F.conv2d(x, w.flip(-1))  # PyTorch has no negative steps
        F.conv2d(x, w, x[0, 0, 0, :4])
        F.conv2d(x, x[:, :, :3, :3])
        """,
        x=(2, 3, 5, 6),
        w=(4, 3, 3, 3),
        v=(4, 6, 2, 3),
    ),
    *lines(  # chains, whose passes over memory minires shares
        """
        F.conv2d(x, w, padding=1).relu()
        F.conv2d(x, w, padding=1) + x
        (F.conv2d(x, w, padding=1) + x).relu()
        F.conv2d(F.conv2d(x, w, padding=1).relu(), w, padding=1)
        F.conv2d(F.conv2d(x, w, padding=1), w, padding=1) + x
        y = F.conv2d(x, w, padding=1); y + y
        y = F.conv2d(x, w, padding=1); y * y.relu()
        y = F.conv2d(x, w, padding=1); y += x; F.relu(y)
        y = F.conv2d(x, w, padding=1); y[:, 1:].mul_(2); y.relu()
        F.batch_norm(F.conv2d(x, w), None, None, g, b, training=True)
        F.batch_norm(F.conv2d(x, w), None, None, g, b, training=True).relu()
        F.batch_norm(F.conv2d(x, w, padding=1), None, None, g, b, training=True) + x
        (F.batch_norm(F.conv2d(x, w, padding=1), None, None, g, b, training=True) + x).relu()
        F.conv2d(F.batch_norm(x, None, None, g, b, training=True).relu(), w)
        y = F.batch_norm(F.conv2d(x, w, b), None, None, g, b, training=True); y * y
        F.conv2d(x, w).mean((2, 3))
        F.conv2d(x, w, stride=2).flatten(1)
        """,
        x=(2, 3, 5, 4),
        w=(3, 3, 3, 3),
        g=(3,),
        b=(3,),
    ),
    *lines(  # transposed
        """
        F.conv_transpose2d(x, w)
        F.conv_transpose2d(x, w, b)
        F.conv_transpose2d(x, w, b, 2)
        F.conv_transpose2d(x, w, b, stride=(2, 3))
        F.conv_transpose2d(x, w, padding=1)
        F.conv_transpose2d(x, w, b, padding=(2, 1))
        F.conv_transpose2d(x, w, b, 2, 1)
        F.conv_transpose2d(x, w, b, 2, 1, 1)
        F.conv_transpose2d(x, w, b, stride=3, output_padding=2)
        F.conv_transpose2d(x, w, b, stride=(3, 2), padding=1, output_padding=(2, 0))
        F.conv_transpose2d(x, w, b, dilation=2)
        F.conv_transpose2d(x, w, stride=2, padding=2, dilation=2)
        F.conv_transpose2d(x, w, b, dilation=3, output_padding=2)  # beyond what the stride reaches
        F.conv_transpose2d(x, w, b, stride=2, padding=1, dilation=3, output_padding=2)
        F.conv_transpose2d(x, w, groups=2)
        F.conv_transpose2d(x, w, c, 2, 1, 1, 2)
        F.conv_transpose2d(x, w, groups=4)  # depthwise
        F.conv_transpose2d(x, w[:, :1], groups=4, stride=2)
        F.conv_transpose2d(x, w[..., :1, :1])
        F.conv_transpose2d(x, w[..., :1, :1], stride=2)
        F.conv_transpose2d(x, w[..., :1], stride=(1, 2), padding=(1, 0))
        F.conv_transpose2d(x[..., :1, :1], w)
        F.conv_transpose2d(x[:0], w)
        F.conv_transpose2d(x.transpose(2, 3), w, stride=2)
        F.conv_transpose2d(x, w, padding=1).relu()
        F.conv2d(F.conv_transpose2d(x, w, b, 2, 1), w, stride=2)
        F.conv_transpose2d(F.conv2d(x, v, padding=1), w)
        """,
        x=(2, 4, 4, 3),
        w=(4, 2, 3, 3),
        v=(4, 4, 3, 3),
        b=(2,),
        c=(4,),
    ),
    *lines(
        """
        F.conv2d(x.detach(), w, b)
        F.conv2d(x, w.detach(), b)
        F.conv2d(x, w, b.detach())
        F.conv2d(x.detach(), w.detach(), b)
        F.conv2d(x.detach(), w.detach(), b.detach())
        """,
        x=(2, 3, 4, 5),
        w=(2, 3, 3, 3),
        b=(2,),
    ),
]

LINEAR = [
    *lines(
        """
        F.linear(x, w)
        F.linear(x, w, b)
        F.linear(x[0], w, b)  # one vector
        F.linear(x[:1], w, b)
        F.linear(x[:0], w, b)
        F.linear(x[::2], w, b)
        F.linear(x.detach(), w, b)
        F.linear(y, w, b)
        F.linear(y.transpose(0, 1), w, b)
        F.linear(z, w)
        F.linear(x, w[:1])
        F.linear(x, w, b).relu()
        F.linear(F.linear(x, w, b).tanh(), w.transpose(0, 1))
        """,
        x=(4, 5),
        y=(2, 3, 5),
        z=(2, 1, 3, 5),
        w=(3, 5),
        b=(3,),
    ),
    *lines(
        """
        x @ w
        torch.matmul(x, w)
        x.matmul(w)
        v @ w
        x @ v
        v @ v
        a @ w
        x.transpose(0, 1) @ x
        a @ b
        a @ b.transpose(-1, -2)[..., :1, :].transpose(-1, -2)
        a[:1] @ b
        a @ b[0]
        v @ b
        a @ v
        a[:, :0] @ b
        a[:, :, :0] @ b[:, :0]
        a[0, 0] @ b
        c @ w
        c @ b[:, None]
        """,
        x=(3, 4),
        v=(4,),
        w=(4, 2),
        a=(2, 3, 4),
        b=(2, 4, 5),
        c=(2, 1, 3, 4),
    ),
]

WRONG = [
    *lines(
        """
        F.conv2d(x, w[:, :2])  # channels
        F.conv2d(x, w, groups=2)
        F.conv2d(x, w[:, :1], groups=2)
        F.conv2d(x, w[:3, :1], b[:3], groups=4)
        F.conv2d(x, w[:2, :1], groups=3)  # outputs that groups do not divide
        F.conv2d(x, w, groups=0)
        F.conv2d(x, w, groups=-1)
        F.conv2d(x, w, groups=1.5)
        F.conv2d(x, w, b[:2])
        F.conv2d(x, w, b[None])
        F.conv2d(x, w, b[0])
        F.conv2d(x, w, stride=0)
        F.conv2d(x, w, stride=-1)
        F.conv2d(x, w, stride=(1, 0))
        F.conv2d(x, w, stride=1.5)
        F.conv2d(x, w, stride="2")
        F.conv2d(x, w, stride=(1, 2, 3))
        F.conv2d(x, w, stride=None)
        F.conv2d(x, w, padding=-1)
        F.conv2d(x, w, padding=(1, -1))
        F.conv2d(x, w, padding=0.5)
        F.conv2d(x, w, padding=(1, 1, 1, 1))
        F.conv2d(x, w, padding="full")
        F.conv2d(x, w, padding="same", stride=2)
        F.conv2d(x, w, dilation=0)
        F.conv2d(x, w, dilation=(2, -1))
        F.conv2d(x, w, dilation=2.0)
        F.conv2d(x, w, dilation=(1, 2, 3))
        F.conv2d(x, w, dilation=3)  # a kernel larger than the image
        F.conv2d(x[:, :, :2], w)
        F.conv2d(x[..., :0], w)
        F.conv2d(x[:, 0], w)  # three dimensions that do not fit
        F.conv2d(x[0, 0], w)
        F.conv2d(x[None], w)
        F.conv2d(x, w[0])
        F.conv2d(x, w[None])
        F.conv2d(x, w[:, :, :0])
        F.conv2d(x, w.float())
        F.conv2d(x, w, b.float())
        F.conv2d(x, w, True)
        F.conv2d(x)
        F.conv2d(x, w, filters=3)
        F.conv2d(x, w, b, b)
        F.conv2d(None, w)
        F.conv2d(x, None)
        F.conv2d(3.0, w)
        F.conv2d(x, [1.0])
        F.conv2d(i, w)  # integers with floats
        F.conv2d(x.permute(0, 2, 3, 1), w)  # images as TensorFlow has them
        """,
        x=(2, 3, 6, 5),
        w=(4, 3, 3, 3),
        b=(4,),
        i=whole(2, 3, 6, 5),
    ),
    *lines(
        """
        F.conv_transpose2d(x, w[:3])
        F.conv_transpose2d(x, w, b[:1])
        F.conv_transpose2d(x, w, b, 0)
        F.conv_transpose2d(x, w, b, 1, -1)
        F.conv_transpose2d(x, w, b, 1, 9)  # nothing is left
        F.conv_transpose2d(x, w, b, 2, 1, 2)  # output_padding is no less than the stride
        F.conv_transpose2d(x, w, b, 2, 1, -1)
        F.conv_transpose2d(x, w, groups=3)
        F.conv_transpose2d(x, w, groups=0)
        F.conv_transpose2d(x, w, dilation=0)
        F.conv_transpose2d(x[0, 0], w)
        F.conv_transpose2d(x, w[0])
        F.conv_transpose2d(x, w.float())
        F.conv_transpose2d(x)
        F.conv_transpose2d(x, w, padding="same")
        """,
        x=(2, 4, 4, 3),
        w=(4, 2, 3, 3),
        b=(2,),
    ),
    *lines(
        """
        F.linear(x, w[:, :4])
        F.linear(x, w.transpose(0, 1))
        F.linear(x, w, b[:2])
        F.linear(x, w, w)
        F.linear(x, w[None, None])
        F.linear(x, w.float())
        F.linear(x)
        F.linear(s, w)
        F.linear(x, s)
        x @ w
        x @ s
        s @ x
        x @ 2
        x @ x[0][:3]
        x[0] @ x[0][:3]
        a @ a
        a @ x
        a @ a[:, :1].transpose(1, 2)[:1].expand(3, -1, -1)
        torch.matmul(x, w.transpose(0, 1).float())
        torch.matmul(x, None)
        torch.matmul(x)
        """,
        x=(4, 5),
        w=(3, 5),
        b=(3,),
        s=(),
        a=(2, 4, 3),
    ),
]


@pytest.mark.slow
@each(CASES, ALL)
def test_conv2d(case, ways):
    compare(case, ways)


@each(LINEAR, BOTH)
def test_products(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)
