"""Random draws on a GPU: the published numbers, their distribution, the seed, and replays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from gpu import put
from harness import host
from philox import philox

import minires as mr
from minires import random
from minires.device import Device
from minires.errors import CheckpointError
from minires.kernels.cuda import draws
from minires.kernels.cuda.source import text

# "kat_vectors" of the authors' library Random123: counter, key, the draws after ten rounds.
PUBLISHED = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


def words(line):
    return [int(word, 16) for word in line.split()]


@pytest.mark.parametrize(("counter", "key", "expected"), PUBLISHED)
def test_philox_gives_the_published_draws(counter, key, expected, on_gpu):
    import cupy

    source = text(Path(__file__).with_name("philox.cu"))
    kernel = cupy.RawModule(code=source, name_expressions=["philox_of"]).get_function("philox_of")
    found, (low, high) = put(np.zeros(4, np.uint32)), words(key)
    kernel(
        (1,), (1,), (put(np.array(words(counter), np.uint32)), np.uint64(low + high * 2**32), found)
    )
    assert found.get().tolist() == words(expected)
    assert philox(words(counter), low + high * 2**32) == words(expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("size", [1, 4, 1023, 1026])
def test_a_mask_is_that_of_the_counter(size, dtype, conditions):
    """Entry i of call n has the draw i % 4 of the counter (i / 4, 0, n)."""
    key, call = 0x0123456789ABCDEF, 2**32 + 5
    state, mask = put(np.array([key, call], np.uint64)), put(np.full(size, 7, dtype))
    draws.draw_mask(state, 0.25, 4 / 3, mask)
    at = [philox((k, 0, 5, 1), key) for k in range(-(-size // 4))]
    uniform = np.array(at).ravel()[:size] // 256 / 2.0**24
    np.testing.assert_array_equal(mask.get(), np.where(uniform >= 0.25, 4 / 3, 0).astype(dtype))
    assert state.get().tolist() == [key, call + 1]


def test_a_mask_of_several_launches_is_the_same(on_gpu, monkeypatch):
    masks = []
    for largest in (1 << 30, 8):
        monkeypatch.setattr(draws, "LARGEST", largest)
        masks.append(put(np.zeros((5, 6), np.float32)))
        draws.draw_mask(put(np.array([1, 2], np.uint64)), 0.5, 2, masks[-1])
    np.testing.assert_array_equal(masks[0].get(), masks[1].get())


def dropped(p=0.5, size=64, **options):
    return host(mr.dropout(mr.ones(size, device="cuda"), p, **options)).tolist()


def test_the_seed_decides(on_gpu):
    mr.manual_seed(4)
    first, second = dropped(), dropped()
    mr.randn(3)  # what is drawn on the host changes nothing
    third = dropped()
    assert first != second != third
    mr.manual_seed(4)
    assert [dropped(), dropped(), dropped()] == [first, second, third]
    mr.manual_seed(5)
    assert dropped() != first
    assert dropped(1.0) == [0] * 64


def test_generators_of_their_own(on_gpu):
    """Minires' draw on the GPU, NumPy's on the host, and neither touches the global one."""
    before = random.get_state()
    mine = [dropped(generator=mr.Generator().manual_seed(9)) for _ in range(2)]
    numpys = [dropped(generator=np.random.default_rng(9)) for _ in range(2)]
    assert mine[0] == mine[1] != numpys[0] == numpys[1]
    assert numpys[0] == host(mr.dropout(mr.ones(64), generator=np.random.default_rng(9))).tolist()
    assert random.get_state() == before


def test_the_distribution(on_gpu):
    kept = np.array(dropped(0.3, 20_000)) != 0
    assert abs(kept.mean() - 0.7) < 0.01
    assert abs((kept[1:] & kept[:-1]).mean() - 0.49) < 0.015  # neighbours are independent


def test_dropout2d_drops_whole_channels(on_gpu):
    y = host(mr.dropout2d(mr.ones(8, 8, 3, 3, device="cuda"), 0.5))
    assert (y == y[:, :, :1, :1]).all()
    assert set(y.ravel()) == {0, 2}


def test_the_state_counts_calls_and_survives_json(on_gpu):
    mr.manual_seed(1)
    start = random.get_state()
    assert start["gpu"]["calls"] == {}
    dropped()
    dropped()
    state = json.loads(json.dumps(random.get_state()))
    assert state["gpu"] == {"key": start["gpu"]["key"], "calls": {"cuda:0": 2}}
    array = random.draws_on(random.generator(), Device("cuda"))
    following = dropped()
    random.set_state(state)
    assert dropped() == following
    assert random.draws_on(random.generator(), Device("cuda")) is array  # graphs know its address
    random.set_state(start)
    assert random.get_state() == start
    with random.preserved():
        dropped()
    assert random.get_state() == start


def test_a_state_of_another_process(on_gpu):
    """One that is set before the first draw on the GPU counts, too."""
    mr.manual_seed(3)
    expected = [dropped(), dropped()][1]
    random._generator, before = mr.Generator(), random._generator
    try:
        gpu = {"key": before._key, "calls": {"cuda:0": 1}}
        random.set_state({**random.get_state(), "gpu": gpu})
        assert random.get_state()["gpu"] == gpu
        assert dropped() == expected
    finally:
        random._generator = before


@pytest.mark.parametrize(
    "gpu",
    [
        None,
        {},
        {"key": 1},
        {"key": 2**64, "calls": {}},
        {"key": -1, "calls": {}},
        {"key": True, "calls": {}},
        {"key": 1, "calls": {"cuda:0": 1.5}},
        {"key": 1, "calls": {"tpu": 1}},
        {"key": 1, "calls": 3},
    ],
)
def test_bad_states(gpu):
    before = random.get_state()
    with pytest.raises(CheckpointError, match=r"expected a state from minires\.random\.get_state"):
        random.set_state({**before, "gpu": gpu})
    assert random.get_state() == before


def test_a_state_from_before_there_were_draws_on_gpus():
    state = random.get_state()
    gpu = state.pop("gpu")
    mr.randn(2)
    random.set_state(state)
    assert random.get_state() == {**state, "gpu": gpu}


def test_checkpoints_hold_the_state(on_gpu, tmp_path):
    pytest.importorskip("safetensors")
    from minires.train.checkpoint import load_checkpoint, save_checkpoint

    net = mr.nn.Linear(2, 2)
    mr.manual_seed(6)
    dropped()
    save_checkpoint(tmp_path / "run.safetensors", model=net, progress={})
    expected = dropped()
    mr.manual_seed(7)
    load_checkpoint(tmp_path / "run.safetensors", model=net)
    assert random.get_state()["gpu"]["calls"] == {"cuda:0": 1}
    assert dropped() == expected
