"""What PyTorch's functions take besides the usual: one image without a batch, labels of pixels,
indices of maxima, and the options of arithmetic, norms, padding and new tensors."""

from itertools import product

import pytest
from parity.sides import (
    ALL,
    BOTH,
    FLOAT64,
    both_refuse,
    compare,
    distinct,
    each,
    lines,
    only_ours_refuses,
    positive,
    refusals,
    whole,
)

KERNELS = [
    *lines(  # one image
        """
        F.conv2d(x, w)
        F.conv2d(x, w, b, 2, 1)
        F.conv2d(x, w, b, stride=(2, 1), padding=(1, 2), dilation=(1, 2))
        F.conv2d(x, w, padding="same")
        F.conv2d(x, w[:, :1], groups=3)
        torch.conv2d(x, w, b, 1, 1)
        F.conv_transpose2d(x, v)
        F.conv_transpose2d(x, v, None, 2, 1, 1)
        F.max_pool2d(x, 2)
        F.max_pool2d(x, 3, 2, 1)
        F.avg_pool2d(x, 2)
        F.avg_pool2d(x, 3, 2, 1, True, False)
        F.adaptive_avg_pool2d(x, 1)
        F.adaptive_avg_pool2d(x, (2, None))
        F.dropout2d(x, 0.5, False)
        F.dropout2d(x, 1.0)
        nn.MaxPool2d(2)(x) + nn.AvgPool2d(2)(x)
        nn.ReLU()(F.conv2d(x, w, padding=1)) + x.sum(0)
        F.conv2d(x.transpose(1, 2), w)
        F.max_pool2d(F.conv2d(x, w, padding=1).relu(), 2)
        """,
        x=distinct(3, 6, 7),
        w=(6, 3, 3, 3),
        b=(6,),
        v=(3, 2, 3, 3),
    ),
    *lines(  # where the maxima stand
        """
        [*F.max_pool2d(x, 2, return_indices=True)]
        [*F.max_pool2d(x, 3, 2, 1, 1, False, True)]
        [*F.max_pool2d(x, (2, 3), (1, 2), padding=1, return_indices=True)]
        [*F.max_pool2d(x, 2, 1, dilation=(1, 3), return_indices=True)]
        [*F.max_pool2d(x, 2, ceil_mode=True, return_indices=True)]
        [*F.max_pool2d(x[0], 2, return_indices=True)]
        [*nn.MaxPool2d(2, return_indices=True)(x)]
        [*nn.MaxPool2d(3, 2, 1, 1, True, True)(x)]
        F.max_pool2d(x, 2, return_indices=True)[0] ** 2
        F.avg_pool2d(x, 2, divisor_override=3)
        F.avg_pool2d(x, 3, 2, 1, True, False, -2)
        nn.AvgPool2d(2, divisor_override=5)(x)
        F.avg_pool2d(x, (2,), (1,), (1,))
        """,
        x=distinct(2, 3, 6, 7),
    ),
    *lines(  # a label for each pixel, and for one vector
        "\n".join(
            f"F.{loss}, reduction={reduction!r})"
            for loss, reduction in product(
                (
                    "cross_entropy(x, t",
                    "cross_entropy(x, t, w.detach()",
                    "cross_entropy(x, t, w.detach(), ignore_index=2, label_smoothing=0.1",
                    "cross_entropy(x, x.softmax(1) * 2",
                    "cross_entropy(x, x.softmax(1), w.detach()",
                    "cross_entropy(x[0, :, 0, 0], t[0, 0, 0]",
                    "cross_entropy(x[0, :, 0, 0], t[0, 0, 0], w.detach(), label_smoothing=0.2",
                    "cross_entropy(x[0, :, 0, 0], w.softmax(0)",
                    "cross_entropy(x[:, :, 0], t[:, 0]",
                    "nll_loss(x, t",
                    "nll_loss(x, t, w.detach(), ignore_index=0",
                    "nll_loss(x[0, :, 0, 0], t[0, 0, 0], w.detach()",
                    "nll_loss(x[:, :, 0], t[:, 0], w.detach()",
                    "nll_loss(x[:, :, 0, 0], t[:, 0, 0], -w.detach()",
                    "cross_entropy(x[:, :, 0, 0], t[:, 0, 0], -w.detach()",
                ),
                ("mean", "sum", "none"),
            )
        ),
        x=(2, 4, 3, 5),
        t=whole(2, 3, 5, high=4),
        w=positive(4),
    ),
    *lines(
        """
        F.batch_norm(x, None, None, None, None, True)
        F.batch_norm(x, None, None, w, b, True, 0.1, 1e-3)
        F.batch_norm(x, m.detach(), v.detach(), w, b)
        m = m.detach(); v = v.detach(); y = F.batch_norm(x, m, v, w, b, True, 0.3); [y, m, v]
        F.batch_norm(x[:, :, :, None, None], None, None, training=True)
        """,
        x=(4, 3, 5),
        w=(3,),
        b=(3,),
        m=(3,),
        v=positive(3),
    ),
]

CASES = [
    *lines(
        """
        torch.add(x, y, alpha=2)
        x.add(y, alpha=-0.5)
        x.add(2, alpha=3)
        torch.sub(x, y, alpha=2)
        x.sub(y[0], alpha=0.25)
        x.sub(1.5, alpha=2)
        z = x * 1; z.add_(y, alpha=-0.1); z
        z = x * 1; z.sub_(y, alpha=2); z
        i.add(i, alpha=2)
        i.sub(i, alpha=3)
        torch.div(x, y, rounding_mode=None)
        torch.div(x.detach(), y.detach(), rounding_mode="floor")
        torch.div(x.detach(), y.detach(), rounding_mode="trunc")
        torch.div(-x.detach(), y[0].detach(), rounding_mode="trunc")
        x.detach().div(2, rounding_mode="floor")
        z = x.detach(); z.div_(y.detach(), rounding_mode="floor"); z
        i.div(2, rounding_mode="trunc")
        i.div(-2, rounding_mode="trunc")
        i.div(-3, rounding_mode="floor")
        torch.div(i, i + 4, rounding_mode="floor")
        torch.div(i, i + 4, rounding_mode="trunc")
        x % y
        x % 2
        x % -1.5
        3 % y.detach()
        2.5 % x.detach()
        -x % y[:1]
        (x % y) * y
        torch.remainder(x, y)
        x.remainder(-0.7)
        i % 3
        7 % (i + 4)
        """,
        x=distinct(3, 4),
        y=positive(3, 4),
        i=whole(3, 4, low=-3, high=5),
    ),
    *lines(
        """
        torch.clamp(x, low, high)
        x.clamp(low, high)
        x.clamp(min=low)
        x.clamp(max=high)
        x.clamp(low[0], high)
        x.clamp(high, low)  # the upper one has the last word
        x.clip(low, high)
        z = x * 1; z.clamp_(low, high); z
        i.clamp(i * 0, i * 0 + 2)
        torch.max(x, low)
        torch.max(x, other=low)
        x.max(low)
        torch.min(x, high[0])
        x.min(other=high)
        torch.max(i, i * 2)
        F.softplus(x, 2)
        F.softplus(x, 0.5, 1.0)
        F.softplus(x, beta=3, threshold=0.2)
        F.softplus(x, -1.0)
        F.softplus(x, 1, 20)
        torch.softmax(x.detach(), 1, dtype=torch.float32).dtype == torch.float32
        """,
        x=distinct(3, 4),
        low=distinct(3, 4) * 0 - 0.33,
        high=distinct(3, 4) * 0 + 0.33,
        i=whole(3, 4, low=-3, high=5),
    ),
    *lines(
        "\n".join(
            f"x.norm({p}{rest})"
            for p, rest in product(
                ("0.5", "-0.5", "-1", "-2", "1.5", "3", "0.25"),
                ("", ", 1", ", (0, 2), True"),
            )
        )
        + """
        torch.norm(x, 0.5, 1)
        torch.norm(torch.where(x > 0, x, x * 0).detach(), 0)
        x.detach().norm(0, 1)
        s.norm(0.5, 0)
        """,
        x=distinct(2, 3, 4),
        s=(),
    ),
    *lines(
        "\n".join(
            f'F.pad(x[0], {widths}, "{mode}")'
            for mode, widths in product(
                ("reflect", "replicate", "circular"),
                ("(1, 2)", "(2, 0)", "(1, 1, 2, 0)", "(-1, 2)", "(0, -2, 1, -1)", "(0, 0)"),
            )
        )
        + """
        F.pad(x, (1, 2, 1, 1, 1, 0), "replicate")
        F.pad(x, (1, 2, 1, 1, 1, 0), "circular")
        F.pad(x[0], (3, 3), mode="reflect")
        F.pad(x[0], (4, 4), mode="circular")
        F.pad(x[0], (9, 5), mode="replicate")
        F.pad(x[0], (-4, 5), mode="replicate")
        F.pad(x.transpose(2, 3), (1, 1, 1, 1), mode="reflect")
        F.conv2d(F.pad(x, (1, 1, 1, 1), "reflect"), w)
        torch.cat([x[:0, 0, 0, 0], x])
        torch.cat([x, x[:0, 0, 0, 0].detach()], 2)
        """,
        x=distinct(2, 2, 3, 4),
        w=(1, 2, 3, 3),
    ),
    *lines(  # dimensions of a scalar
        """
        s.sum(0)
        s.mean(-1)
        [*s.max(0)]
        s.amin(0, True)
        s.softmax(0)
        s.log_softmax(-1)
        s.logsumexp(0)
        s.norm(2, 0)
        s.var(0, correction=0)
        s.squeeze(0)
        s.unsqueeze(0)
        s.transpose(0, -1)
        s.flatten()
        s.argmax(0)
        s.all(0)
        s.any(-1)
        [*s.topk(1, 0)]
        torch.stack([s, s], -1)
        """,
        s=(),
    ),
]

NEW = [
    *lines(
        """
        torch.zeros(2, 3, device="cpu", dtype=torch.int64)
        torch.ones((2,), dtype=torch.float64, device=torch.device("cpu"))
        torch.full((2, 2), 3.5, dtype=torch.float64, device="cpu")
        torch.empty(2, 0, device="cpu")
        torch.arange(5, device="cpu")
        torch.arange(1, 9, 2, dtype=torch.float64, device="cpu")
        torch.arange(3.0, dtype=torch.float64, requires_grad=True)
        torch.linspace(-1, 2, 5, dtype=torch.float64, device="cpu")
        torch.linspace(0, 1, 3, dtype=torch.float64, requires_grad=True)
        torch.linspace(x[0, 0].detach(), x[0, 1].detach(), 5, dtype=torch.float64)
        torch.linspace(torch.tensor(1), 3, 5)
        torch.eye(3, dtype=torch.float64, device="cpu")
        torch.eye(2, 3, dtype=torch.int64)
        torch.eye(2, requires_grad=True)
        torch.zeros_like(x, dtype=torch.int64, device="cpu")
        torch.ones_like(x, device="cpu", requires_grad=True)
        torch.full_like(x, 2.5, dtype=torch.float32, device="cpu")
        torch.empty_like(x, dtype=torch.int64, device="cpu").shape
        torch.randn_like(x, dtype=torch.float32, device="cpu").dtype == torch.float32
        torch.rand_like(x).shape
        torch.rand_like(x, requires_grad=True).requires_grad
        torch.randint(0, 5, (2, 3), dtype=torch.float64, device="cpu").shape
        torch.randint(5, (2,), dtype=torch.int32).dtype == torch.int32
        torch.randperm(5, dtype=torch.int64, device="cpu").shape
        torch.randn(2, 3, device="cpu", dtype=torch.float64).shape
        x.to("cpu", torch.float64, True, False)
        x.to(torch.float64, False, True)
        x.to(x, True, True)
        x.to(device="cpu", dtype=torch.float64, copy=True)
        i.to(torch.float64, memory_format=torch.preserve_format)
        y.to(memory_format=torch.channels_last)
        y.to(memory_format=torch.contiguous_format)
        y.contiguous(memory_format=torch.channels_last) * 2
        y.clone(memory_format=torch.channels_last)
        y.clone(memory_format=torch.preserve_format)
        y.double(memory_format=torch.channels_last)
        i.bool(memory_format=torch.preserve_format)
        x.softmax(1, dtype=torch.float64)
        F.softmax(i, 1, dtype=torch.float64)
        F.log_softmax(x, -1, dtype=torch.float64)
        torch.log_softmax(i, 0, dtype=torch.float64)
        i.sum(dtype=torch.float64)
        i.sum(1, dtype=torch.int32)
        x.sum(0, True, dtype=torch.float64)
        i.mean(dtype=torch.float64)
        x.mean(0, dtype=torch.float64)
        x.norm(3, 1, dtype=torch.float64)
        x.norm(0.5, dim=0, dtype=torch.float64)
        """,
        x=(2, 3),
        y=(2, 3, 4, 5),
        i=whole(2, 3),
    ),
]

WRONG = lines(
    """
    F.conv2d(x[0, 0], w)
    F.max_pool2d(x[0, 0], 2)
    F.avg_pool2d(x[0, 0], 2)
    F.avg_pool2d(x, 2, divisor_override=0)
    F.avg_pool2d(x, 2, divisor_override=1.5)
    nn.AvgPool2d(2, divisor_override=0)(x)
    F.cross_entropy(x, t[0])
    F.cross_entropy(x, t[:, 0])
    F.cross_entropy(x[0], t[:, 0])
    F.nll_loss(x[None], t)
    F.nll_loss(x[0, 0, 0], t[0, 0])
    torch.add(x, x, alpha="2")
    torch.add(x, x, alpha=x)
    i.add(i, alpha=0.5)
    torch.div(x, x, rounding_mode="up")
    torch.div(x, x, rounding_mode=1)
    i.div(0, rounding_mode="floor")
    torch.div(i, i * 0, rounding_mode="trunc")
    x.clamp(x[:1, 0, 0, :2])
    torch.max(x, x[:, :2])
    torch.max(x, 1, other=x)
    F.softplus(x, beta="1")
    F.softplus(x, threshold=None)
    x.softmax(0, dtype="float99")
    F.softmax(x, 0, dtype=3)
    x.norm(None, 0, False, 1)
    F.pad(x, (4, 0), "reflect")
    F.pad(x, (0, 5), "circular")
    F.pad(x, (1, 1), "mirror")
    F.pad(x[:, :, :, :0], (1, 1), "replicate")
    F.pad(x, (1, 1), "reflect", 2.0)
    torch.arange(3, device="tpu")
    torch.eye(2, dtype="float99")
    torch.zeros_like(x, device="nowhere")
    torch.randint(5, (2,), dtype="number")
    torch.randint(300, (2,), dtype=torch.uint8)
    torch.randint(-200, 5, (2,), dtype=torch.int8)
    x.to("cpu", memory_format="sideways")
    x[0].to(memory_format=torch.channels_last)
    x.contiguous(memory_format=3)
    """,
    x=(2, 3, 4, 4),
    w=(2, 3, 3, 3),
    t=whole(2, 4, 4, high=3),
    i=whole(3, 4, low=1),
)

# No guess at dtypes; weights that leave nothing to divide by; a norm of no name; numbers that a
# dtype does not have.
DIFFERENT = refusals(
    {
        "x.clamp(i, None)": "maximum: expected one dtype",
        "torch.max(x, i)": "maximum: expected one dtype",
        "F.nll_loss(x, i[:, 0], w.detach() * 0)": "expected weights whose sum is not 0",
        "F.cross_entropy(x, i[:, 0], w.detach() * 0)": "expected weights whose sum is not 0",
        'x.norm("nuc")': "expected p a number",
        "F.softplus(x, 0)": "expected beta other than 0",
    },
    x=(3, 4),
    i=whole(3, 4),
    w=positive(4),
)


@pytest.mark.slow
@each(KERNELS, ALL)
@pytest.mark.filterwarnings("ignore:cross_entropy expects logits")
def test_what_has_kernels(case, ways):
    compare(case, ways)


@each(CASES, BOTH)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(NEW, (FLOAT64,))
def test_dtypes(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)
