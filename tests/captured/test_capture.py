"""Capture: a recording does what the function does, to the last bit, or says that it cannot."""

from __future__ import annotations

import gc
import re
import threading

import numpy as np
import pytest
from harness import host, place, tensor, there

import minires as mr
from minires import models, nn, optim
from minires.captured import MOST
from minires.errors import ArgumentError, CaptureError, DTypeError
from minires.kernels.numba import allocator
from minires.nn import functional as F

STEPS = 6


class Dropping(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.drop = nn.Conv2d(3, 8, 3), nn.Dropout2d(0.4)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(F.dropout(self.drop(self.conv(x)).relu().mean((2, 3)), 0.3, self.training))


class Frozen(nn.Module):
    """A convolution that is trained in front of a batch norm whose statistics are not."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.bn.running_mean.fill_(0.3)
        self.fc = nn.Linear(6, 5)
        self.bn.eval()

    def forward(self, x):
        y = self.bn(self.conv(x)).relu()
        return self.fc(y.mean((2, 3)))


class Choosing(nn.Module):
    """Operations that choose by values, forward and backward."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = x[:, :, :2, :2].reshape(x.shape[0], -1)
        most, where_ = x.topk(3, dim=1)
        x = x.clone()
        x[:, 0] = most[:, 2]
        x[x > 1.5] = 0.5
        x[where_[:, 0] % len(x)] = x[0] * 0.5
        y = self.fc(x)
        return y + F.one_hot(where_[:, 1] % 5, 5).float() * y.abs()


class Odds(nn.Module):
    """Operations without a kernel of their own: choices, indices, writes in place."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = x[:, :, :2, :2].reshape(x.shape[0], -1)
        x = mr.where(x > 0.1, x, x * 0.2)
        y = self.fc(x)
        y += y.max(1, keepdim=True).values * (y.argmax(1) % 2 == 0).astype(x.dtype).unsqueeze(1)
        return y.clamp(-3, 3)


def torchvision_style():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            self.conv2, self.bn2 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=0.3)
            self.relu, self.fc = nn.ReLU(inplace=True), nn.Linear(3, 5)

        def forward(self, x):
            out = self.relu(self.bn1(self.conv1(x)))
            out = self.bn2(self.conv2(out))
            out += x
            out = self.relu(out)
            return self.fc(F.adaptive_avg_pool2d(out, 1).flatten(1))

    return Block()


NETWORKS = {
    "residual A": lambda: models.cifar_resnet(8, shortcut="A", num_classes=5),
    "residual B": lambda: models.cifar_resnet(8, shortcut="B", num_classes=5),
    "plain": lambda: models.cifar_plain(8, num_classes=5),
    "pre-activation": lambda: models.cifar_resnet(8, pre_activation=True, num_classes=5),
    "torchvision": torchvision_style,
    "dropout": Dropping,
    "frozen statistics": Frozen,
    "choosing": Choosing,
    "odds and ends": Odds,
}


def batches(sizes, dtype=np.float32, size=(9, 8)):
    rng = np.random.default_rng(5)
    return [
        (
            there(rng.standard_normal((n, 3, *size)).astype(dtype)),
            there(rng.integers(0, 5, n)),
        )
        for n in sizes
    ]


def training(network, optimizer=optim.SGD, **options):
    """A network, an optimiser and a step of training, always the same ones."""
    mr.manual_seed(3)
    net = network().to(place())
    options = options or {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-3}
    opt = optimizer(net.parameters(), **options)

    def step(x, y):
        opt.zero_grad()
        logits = net(x)
        loss = F.cross_entropy(logits, y)
        loss.backward()
        opt.step()
        return {"loss": loss, "logits": logits}

    return net, opt, step


def left(net, opt=None):
    """Copies of all that training changes."""
    tensors = [*net.parameters(), *net.buffers()]
    found = [host(t).copy() for t in tensors]
    found += [host(p.grad).copy() for p in net.parameters() if p.grad is not None]
    for state in opt.state.values() if opt is not None else ():
        found += [np.array(host(value)) for value in state.values()]
    return found


def trajectory(network, data, capture, between=lambda net, opt, number: None, **options):
    """What each step gives and what the steps leave."""
    net, opt, step = training(network, **options)
    run = mr.capture(step, net, opt) if capture else step
    results = []
    for number, (x, y) in enumerate(data):
        between(net, opt, number)
        results += [host(value).copy() for value in run(x, y).values()]
    return [*results, *left(net, opt), mr.rand(3).numpy()]


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for number, (a, b) in enumerate(zip(ours, theirs)):
        np.testing.assert_array_equal(a, b, err_msg=f"number {number}")


def assert_captured_is_plain(network, data, **options):
    assert_same(
        trajectory(network, data, capture=True, **options),
        trajectory(network, data, capture=False, **options),
    )


def counted(net, opt=None):
    """A step of training that counts how often its Python runs."""
    calls = []

    def step(x, y):
        calls.append(1)
        net.zero_grad()
        loss = F.cross_entropy(net(x), y)
        loss.backward()
        if opt is not None:
            opt.step()
        return loss

    return step, calls


# ----------------------------------------------------------------------------------- it is the same


@pytest.mark.gpu_cases(only=["torchvision", "dropout", "odds and ends"])
@pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
def test_training_is_the_same_to_the_last_bit(network, device):
    assert_captured_is_plain(network, batches([4] * STEPS))


@pytest.mark.parametrize("mode", ["no fusion", "references", "float64"])
def test_in_every_mode(mode):
    network, data = NETWORKS["residual B"], batches([4] * STEPS)
    if mode == "float64":
        data = batches([4] * STEPS, np.float64)
        assert_captured_is_plain(lambda: network().double(), data)
    elif mode == "references":
        with mr.backend("numpy"):
            assert_captured_is_plain(network, data)
    else:
        with mr.no_fusion():
            assert_captured_is_plain(network, data)


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        (optim.SGD, {"lr": 0.1}),
        (optim.SGD, {"lr": 0.1, "momentum": 0.8, "nesterov": True}),
        (optim.SGD, {"lr": 0.1, "momentum": 0.8, "dampening": 0.5}),
        (optim.Adam, {"lr": 0.01, "weight_decay": 0.1}),
        (optim.AdamW, {"lr": 0.01, "amsgrad": True}),
        (optim.RMSprop, {"lr": 0.01, "momentum": 0.8, "centered": True, "eps": 1e-3}),
    ],
)
def test_every_optimiser_whose_options_change(optimizer, options):
    def schedule(net, opt, number):
        opt.param_groups[0]["lr"] *= 0.7
        if number == 4 and "betas" in options:
            opt.param_groups[0]["betas"] = (0.8, 0.99)
        if number == 4 and "betas" not in options:
            opt.param_groups[0]["momentum"] = 0.5

    data = batches([4] * (STEPS + 3))
    assert_captured_is_plain(
        NETWORKS["residual B"], data, optimizer=optimizer, between=schedule, **options
    )


def test_batches_of_several_sizes_in_turn():
    sizes = [4, 3, 4, 3, 4, 3, 4, 3, 1, 1, 1]
    assert_captured_is_plain(NETWORKS["odds and ends"], batches(sizes))
    assert_captured_is_plain(NETWORKS["residual B"], batches(sizes[:8]))


def freeze(net, opt, number):
    net.fc.weight.requires_grad = number < 3


def evaluate(net, opt, number):
    net.train(number % 3 != 2)


def overwrite(net, opt, number):
    if number == 4:
        with mr.no_grad():
            net.fc.bias.copy_(mr.arange(5, dtype=np.float32))
        net.load_state_dict({k: v.clone() for k, v in Frozen().state_dict().items()})


def write_unseen(net, opt, number):
    net.conv.weight.data[0] *= 1.5
    net.conv.weight.bump_version()


def replace(net, opt, number):
    if number == 4:
        old, net.fc = net.fc, nn.Linear(6, 5).to(place())
        with mr.no_grad():
            net.fc.weight.copy_(old.weight * 2)
            net.fc.bias.copy_(old.bias)


def convert(net, opt, number):
    for p in net.parameters():
        p.data = p.data.copy()


def reload(net, opt, number):
    if number == 4:
        opt.load_state_dict(opt.state_dict())


def add_momentum(net, opt, number):
    opt.param_groups[0]["momentum"] = 0.0 if number < 4 else 0.9


@pytest.mark.parametrize(
    "between",
    [freeze, evaluate, overwrite, write_unseen, replace, convert, reload, add_momentum],
    ids=lambda f: f.__name__,
)
def test_what_happens_between_calls_is_seen(between, device):
    assert_captured_is_plain(Frozen, batches([4] * 9), between=between)


def test_inputs_of_any_memory_order():
    x, y = batches([4], size=(8, 8))[0]
    swapped = there(host(x).transpose(0, 1, 3, 2).copy()).transpose(2, 3)
    last = mr.from_nhwc(there(host(x).transpose(0, 2, 3, 1).copy()))
    strided = there(np.repeat(host(x), 2, axis=0))[::2]
    data = [(image, y) for image in (x, swapped, last, strided, x, last, swapped)]
    assert_captured_is_plain(NETWORKS["residual A"], data)


@pytest.mark.gpu_cases(only=["odds and ends-4", "frozen statistics-1"])
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_inference_follows_the_parameters(name, size, device):
    net, _, step = training(NETWORKS[name])
    data = batches([4] * 4)
    for x, y in data:
        step(x, y)
    net.eval()
    predict = mr.capture(net)
    for number in range(8):
        image = data[number % 4][0][:size]
        with mr.no_grad():
            np.testing.assert_array_equal(host(predict(image)), host(net(image)))
        if number == 3:
            next(net.parameters()).data[0] *= 2  # its memory is in our hands from now on
        if number == 5:
            net.train()
            step(*data[0])
            net.eval()
    assert "recordings=1" in repr(predict)


def test_python_runs_twice_and_once_for_the_proof():
    net, opt, _ = training(NETWORKS["residual B"])
    step, calls = counted(net, opt)
    captured = mr.capture(step, net, opt)
    for x, y in batches([4] * STEPS):
        captured(x, y)
    assert len(calls) == 3  # as it is; recorded; to compare with


def test_gradients_are_there_and_accumulate(device):
    def gradients(capture):
        net, _, _ = training(Frozen)

        def backward(x, y):
            loss = F.cross_entropy(net(x), y, reduction="sum")
            loss.backward()
            return loss

        run = mr.capture(backward, net) if capture else backward
        found = []
        for number, (x, y) in enumerate(batches([4] * 12)):
            if number % 3 == 0:
                net.zero_grad()
            run(x, y)
            found += [host(p.grad).copy() for p in net.parameters()]
        return found

    assert_same(gradients(True), gradients(False))


def test_an_update_alone_takes_the_gradients_that_are_there(device):
    def run(capture):
        net, opt, _ = training(Frozen)
        step, _ = counted(net)
        learn = mr.capture(step, net, opt) if capture else step
        update = mr.capture(opt.step, net, opt) if capture else opt.step
        for x, y in batches([4, 4, 4, 3, 3, 3, 4, 3, 4, 3, 4, 4]):
            learn(x, y)
            update()
        return left(net, opt)

    assert_same(run(True), run(False))


def weighted(logits, y):
    return F.cross_entropy(logits, y, weight=tensor([1.0, 2.0, 0.5, 3.0, 1.0]))


LOSSES = {
    "weights of classes": weighted,
    "smoothing": lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1),
    "nll": lambda x, y: F.nll_loss(F.log_softmax(x, 1), y),
    "probabilities": lambda x, y: F.cross_entropy(x, F.one_hot(y, 5).float()),
    "squares": lambda x, y: F.mse_loss(x, F.one_hot(y, 5).float()),
    "clipped gradients": F.cross_entropy,
}


ON_A_GPU = ["smoothing-any", "weights of classes-ignored", "clipped gradients-any"]


@pytest.mark.gpu_cases(only=ON_A_GPU)
@pytest.mark.parametrize("labels", ["ignored", "one, always the same at first", "any"])
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, labels, device):
    data = batches([4] * 9)
    if labels == "ignored" and name in ("smoothing", "nll", "weights of classes"):
        for number, (_, y) in enumerate(data):
            y.data[: number % 4] = -100
    elif labels.startswith("one"):  # nothing can be told from the first calls
        data = batches([1] * 9)
        for _, y in data[:4]:
            y.data[0] = 2

    def run(capture):
        net, opt, _ = training(Frozen)

        def step(x, y):
            opt.zero_grad()
            loss = LOSSES[name](net(x), y)
            loss.backward()
            if "clipped" in name:
                nn.utils.clip_grad_norm_(net.parameters(), 0.5)
            opt.step()
            return loss

        run = mr.capture(step, net, opt) if capture else step
        losses = [host(run(x, y)).copy() for x, y in data]
        assert not capture or "recordings=1" in repr(run)
        return [*losses, *left(net, opt)]

    assert_same(run(True), run(False))


def test_gradients_that_a_function_does_not_touch_stay():
    net, _, step = training(Frozen)
    predict = mr.capture(net)
    plain, _, plain_step = training(Frozen)
    for x, y in batches([4] * STEPS):
        step(x, y)
        plain_step(x, y)
        with mr.no_grad():
            np.testing.assert_array_equal(predict(x).numpy(), plain(x).numpy())
        for ours, theirs in zip(net.parameters(), plain.parameters()):
            np.testing.assert_array_equal(ours.grad.numpy(), theirs.grad.numpy())
    assert "recordings=1" in repr(predict)


def test_a_graph_from_before_is_still_right():
    net, opt, step = training(Frozen)
    predict = mr.capture(net)
    x, y = batches([4])[0]
    step(x, y)
    for _ in range(4):  # one of them proves, and disturbs the parameters for it
        loss = F.cross_entropy(net(x), y)
        with mr.no_grad():
            predict(x)
        opt.zero_grad()
        loss.backward()
    found = net.conv.weight.grad.numpy().copy()
    opt.zero_grad()
    F.cross_entropy(net(x), y).backward()
    np.testing.assert_array_equal(found, net.conv.weight.grad.numpy())


def test_a_proof_waits_for_values_that_tell_something():
    calls = []

    def shifted(x):
        calls.append(1)
        return mr.where(x > 0, x, x * 0) + F.one_hot((x[:, 0] > 0).long(), 2).float()

    function = mr.capture(shifted)
    nan = mr.tensor(np.full((3, 2), np.nan, np.float32))
    data = [mr.zeros(3, 2)] * 2 + [nan] * 2 + [mr.randn(3, 2) for _ in range(4)]
    for x in data:
        np.testing.assert_array_equal(function(x).numpy(), shifted(x).numpy())
    always = mr.capture(lambda y: F.one_hot(y, 7))
    assert [int(always(mr.tensor([i // 3])).argmax()) for i in range(12)] == [
        i // 3 for i in range(12)
    ]


def test_scalars_names_and_plain_arguments():
    function = mr.capture(lambda x, times, *, more=1.0: x * times + more)
    for i in range(4):
        x = mr.tensor(float(i))
        assert function(x, 2.0).item() == 2 * i + 1
        assert function(x, 3.0, more=0.5).item() == 3 * i + 0.5
        assert np.signbit(function(x * 0, -0.0, more=-0.0).numpy())
        assert not np.signbit(function(x * 0, 0.0, more=0.0).numpy())
    assert "recordings=4" in repr(function)


def test_an_attribute_that_replaces_another_of_the_same_kind():
    def scaling(k):
        return lambda x: x * k

    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.function, self.shift = scaling(2.0), mr.zeros(3)

        def forward(self, x):
            return self.function(x) + self.shift

    net = Scaled()
    function = mr.capture(net)
    for k in (2.0, 3.0, 4.0):
        net.function = None
        net.function = scaling(k)
        for i in range(4):
            net.shift.data = np.full(3, i, np.float32)
            assert function(mr.full(3, float(i))).tolist() == [k * i + i] * 3


# ---------------------------------------------------------------------------------- memory is apart


def test_results_stay_and_work_in_between_does_no_harm():
    net, opt, step = training(NETWORKS["residual B"])
    captured = mr.capture(step, net, opt)
    data = batches([4] * STEPS)
    kept, copies = [], []
    for x, y in data:
        kept.append(captured(x, y)["logits"])
        copies.append(kept[-1].numpy().copy())
        spoilt = [
            allocator.allocate((4, 9, 8, c), np.float32) for c in (3, 16, 32, 64) for _ in "abcde"
        ]
        for array in spoilt:
            array.fill(np.nan)
        del spoilt
    assert_same([k.numpy() for k in kept], copies)
    assert_same(trajectory(NETWORKS["residual B"], data, capture=False)[: 2 * STEPS][1::2], copies)


def test_a_recording_gives_its_memory_back():
    net, opt, step = training(NETWORKS["residual B"])
    x, y = batches([64])[0]
    step(x, y)
    net.zero_grad()
    gc.collect()
    before = allocator.in_use()
    captured = mr.capture(step, net, opt)
    for _ in range(3):
        captured(x, y)
    assert allocator.in_use() > before
    net.zero_grad()
    del captured
    gc.collect()
    assert allocator.in_use() <= before


def test_no_more_recordings_than_that():
    double = mr.capture(lambda x: x * 2)
    for n in [*range(1, 3 * MOST)] * 3:
        assert double(mr.ones(n)).tolist() == [2.0] * n
    for _ in range(3):
        for n in range(1, MOST + 1):
            double(mr.ones(n))
    assert f"recordings={MOST}" in repr(double)


def test_two_threads_may_call_it():
    net, _, step = training(NETWORKS["residual B"])
    step(*batches([4])[0])
    net.eval()
    predict = mr.capture(net)
    data = [x for x, _ in batches([4] * 8)]
    with mr.no_grad():
        expected = [net(x).numpy() for x in data]
    found = [None] * len(data)

    def work(first):
        with mr.no_grad():
            for _ in range(3):
                for i in range(first, len(data), 2):
                    found[i] = predict(data[i]).numpy()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert_same(found, expected)


def test_a_tensor_that_is_still_to_be_computed_from_what_a_repeat_writes():
    net, opt, step = training(Frozen)
    captured = mr.capture(step, net, opt)
    x, y = batches([4])[0]
    for _ in range(3):
        captured(x, y)
    with mr.no_grad():
        waiting = net.conv(x)  # a note, which will read the weights
        expected = mr.conv2d(x, net.conv.weight.clone(), padding=1).numpy()
    captured(x, y)
    with mr.no_grad():
        np.testing.assert_array_equal(waiting.numpy(), expected)


# ------------------------------------------------------------------------------- or it says why not


def call(function, *args, times=2):
    for _ in range(times):
        function(*args)


def refused(text, function, *args, error=CaptureError, times=2):
    with pytest.raises(error, match=re.escape(text)):
        call(function, *args, times=times)


@pytest.mark.parametrize(
    ("look", "what"),
    [
        (lambda x: x.sum().item(), "the value of a tensor"),
        (lambda x: bool((x > 0).all()), "the value of a tensor"),
        (lambda x: x.tolist(), "the values of a tensor"),
        (lambda x: x.numpy(), "the array of a tensor"),
        (lambda x: x.data, "the array of a tensor"),
    ],
)
def test_python_that_looks_at_values(look, what):
    def function(x):
        look(x * 2)
        return x

    refused(
        f"expected Python that does not depend on values, got {what} at",
        mr.capture(function),
        mr.ones(3),
    )


def test_what_is_kept_from_call_to_call():
    calls = []

    def counting(x):
        calls.append(1)
        return x * len(calls)

    refused(
        "got another result. The function may compute outside", mr.capture(counting), mr.ones(3)
    )


def test_computing_outside_of_operations():
    def outside(x):
        return mr.Tensor(x._array + 1)

    refused("got another result", mr.capture(outside), mr.ones(3))


def test_state_that_was_not_named():
    _, _, step = training(Frozen)
    x, y = batches([4])[0]
    refused("use modules or optimisers that were not passed as state", mr.capture(step), x, y)


def test_a_failed_proof_changes_nothing():
    net, opt, step = training(Frozen)
    calls = []

    def counting(x, y):
        calls.append(1)
        loss = step(x, y)["loss"]
        return loss * len(calls)

    captured = mr.capture(counting, net, opt)
    x, y = batches([4])[0]
    captured(x, y)
    before = left(net, opt)
    with pytest.raises(CaptureError):
        captured(x, y)
    assert_same(left(net, opt), before)


def test_hooks_would_not_run():
    net, opt, step = training(Frozen)
    captured = mr.capture(step, net, opt)
    x, y = batches([4])[0]
    call(captured, x, y, times=3)
    handle = net.fc.register_forward_hook(lambda *args: None)
    refused("expected modules without hooks, got Linear", captured, x, y)
    handle.remove()
    captured(x, y)


def test_inputs_and_results_that_cannot_be_taken():
    double = mr.capture(lambda x, *more: x * 2)
    refused(
        "capture: expected inputs that do not require grad, got one that does",
        double, mr.ones(3, requires_grad=True), error=ArgumentError,
    )  # fmt: skip
    refused(
        "numbers, strings, None and tuples of the last three as arguments, got list",
        double, mr.ones(3), [1], error=ArgumentError,
    )  # fmt: skip
    refused(
        "expected a function that returns tensors, alone or in tuples, lists and dicts, got float",
        mr.capture(lambda x: 1.0), mr.ones(3), error=ArgumentError,
    )  # fmt: skip

    def write(x):
        x += 1
        return x

    refused(
        "a function that only reads inputs, got a write into input 0", mr.capture(write), mr.ones(3)
    )
    refused(
        "as arguments, got Linear",
        mr.capture(lambda net, x: net(x)), nn.Linear(3, 3), mr.ones(3), error=ArgumentError,
    )  # fmt: skip
    refused("expected a function or a module, got int", mr.capture, 3, error=ArgumentError)
    refused(
        "capture: expected arguments that 'write' takes, got too many positional arguments",
        mr.capture(write), mr.ones(3), 2, error=ArgumentError,
    )  # fmt: skip
    refused(
        "expected modules and optimisers as state, got list",
        mr.capture, lambda x: x, [nn.Linear(2, 2)], error=ArgumentError,
    )  # fmt: skip


def test_wrong_labels_are_refused_by_a_repeat_and_do_no_harm():
    net, opt, step = training(Frozen)
    captured = mr.capture(step, net, opt)
    data = batches([4] * STEPS)
    for x, y in data[:3]:
        captured(x, y)
    before = left(net, opt)
    wrong = mr.tensor(np.array([0, 1, 5, 2]))
    refused(
        "expected labels in 0..4, got 5 at index 2",
        captured,
        data[0][0],
        wrong,
        error=ArgumentError,
    )
    assert_same(
        left(net, opt)[: len([*net.parameters(), *net.buffers()])],
        before[: len([*net.parameters(), *net.buffers()])],
    )
    for x, y in data[3:]:
        captured(x, y)
    plain, opt_2, step = training(Frozen)
    for x, y in data:
        step(x, y)
    assert_same(left(net, opt), left(plain, opt_2))


def test_a_failed_repeat_leaves_no_old_gradients():
    net, opt, step = training(Frozen)
    captured = mr.capture(step, net, opt)
    for x, y in batches([4] * 4):
        captured(x, y)
    with pytest.raises(ArgumentError):
        captured(x, mr.tensor(np.array([0, 1, 5, 2])))
    assert all(p.grad is None for p in net.parameters())


def test_shapes_that_depend_on_values():
    refused(
        "got a mask, which decides how many entries there are,",
        mr.capture(lambda x: x[x > 0]),
        mr.randn(5),
    )
    refused(
        "got the largest label, for num_classes=-1,",
        mr.capture(lambda y: F.one_hot(y)),
        mr.tensor([1, 2]),
    )


def test_an_average_over_all_batches():
    net = mr.capture(nn.BatchNorm2d(3, momentum=None))
    refused("got the count of batches, as momentum=None asks for, at", net, mr.randn(2, 3, 4, 4))


@pytest.mark.parametrize("optimizer", [optim.SGD, optim.Adam])
def test_an_optimiser_that_begins_anew(optimizer):
    def begin(net, opt, number):
        if number == 4:
            opt.state.clear()

    options = {"lr": 0.01} if optimizer is optim.Adam else {"lr": 0.1, "momentum": 0.9}
    assert_captured_is_plain(
        Frozen, batches([4] * 9), between=begin, optimizer=optimizer, **options
    )


def test_wrong_calls_are_refused_as_ever():
    net, opt, step = training(Frozen)
    captured = mr.capture(step, net, opt)
    x, y = batches([4])[0]
    call(captured, x, y, times=3)
    with pytest.raises(DTypeError, match="integer labels"):
        captured(x, y.float())


def test_watched_functions_run_as_they_are():
    net, opt, _ = training(Frozen)
    step, calls = counted(net, opt)
    captured = mr.capture(step, net, opt)
    x, y = batches([4])[0]
    call(captured, x, y, times=4)
    before = len(calls)
    with mr.detect_anomaly():
        captured(x, y)
    assert len(calls) == before + 1


def test_a_capture_inside_another():
    inner = mr.capture(lambda x: x * 3)
    outer = mr.capture(lambda x: inner(x) + 1)
    for i in range(5):
        assert outer(mr.tensor([float(i)])).tolist() == [3.0 * i + 1]
