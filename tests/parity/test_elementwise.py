"""Arithmetic with broadcasting, and functions of each entry."""

from parity.sides import (
    BOTH,
    both_refuse,
    compare,
    distinct,
    each,
    lines,
    mask,
    only_ours_refuses,
    positive,
    refusals,
    ties,
    whole,
)

CASES = [
    *lines(  # two operands of one shape
        """
        x + y
        x - y
        x * y
        x / y
        torch.add(x, y)
        torch.sub(x, y)
        torch.mul(x, y)
        torch.div(x, y)
        x.add(y)
        x.sub(y)
        x.mul(y)
        x.div(y)
        x + x
        x * x
        x - x
        y / y
        -x
        +x
        torch.neg(x)
        x * y + x / y - y
        (x + y) * (x - y)
        ((x * 2 + 1) * y - 3) / (y * y + 1)
        torch.maximum(x, y)
        torch.minimum(x, y)
        torch.maximum(x, 1) <=> torch.maximum(x, torch.ones_like(x))
        torch.minimum(0, x) <=> torch.minimum(torch.zeros_like(x), x)
        torch.maximum(x, x) <=> x + 0  # equal entries: the gradient goes to the first
        torch.minimum(x + y, y)
        torch.where(x > y, x, y)
        torch.where(x > 0, x * y, x / y)
        torch.where(x > 0, x, 0.0)
        torch.where(x > 0, 1.0, y)
        torch.where(x[:1] > 0, x, y)
        torch.where(x > y[:, :1], x[:, :1], y[:1])
        x.where(x > 0, y)
        x.detach() * y
        x.detach() + y.detach()
        """,
        x=distinct(3, 4),
        y=positive(3, 4),
    ),
    *lines(  # a number beside a tensor
        """
        x + 1
        1 + x
        x - 2.5
        2.5 - x
        x * 3
        -1.5 * x
        x / 4
        3 / x
        x + True
        x * False
        x - 0
        0 * x
        x ** 2
        x ** 3
        x ** 1
        x ** 0
        x ** -1
        x ** -2.5
        x ** 0.5
        2 ** x
        0.3 ** x
        1 ** x
        x.pow(2)
        torch.pow(x, 3)
        torch.pow(2.0, x)
        x * 1e-3 + 1e3
        x / 3 * 3 - x
        """,
        x=positive(2, 5),
    ),
    *lines(  # shapes that broadcast
        """
        a + b
        a - b
        a * b
        a / b
        b / a
        a + c
        c - a
        a * c
        a / c
        c / a
        a * d
        a + s
        s - a
        s * s
        s / a
        a / s
        e + b
        e * a
        b * f
        f - e
        b[:, None] * b
        b + b[:, None, None]
        a * b * c * s
        a[:, :1] - a.mean((0, 2), keepdim=True)
        torch.maximum(a, b)
        torch.minimum(c, a)
        torch.where(c > 1, a, b)
        a ** c
        c ** b
        s ** a
        g + a
        a * g
        g / g
        h + h[:, None]
        """,
        a=positive(2, 3, 4),
        b=positive(4),
        c=positive(3, 1),
        d=positive(2, 1, 1),
        s=positive(),
        e=positive(1, 1, 1, 4),
        f=positive(5, 3, 1, 1),
        g=positive(1, 3, 4),
        h=positive(1),
    ),
    *lines(  # memory in another order, overlapping, empty
        """
        x.transpose(0, 1) + y
        x.transpose(0, 1) * y[::2].expand(-1, -1)[:1]
        x[:, ::2] * y[:2].transpose(0, 1)
        x[::2, 1:] - x[1:2, :-1]
        x[:1, :3].expand(4, -1) * y
        (x[0] + x[:, :1]).exp()
        x.reshape(-1)[::3] * x.reshape(-1)[1:5]
        x[:0] + y.transpose(0, 1)[:0]
        x[:0] * 2
        x[:0].exp()
        x[:0] * x[0]
        """,
        x=positive(3, 4),
        y=positive(4, 3)[:, :3],
    ),
    *lines(
        """
        torch.exp(x)
        torch.log(x)
        torch.sqrt(x)
        torch.tanh(x)
        torch.sigmoid(x)
        torch.abs(x)
        torch.relu(x)
        x.exp()
        x.log()
        x.sqrt()
        x.tanh()
        x.sigmoid()
        x.relu()
        x.exp().log()
        x.log().exp()
        x.sqrt() * x.sqrt()
        x.tanh().tanh()
        x.exp() / (1 + x.exp())
        (x * x + 1).log().sqrt()
        x.sigmoid() * (1 - x.sigmoid())
        F.sigmoid(x)
        F.tanh(x)
        F.relu(x)
        """,
        x=positive(3, 5),
    ),
    *lines(
        """
        x.abs()
        abs(x)
        torch.abs(x - 1)
        x.relu()
        F.relu(x, inplace=False)
        torch.relu(-x)
        x.relu() * x
        x.tanh()
        x.sigmoid()
        x.clamp(-1, 1)
        x.clamp(min=0.5)
        x.clamp(max=0.5)
        x.clamp(min=-0.31, max=1.07)
        x.clip(-1, 1)
        torch.clamp(x, 0, 1)
        torch.clip(x, max=-0.2)
        torch.clamp(x, 0.1, 0.1)
        torch.sign(x) <=> torch.sign(x).detach()  # no gradient, where PyTorch has zeros
        x.sign() * x
        torch.where(x > 0, x, 0.1 * x)
        torch.exp(-x * x)
        torch.isnan(x)
        torch.isfinite(x)
        x.detach()
        x.clone()
        """,
        x=distinct(4, 6),
    ),
    *lines(
        """
        torch.erf(x)
        x.erf()
        x.square()
        torch.square(x)
        F.gelu(x)
        F.gelu(x, approximate="none")
        F.gelu(x, approximate="tanh")
        F.silu(x)
        F.silu(x, inplace=False)
        F.softplus(x)
        F.leaky_relu(x)
        F.leaky_relu(x, 0.2)
        F.leaky_relu(x, negative_slope=-0.5)
        F.leaky_relu(x, 0)
        F.leaky_relu(x, 0.1, False)
        F.gelu(x * 5)
        F.silu(x * 10)
        F.softplus(x * 10)
        x.erf() * F.gelu(x)
        x.expand_as(x[None])
        x.view_as(x.transpose(0, 1))
        x.reshape_as(x.transpose(0, 1))
        x.t()
        x[0].t()
        x.nelement()
        x.ndimension()
        """,
        x=distinct(4, 5),
    ),
    *lines(  # where the function has a kink, an end or a pole
        """
        x.abs()
        x.relu()
        x.clamp(0, 1)
        x.clamp(min=1)
        x.clamp(max=-1)
        x.sign() <=> x.sign().detach()
        x ** 2
        x ** 3
        x ** 1
        x ** 0
        (x * 0) ** 2
        (x * 0) ** 0
        torch.where(x > 0, x, x * 0)
        torch.maximum(x, x * 0) <=> torch.where(x >= 0, x, x * 0)  # ties: the first has it all
        torch.minimum(x, x * 0) <=> torch.where(x <= 0, x, x * 0)
        (x > 0) & (x < 2)
        x * x.relu()
        """,
        x=ties(3, 4),
    ),
    *lines(
        """
        z.log()
        z.sqrt()
        1 / z
        z ** -1
        z ** 0.5
        z / z
        (z - 1).log()
        (z - 1).sqrt()
        z.exp() * 1e30
        torch.isnan(z / z)
        torch.isfinite(1 / z)
        torch.where(z > 0, 1 / z, 0.0)
        """,
        z=mask(5).astype(float),
    ),
]

WRONG = [
    *lines(
        """
        x + y
        x - y
        x * y[:, :2]
        x / y
        x ** y
        x + x[:2]
        x + x[:, :3]
        x == y
        x < x[:2]
        torch.maximum(x, y)
        torch.minimum(x, x[:, :2])
        torch.where(x > 0, x, y)
        torch.where(y > 0, x, x)
        torch.where(x, x, x)
        torch.where(x > 0, x)
        x + None
        x + "1"
        "1" + x
        x * None
        x - {}
        x / []
        x + object()
        x ** None
        x < "1"
        x < None
        x & x
        x | True
        ~x
        x & m
        -m
        m - m
        m - True
        i // 0 <=> i // torch.tensor(0)
        i ** -1
        x.clamp()
        x.clamp("0", "1")
        torch.clamp(x)
        torch.exp()
        torch.exp(2.0)
        torch.exp("x")
        torch.log(None)
        torch.sqrt([1.0])
        torch.tanh(1)
        torch.sigmoid(1.0)
        torch.relu(2.0)
        F.relu(None)
        torch.abs(-1)
        torch.abs(m)
        x.exp(2, 3)
        x.add()
        x.mul(x, x, x)
        torch.add(x)
        torch.add(None, 2)
        torch.mul("a", x)
        """,
        x=(3, 4),
        y=(4, 3),
        i=whole(3, 4, low=1),
        m=mask(3, 4),
    ),
]

# minires does not mix dtypes, and does not guess.
DIFFERENT = refusals(
    {
        "x + x.float()": "expected one dtype, got float64 (3, 4) and float32 (3, 4)",
        "x.float() * x": "Cast one, as in x.astype('float32')",
        "x + i": "expected one dtype, got float64 (3, 4) and int64",
        "i * x": "expected one dtype",
        "x * m": "expected one dtype, got float64 (3, 4) and bool",
        "m + i": "expected one dtype",
        "x < i": "expected one dtype",
        "torch.maximum(x, i)": "expected one dtype",
        "torch.where(x > 0, x, i)": "expected one dtype",
        "torch.where(x > 0, x, x.float())": "expected one dtype",
        "i + 0.5": "int64 tensor and the float 0.5 do not mix",
        "i * 2.0": "Convert the tensor with .float()",
        "m + 1.5": "bool tensor and the float 1.5 do not mix",
        "torch.exp(i)": "expected a floating-point tensor, got int64. Use x.float().",
        "torch.log(i)": "Use x.float()",
        "torch.sqrt(i)": "Use x.float()",
        "torch.tanh(i)": "Use x.float()",
        "torch.sigmoid(m)": "Use x.float()",
        "x.clamp(1, 0)": "clip: expected min <= max, got 1 and 0",
        "x // 2": "is not differentiable; got a tensor that requires grad. Use .detach().",
    },
    x=(3, 4),
    i=whole(3, 4, low=1),
    m=mask(3, 4),
)


@each(CASES, BOTH)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)
