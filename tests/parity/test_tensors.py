"""Comparisons, logic, integers, dtypes, facts about tensors, new tensors."""

from parity.sides import (
    BOTH,
    FLOAT64,
    both_refuse,
    compare,
    distinct,
    each,
    lines,
    mask,
    ties,
    whole,
)

CASES = [
    *lines(
        """
        x < y
        x <= y
        x > y
        x >= y
        x == y
        x != y
        x < 0
        x == 1
        2 >= x
        x != x
        x > y[:, :1]
        x[:, :1] == y[0]
        i < j
        i == j
        i == 2
        i != j[:, :1]
        i < 2.5
        m == True
        x.lt(y)
        x.le(0)
        x.gt(y)
        x.ge(y)
        x.eq(y)
        x.ne(y)
        (x > 0) & (y > 0)
        (x > 0) | (y > 0)
        (x > 0) ^ (y > 0)
        ~(x > 0)
        ~m
        m & True
        m | (i > 2)
        m ^ m
        i & 3
        i | 8
        i ^ j
        ~i
        (x == y).all()
        (x > 2).any()
        (i == j).sum()
        torch.allclose(x, x)
        torch.allclose(x, y)
        torch.allclose(x, x + 1e-9)
        torch.allclose(x, x + 0.1, atol=0.2)
        torch.allclose(x, x * 1.05, rtol=0.1)
        """,
        x=ties(3, 4),
        y=ties(3, 4)[::-1],
        i=whole(3, 4),
        j=whole(3, 4)[::-1],
        m=mask(3, 4),
    ),
    *lines(
        """
        x.detach() % 2
        x.detach() % -2
        x.detach() // 2
        x.detach() // -0.7
        (-x.detach()) % 2.5
        2.5 % x.detach()
        """,
        x=distinct(3, 4),
    ),
    *lines(  # facts
        """
        x.shape
        x.shape[0]
        x.shape[-1]
        x.size()
        x.size(1)
        x.size(-1)
        x.dim()
        x.ndim
        x.numel()
        len(x)
        x.requires_grad
        x.detach().requires_grad
        (x * 2).requires_grad
        (x * 2).is_leaf
        x.is_leaf
        x.is_floating_point()
        i.is_floating_point()
        x[0, 0].item()
        float(x[1, 1])
        x.tolist()
        x.grad
        [float(v) for v in x[0]]
        [row for row in x]
        torch.zeros_like(x)
        torch.ones_like(x)
        torch.full_like(x, 2.5)
        torch.zeros_like(i)
        torch.ones_like(i)
        torch.zeros(2, 3, dtype=torch.int64)
        torch.arange(5)
        torch.arange(2, 11, 3)
        torch.arange(5, 0, -2)
        torch.tensor([1, 2])
        torch.tensor([[True, False]])
        torch.zeros(2, 3).shape
        torch.empty(2, 0).numel()
        torch.eye(3, dtype=torch.int64)
        torch.eye(2, 3, dtype=torch.int64)
        torch.full((2, 2), 7, dtype=torch.int64)
        torch.ones(0, dtype=torch.int64)
        torch.ones((2, 1), dtype=torch.int64)
        torch.manual_seed(1); torch.randn(3, 4).shape
        torch.randint(0, 3, (4, 5)).shape
        torch.randperm(6).sum()
        torch.rand(2, 3).shape
        torch.empty_like(x).shape
        torch.randn_like(x).shape
        (x * x).sum().backward(); x.grad
        y = (x * x).sum(); y.backward(retain_graph=True); y.backward(); x.grad
        y = x * 2; y.retain_grad(); (y * y).sum().backward(); [y.grad, x.grad]
        y = x * 2; h = y.register_hook(lambda g: g * 3); y.sum().backward(); x.grad
        y = x.detach().requires_grad_(); (y * y).sum().backward(); y.grad
        x.detach().requires_grad_(False).requires_grad
        x.is_cuda
        x.type_as(x)
        torch.is_grad_enabled()
        """,
        x=(2, 3),
        i=whole(2, 3),
    ),
]

# dtypes that do not follow that of the input
FIXED = [
    *lines(  # integers
        """
        i + j
        i - j
        i * j
        i / 2
        i / j
        i // 2
        i // j
        i % 3
        -i // 2
        -i % 3
        -i % j
        i ** 2
        i ** j
        2 - i
        -i
        abs(-i)
        i + 1
        i * True
        i.sum()
        i.abs()
        i.clamp(1, 3)
        torch.maximum(i, j)
        torch.minimum(i, j)
        torch.where(i > 2, i, j)
        torch.sign(i - 2)
        i.tolist()
        i[0, 0].item()
        int(i[0, 1])
        bool(i[0, 1] > 100)
        float(i[0, 2])
        len(i)
        F.one_hot(j)
        F.one_hot(j, 9)
        F.one_hot(j[0, 1], num_classes=9)
        """,
        i=whole(3, 4),
        j=whole(3, 4, low=1),
    ),
    *lines(
        """
        x.float()
        x.double()
        x.float().double()
        x.float() * 2
        x.float().relu()
        x.to(torch.float32)
        x.to(torch.float64)
        x.to(x)
        x.to("cpu")
        x.long()
        x.int()
        x.bool()
        x.to(torch.int64)
        i.float()
        i.double()
        i.bool()
        i.int()
        i.double() * x
        m.float()
        m.long()
        m.double() * x
        (x > 0).double() * x
        x.double() + i.double()
        torch.ones(2, 3)
        torch.zeros(2)
        torch.tensor([1.5, 2.5])
        torch.tensor([1.5, 2.5], dtype=torch.float64)
        torch.tensor(3.0)
        torch.tensor(True)
        torch.arange(0, 1, 0.25)
        torch.arange(3.0)
        torch.linspace(0, 1, 5)
        torch.linspace(2, -1, 4)
        torch.linspace(3, 3, 1)
        x.type_as(x.float())
        i.type_as(x)
        torch.full((2, 2), 0.5)
        torch.eye(3)
        torch.zeros(2, dtype=torch.float64) + x[0, :2]
        """,
        x=(3, 4),
        i=whole(3, 4),
        m=mask(3, 4),
    ),
]

WRONG = lines(
    """
    bool(x)
    float(x)
    int(x)
    x.item()
    len(x[0, 0])
    x.size(2)
    x.size(-3)
    x.numpy()  # while it requires grad
    if_ = 1 if x > 0 else 2; if_
    [v for v in x[0, 0]]
    x.to("gpu")
    x.to("floaty")
    x.float(1, 2, 3, 4)
    torch.allclose(x, y)
    torch.allclose(x, i)
    torch.allclose(x, x.float())
    i.requires_grad_()
    m.requires_grad_()
    (x * 2).requires_grad_(False)
    torch.zeros(-1)
    torch.zeros(2, "3")
    torch.ones(2.5)
    torch.zeros(2, dtype="floaty")
    torch.tensor([[1, 2], [3]])
    torch.tensor("text")
    torch.tensor([object()])
    torch.arange(0, 5, 0)
    torch.arange()
    torch.randint(3, 3, (2,))
    torch.randn(2, dtype=torch.int64)
    torch.rand(2, dtype=torch.int64)
    torch.randn(-2)
    torch.full((2, -2), 1.0)
    torch.eye(-1)
    torch.from_numpy([1.0, 2.0])
    x.backward()
    x.detach().sum().backward()
    i.backward()
    (x * 2).backward(x[0])
    y = x.exp().sum(); y.backward(); y.backward()
    y = x.exp(); y.sum().backward(); y.sum().backward()
    """,
    x=(3, 4),
    y=(4, 3),
    i=whole(3, 4, low=1),
    m=mask(3, 4),
)


@each(CASES, BOTH)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(FIXED, (FLOAT64,))
def test_dtypes(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)
