"""Writing in place: operators, methods, assignment, through views, and what must be refused.

Every program starts from a copy of the input, for a leaf that requires grad cannot be written to.
"""

from parity.sides import (
    ALL,
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
    *lines(  # operators and methods
        """
        y = x * 1; y += z; y
        y = x * 1; y -= z; y
        y = x * 1; y *= z; y
        y = x * 1; y /= z; y
        y = x * 1; y **= 2; y
        y = x * 1; y += 2; y
        y = x * 1; y *= -0.5; y
        y = x * 1; y += z[0]; y
        y = x * 1; y *= z[:, :1]; y
        y = x * 1; y += y; y
        y = x * 1; y -= y * 0.5; y
        y = x * 1; y.add_(z); y
        y = x * 1; y.sub_(z); y
        y = x * 1; y.mul_(z); y
        y = x * 1; y.div_(z); y
        y = x * 1; y.pow_(3); y
        (x * 1).add_(1)
        (x * 1).mul_(2).add_(z).sub_(1)
        y = x * 1; y.add_(z).relu()
        y = x * 1; y.relu_(); y
        (x * 1).relu_()
        y = x * 1; y.relu_(); y * x
        y = x * 1; y.clamp_(-1, 1); y
        y = x * 1; y.clamp_(min=0); y
        y = x * 1; y.clip_(max=0.5); y
        y = x * 1; y.zero_(); y + x
        y = x * 1; y.fill_(3); y.add_(x); y
        y = x * 1; y.copy_(z); y
        y = x * 1; y.copy_(z[0]); y
        y = x * 1; y.copy_(z[:, :1]); y * x
        y = x.clone(); y.add_(x); y
        y = x.exp(); y.detach().requires_grad
        y = x.detach().clone(); y.add_(1); y
        y = x.detach().clone(); y.add_(z); y
        y = x.detach().clone(); y.mul_(z); y.mul_(z); y
        y = x * 1; z2 = y * y; y2 = y.clone(); y2.add_(z2); y2
        """,
        x=(3, 4),
        z=(3, 4),
    ),
    *lines(  # assignment
        """
        y = x * 1; y[0] = 0; y
        y = x * 1; y[0] = z[1]; y
        y = x * 1; y[:, 1] = z[:, 2]; y
        y = x * 1; y[1:] = z[:-1]; y
        y = x * 1; y[..., ::2] = z[..., 1::2]; y
        y = x * 1; y[0, 0] = 5.0; y
        y = x * 1; y[0, 0] = z[1, 1]; y
        y = x * 1; y[:] = z; y
        y = x * 1; y[:] = z[0]; y
        y = x * 1; y[...] = z[:, :1]; y
        y = x * 1; y[:, 1:3] = 2; y
        y = x * 1; y[None, 0] = z[1]; y
        y = x * 1; y[[0, 2]] = z[[1, 1]]; y
        y = x * 1; y[[0, 2]] = 1.5; y
        y = x * 1; y[i] = z[0]; y
        y = x * 1; y[[0, 1], [2, 3]] = z[0, :2]; y
        y = x * 1; y[:, [0, 3]] = z[:, :2]; y
        y = x * 1; y[y > 0] = 0; y
        y = x * 1; y[y > 0] = -1.0; y * y
        y = x * 1; y[z > 0] = z[z > 0]; y
        y = x * 1; y[m] = z[0]; y
        y = x * 1; y[m, 1:] = 0; y
        y = x * 1; y[0] += z[0]; y
        y = x * 1; y[:, 1] *= 3; y
        y = x * 1; y[1:, 1:] -= z[:2, :3]; y
        y = x * 1; y[0] = y[1]; y
        y = x * 1; y[0] = y[1].exp() + y[2]; y
        y = x * 1; y[0] = z[0]; y[0] = z[1]; y
        y = x * 1; y[0] = z[0]; y[:, 0] = 1; y * x
        y = x.detach().clone(); y[0] = z[0]; y
        y = torch.zeros_like(x); y[:, 1:] = x[:, 1:] * z[:, 1:]; y
        y = x * 1; y[1:1] = 3; y
        y = x * 1; y[0][1] = 7; y
        y = x * 1; y[0][1:][0] = 7; y
        """,
        x=(3, 4),
        z=(3, 4),
        i=whole(2, high=3),
        m=mask(3),
    ),
    *lines(  # through views: the base sees it, and so do other views
        """
        y = x * 1; v = y[0]; v.add_(1); y
        y = x * 1; v = y[0]; v.mul_(z[0]); [y, v]
        y = x * 1; v = y[:, 1]; v.copy_(z[:, 0]); y
        y = x * 1; v = y[1:, ::2]; v.mul_(2); [y, v]
        y = x * 1; v = y.transpose(0, 1); v[0].add_(5); y
        y = x * 1; v = y.transpose(0, 1); v.mul_(z.transpose(0, 1)); [y * y, v]
        y = x * 1; v = y.view(-1); v[2:7].pow_(2); y
        y = x * 1; v = y.reshape(2, 6); v.relu_(); y
        y = x * 1; v = y.flatten(); v.clamp_(-0.5, 0.5); y
        y = x * 1; v = y.permute(1, 0); v.zero_(); y
        y = x * 1; v = y.unsqueeze(0); v.mul_(3); y
        y = x * 1; v = y[None].squeeze(0); v.add_(z); y
        y = x * 1; y.split(1)[1].add_(1); y <=> x + torch.eye(3, dtype=x.dtype)[:, 1:2]
        y = x * 1; a = y[0]; b = y[0]; a.add_(1); b.mul_(2); y
        y = x * 1; a = y[0]; b = y[:, 0]; a.mul_(2); b.mul_(3); [y, a, b]
        y = x * 1; v = y[0]; y.mul_(2); [y, v]
        y = x * 1; v = y[0]; y.mul_(2); v * v
        y = x * 1; v = y[0]; y += z; v.add_(1); [y, v]
        y = x * 1; v = y[1:][1:][0][::2]; v.mul_(5); y
        y = x * 1; v = y.detach(); v.requires_grad
        y = x * 1; y[0].add_(y[1]); y[1].add_(y[2]); y[2].add_(y[0]); y
        y = x * 1; y[1].zero_(); y[1].add_(y[0]); y
        y = x * 1; y[1].fill_(2); y * z
        y = x * 1; v = y[0]; w = v[1:]; w.mul_(2); [y, v, w]
        y = x * 1; v = y[0]; w = v[1:]; y.mul_(2); [y, v, w]
        y = x * 1; y.view(12)[::5].mul_(0); y
        y = x * 1; y[0].copy_(y[1].clone()); y
        y = x * 1; y[0, 1:].div_(y[1, 1:].exp()); y
        y = x.detach().clone(); v = y[0]; v.copy_(z[0]); [y, v]
        y = x.detach().clone(); v = y[:, 1]; y.mul_(z); [y, v]
        """,
        x=(3, 4),
        z=(3, 4),
    ),
    *lines(  # what PyTorch refuses to differentiate: minires keeps the values that it needs
        """
        y = x * 1; y *= y; y <=> y = x * 1; y * y
        y = x * 1; y[:2].add_(y[1:]); y <=> torch.stack([x[0] + x[1], x[1] + x[2], x[2]])
        """,
        x=(3, 4),
    ),
    *lines(  # nothing flows back from what a constant has overwritten
        """
        y = x * 1; y.zero_(); y <=> (x * 0).detach()
        y = x.tanh(); y[0] = 0; y <=> torch.cat([x[:1] * 0, x[1:].tanh()])  # tanh needs x alone
        y = x.sigmoid(); y[0] = 0; y <=> torch.cat([x[:1] * 0, x[1:].sigmoid()])
        y = x * 1; y.fill_(2.5); y <=> (x * 0 + 2.5).detach()
        y = x * 1; y.copy_(z.detach()); y <=> z.detach()
        """,
        x=(3, 4),
        z=(3, 4),
    ),
]

# Convolutions, batch norms and additions that wait are finished before something is written.
DEFERRED = lines(
    """
    y = F.conv2d(x, w, padding=1); y += x; y
    y = F.conv2d(x, w, padding=1); y += x; y.relu_(); y
    y = F.conv2d(x, w, padding=1); y.relu_(); y
    y = F.conv2d(x, w, padding=1); y.add_(1).mul_(x); y
    y = F.conv2d(x, w, padding=1); v = y[:, 0]; v.mul_(2); y
    y = F.conv2d(x, w, padding=1); y[:, 0] = 0; y
    y = F.conv2d(x, w, padding=1); y[y > 0] = 1; y
    y = F.conv2d(x, w, padding=1); y.zero_(); y + x
    y = F.conv2d(x, w, padding=1); y.copy_(x); y
    z = x * 1; y = F.conv2d(z, w, padding=1); z2 = z.clone(); z2.add_(1); y + z2
    y = F.batch_norm(x, None, None, g, b, True); y += x; y.relu_(); y
    y = F.batch_norm(x, None, None, g, b, True); y.relu_(); y
    y = F.batch_norm(x, None, None, g, b, True); y.mul_(2); y
    y = F.batch_norm(x, None, None, g, b, True); y[0] = 0; y
    y = F.batch_norm(x, None, None, g, b, True); v = y[:, 1]; v.add_(1); [y, v]
    y = F.batch_norm(F.conv2d(x, w, padding=1), None, None, g, b, True); y += x; F.relu(y)
    y = (x + F.conv2d(x, w, padding=1)).relu_(); y
    y = F.max_pool2d(x, 2); y.add_(1); y
    y = F.avg_pool2d(x, 2); y.relu_(); y
    y = F.conv2d(x, w).flatten(1); y.mul_(2); y
    """,
    x=(2, 3, 4, 5),
    w=(3, 3, 3, 3),
    g=(3,),
    b=(3,),
)

WRONG = lines(
    """
    x.add_(1)  # a leaf that requires grad
    x.zero_()
    x.relu_()
    x.copy_(z)
    x[0] = 1; x
    x[0].add_(1)
    x.view(-1).mul_(2)
    x += z; x
    y = x * 1; y += z[:, :2]; y
    y = x * 1; y += z[None].expand(2, 3, 4); y
    y = x[0] * 1; y += z; y
    y = x[:, :1] * 1; y *= z; y
    y = x * 1; y.copy_(z[:2]); y
    y = x * 1; y.copy_(z[None].expand(2, -1, -1)); y
    y = x * 1; y[0] = z; y
    y = x * 1; y[0] = z[0, :2]; y
    y = x * 1; y[5] = 0; y
    y = x * 1; y[0, 9] = 0; y
    y = x * 1; y["a"] = 0; y
    y = x * 1; y[0] = "a"; y
    y = x * 1; y[0] = None; y
    y = x * 1; y[m] = z[:1, :3]; y
    y = x * 1; y[[0, 7]] = 0; y
    y = x * 1; y.add_(None); y
    y = x * 1; y.add_("1"); y
    y = x * 1; y.fill_("1"); y
    y = x * 1; y.fill_(z); y
    y = x * 1; y.clamp_(); y
    y = x[:1].expand(3, 4); y.add_(1); y  # overlapping memory
    y = i.clone(); y.add_(0.5); y
    y = i.clone(); y.div_(2); y
    y = i.clone(); y.add_(x.detach()); y
    y = x.exp(); w = y * y; y.add_(1); w.sum().backward()  # exp saved y
    y = x * 1; w = y * y; y.mul_(2); w.sum().backward()  # the product saved y
    y = x.log_softmax(1); y.zero_(); y = x.softmax(1); y[0] = 0; y.sum().backward()
    y = x * 1; w = y.relu(); w.mul_(2); w.sum().backward()
    y = x.sqrt(); y[:, 1] = 1; y.sum().backward()
    y = x * 1; y[0] = y[1] * y[2]; y.sum().backward()
    y = torch.zeros_like(x); y[0] = x[0]; y[1] = y[0] * x[1]; y[2] = y[1] * x[2]; y.sum().backward()
    y = F.relu(x * 1); y += x; y.sum().backward()
    y = F.relu(x * 1); y.add_(x); (y * y).sum().backward()
    """,
    x=(3, 4),
    z=(3, 4),
    i=whole(3, 4),
    m=mask(3),
)

# PyTorch casts what is written; minires has one dtype on both sides, but for copy_.
DIFFERENT = refusals(
    {
        "y = x * 1; y += z.float(); y": "expected one dtype",
        "y = x * 1; y[0] = i[0]; y": "expected one dtype",
        "y = x * 1; y += i; y": "expected one dtype",
        "y = i.clone(); y[0] = 1.5; y": "int64 tensor and the float 1.5 do not mix",
        "y = i.clone(); y.fill_(2.5); y": "int64 tensor and the float 2.5 do not mix",
    },
    x=(3, 4),
    z=(3, 4),
    i=whole(3, 4),
)


@each(CASES, BOTH)
def test_values_and_derivatives(case, ways):
    compare(case, ways)


@each(DEFERRED, ALL)
def test_work_that_was_put_off(case, ways):
    compare(case, ways)


@each(WRONG)
def test_both_refuse(case):
    both_refuse(case)


@each(DIFFERENT)
def test_only_minires_refuses(case):
    only_ours_refuses(case)
