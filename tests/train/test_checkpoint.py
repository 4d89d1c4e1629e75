"""Checkpoints: everything comes back bit for bit, and damage or a wrong model is explained."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy
from harness import raises

import minires as mr
from minires import nn, random
from minires.errors import ArgumentError, CheckpointError
from minires.models import cifar_resnet
from minires.optim import SGD, Adam, LinearLR
from minires.tensor import from_numpy
from minires.train import load_checkpoint, read_progress, save_checkpoint, train_epoch


def squared(logits, labels):
    return (logits * logits).mean()


def arrays(net):
    return {name: tensor.data.copy() for name, tensor in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(
        np.array_equal(a[k], b[k]) and a[k].dtype == b[k].dtype for k in a
    )


@pytest.fixture
def saved(make_run, make_loader, tmp_path):
    """A run after one epoch, and its checkpoint."""
    net, optimizer, schedule = make_run()
    train_epoch(net, make_loader(), optimizer, loss_fn=squared, schedule=schedule)
    path = tmp_path / "run.safetensors"
    progress = {"epoch": 1, "loss": 0.1, "note": "ä"}
    save_checkpoint(path, model=net, optimizer=optimizer, schedule=schedule, progress=progress)
    return path, net, optimizer, schedule


def test_everything_comes_back(saved, make_run):
    path, net, optimizer, schedule = saved
    expected_draws = random.generator().random(3)
    net2, optimizer2, schedule2 = make_run(seed=1)
    random.generator().random(17)
    progress = load_checkpoint(path, model=net2, optimizer=optimizer2, schedule=schedule2)
    assert progress == {"epoch": 1, "loss": 0.1, "note": "ä"}
    assert same(arrays(net), arrays(net2))
    assert np.array_equal(random.generator().random(3), expected_draws)
    assert schedule2.state_dict() == schedule.state_dict()
    a, b = optimizer.state_dict(), optimizer2.state_dict()
    assert a["param_groups"] == b["param_groups"]
    assert a["state"].keys() == b["state"].keys() == {0, 1, 2}
    for i in a["state"]:
        assert same(a["state"][i], b["state"][i])


def test_saving_hands_the_weights_to_nobody(tmp_path):
    """What is derived from weights that someone may write unseen cannot be remembered."""
    net = cifar_resnet(8)
    save_checkpoint(tmp_path / "run.safetensors", model=net, progress={})
    assert not any(tensor._version.escaped for tensor in net.state_dict().values())


def test_numbers_in_the_optimizer_state_come_back_too(tmp_path, make_net):
    path = tmp_path / "adam"
    random.manual_seed(0)
    nets = [make_net() for _ in range(2)]
    first, second = (Adam(net.parameters(), amsgrad=True) for net in nets)
    for p in nets[0].parameters():
        p.grad = from_numpy(np.ones_like(p.data))
    first.step()
    first.step()
    save_checkpoint(path, model=nets[0], optimizer=first, progress={})
    load_checkpoint(path, model=nets[1], optimizer=second)
    assert second.state_dict()["state"][2]["step"] == 2
    assert second.param_groups[0]["betas"] == (0.9, 0.999)
    for net, optimizer in zip(nets, (first, second)):
        for p in net.parameters():
            p.grad = from_numpy(np.ones_like(p.data))
        optimizer.step()
    assert same(arrays(nets[0]), arrays(nets[1]))


def test_any_layout_and_a_scalar_survive(tmp_path):
    class Odd:
        def __init__(self):
            base = np.arange(24.0).reshape(2, 3, 4)
            self.tensors = {"t": base.transpose(2, 0, 1), "r": base[:, ::-2], "s": np.array(3)}

        def state_dict(self):
            return {k: from_numpy(v) for k, v in self.tensors.items()}

        def load_state_dict(self, state):
            self.tensors = {k: v.data for k, v in state.items()}

    one, two = Odd(), Odd()
    two.tensors = {k: np.zeros_like(v) for k, v in two.tensors.items()}
    save_checkpoint(tmp_path / "x", model=one, progress={})
    load_checkpoint(tmp_path / "x", model=two)
    assert same(one.tensors, two.tensors)
    assert two.tensors["s"].shape == ()


def test_the_file_is_plain_safetensors(saved):
    path, net, _, _ = saved
    content = safetensors.numpy.load_file(path)
    assert np.array_equal(content["model/fc1.bias"], net.params["fc1.bias"].data)
    assert "optimizer/0/momentum_buffer" in content


def test_weights_alone(saved, make_run):
    path, net, _, _ = saved
    net2, _, _ = make_run(seed=1)
    load_checkpoint(path, model=net2)
    assert same(arrays(net), arrays(net2))


def test_read_progress_restores_nothing(saved):
    path = saved[0]
    before = random.get_state()
    assert read_progress(path)["epoch"] == 1
    assert random.get_state() == before


def test_a_failed_save_keeps_the_old_checkpoint(saved, monkeypatch):
    path, net, _, _ = saved

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(CheckpointError, match="No space left"):
        save_checkpoint(path, model=net, progress={"epoch": 2})
    assert read_progress(path)["epoch"] == 1


@pytest.mark.parametrize("wrong", [None, 3, "net", nn.Linear, mr.ones(2), object()])
@pytest.mark.parametrize("part", ["model", "optimizer", "schedule"])
def test_what_is_no_model_optimizer_or_schedule(saved, part, wrong):
    path, *objects = saved
    parts = dict(zip(("model", "optimizer", "schedule"), objects)) | {part: wrong}
    if wrong is None and part != "model":
        pytest.skip("they may be left out")
    before = path.read_bytes()
    expected = "expected a module as model" if part == "model" else "expected None or an "
    with raises(ArgumentError, "save_checkpoint:", expected):
        save_checkpoint(path, progress={}, **parts)
    with raises(ArgumentError, "load_checkpoint:", expected):
        load_checkpoint(path, **parts)
    assert path.read_bytes() == before


def test_progress_must_be_json(saved):
    path, net, _, _ = saved
    with pytest.raises(ArgumentError, match=r"plain JSON values, got .*set"):
        save_checkpoint(path, model=net, progress={"seen": {1}})


# -- damage


def test_missing_and_folder(tmp_path, make_net):
    with pytest.raises(CheckpointError, match=r"expected a file at .*none, got no such file"):
        load_checkpoint(tmp_path / "none", model=make_net())
    with pytest.raises(CheckpointError, match="got a folder"):
        load_checkpoint(tmp_path, model=make_net())


@pytest.mark.parametrize("keep", [0, 5, 100, -1])
def test_truncated(saved, keep):
    path, net, optimizer, _ = saved
    path.write_bytes(path.read_bytes()[:keep])
    before = arrays(net)
    with pytest.raises(CheckpointError, match=r"got a truncated or damaged file of [\d,]+ bytes"):
        load_checkpoint(path, model=net, optimizer=optimizer)
    assert same(arrays(net), before)


def test_every_flipped_byte_is_noticed(saved):
    path, net, optimizer, schedule = saved
    whole = path.read_bytes()
    before, state = arrays(net), random.get_state()
    for position in range(0, len(whole), 97):
        damaged = bytearray(whole)
        damaged[position] ^= 0x01
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError):
            load_checkpoint(path, model=net, optimizer=optimizer, schedule=schedule)
    assert same(arrays(net), before)
    assert random.get_state() == state


def test_a_flipped_bit_in_a_weight_is_named_damage(saved):
    path, net, _, _ = saved
    damaged = bytearray(path.read_bytes())
    damaged[-3] ^= 0x10
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match="its checksum does not match its contents"):
        load_checkpoint(path, model=net)


def test_other_files(saved, tmp_path):
    _, net, _, _ = saved
    text = tmp_path / "text"
    text.write_text("hello, this is no checkpoint at all")
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        load_checkpoint(text, model=net)
    foreign = tmp_path / "foreign.safetensors"
    safetensors.numpy.save_file({"fc1.bias": np.zeros(8, np.float32)}, foreign)
    with pytest.raises(
        CheckpointError, match=r"without optimiser and progress\. Load.*minires\.load"
    ):
        load_checkpoint(foreign, model=net)
    newer = tmp_path / "newer.safetensors"
    safetensors.numpy.save_file({}, newer, {"minires_checkpoint": "3"})
    with pytest.raises(CheckpointError, match="expected checkpoint format 2, got 3"):
        load_checkpoint(newer, model=net)


# -- another model


class Changed:
    """A model whose state dict is changed on the way out."""

    def __init__(self, net, change):
        self.net, self.change = net, change

    def state_dict(self):
        state = dict(self.net.state_dict())
        self.change(state)
        return state

    def load_state_dict(self, state):
        raise AssertionError("must not be reached")


def test_mismatches_are_listed_in_one_error(saved):
    path, net, _, _ = saved

    def change(state):
        state.pop("fc1.bias")
        state["extra.weight"] = from_numpy(np.zeros(2))
        state["fc2.weight"] = from_numpy(np.zeros((8, 5), np.float32))
        state["fc1.weight"] = from_numpy(np.zeros((4, 8), np.float64))

    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, model=Changed(net, change))
    text = str(caught.value)
    assert "the 5 tensors of this model" in text
    assert "1 missing in the file: extra.weight" in text
    assert "1 not in the model: fc1.bias" in text
    assert "2 of other shape or dtype: fc1.weight (file (4, 8) float32, model (4, 8) float64)" in (
        text
    )
    assert "fc2.weight (file (8, 3) float32, model (8, 5) float32)" in text
    assert "Nothing was changed. Build the model with the arguments it was saved with" in text


def test_long_lists_are_cut(saved):
    path, net, _, _ = saved
    many = {f"layer.{i}": from_numpy(np.zeros(1)) for i in range(40)}
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path, model=Changed(net, lambda state: state.update(many)))
    assert "40 missing in the file: layer.0, layer.1, layer.2, layer.3, layer.4 and 35 more" in (
        str(caught.value)
    )


def test_optimizer_or_schedule_that_does_not_fit_changes_nothing(saved, make_run, make_loader):
    path = saved[0]
    net, optimizer, _ = make_run(seed=1)
    before, state = arrays(net), random.get_state()
    names = [[p] for p in net.parameters()]
    split = SGD([{"params": group} for group in names])
    with pytest.raises(CheckpointError, match=r"nothing was changed: SGD.load_state_dict: .*3 gro"):
        load_checkpoint(path, model=net, optimizer=split)
    other = LinearLR(optimizer)
    with pytest.raises(CheckpointError, match="state of LinearLR, got SequentialLR"):
        load_checkpoint(path, model=net, optimizer=optimizer, schedule=other)
    assert same(arrays(net), before)
    assert optimizer.state_dict()["state"] == {}
    assert random.get_state() == state


def test_parts_that_were_not_saved_are_named(tmp_path, make_run):
    net, optimizer, schedule = make_run()
    path = tmp_path / "x"
    save_checkpoint(path, model=net, progress={})
    with pytest.raises(CheckpointError, match=r"with optimizer state, got one without .*Load with"):
        load_checkpoint(path, model=net, optimizer=optimizer)
    with pytest.raises(CheckpointError, match="with schedule state, got one without"):
        load_checkpoint(path, model=net, schedule=schedule)


def test_floats_come_back_to_the_bit(tmp_path, make_net):
    values = [0.1, 1 / 3, 1e-300, 2**-1074, 123456789.123456789]
    save_checkpoint(tmp_path / "x", model=make_net(), progress={"values": values})
    assert read_progress(tmp_path / "x")["values"] == values
    assert json.loads(json.dumps(values)) == values
