"""Memory that is shared with other libraries: NumPy arrays, ``__array__``, DLPack, images."""

from __future__ import annotations

import importlib
import subprocess
import sys

import numpy as np
import pytest

import minires as mr
from minires.errors import ArgumentError, DeviceError, DTypeError, GraphError, ShapeError

NO_GPU = not mr.cuda.is_available()


def block():
    return np.arange(24.0).reshape(2, 3, 4)


SHARED = {
    "contiguous": block(),
    "transposed": block().transpose(2, 0, 1),
    "strided": block()[:, ::2, 1::2],
    "reversed": block()[::-1, :, ::-1],
    "column-major": np.asfortranarray(block()),
    "broadcast": np.broadcast_to(block()[:1], (2, 3, 4)),
    "scalar": np.array(3.0),
    "empty": block()[:0],
    "float32": block().astype(np.float32),
    "labels": np.arange(6),
    "bytes": np.arange(6, dtype=np.uint8),
    "bools": block() > 3,
}


@pytest.mark.parametrize("name", SHARED)
def test_from_numpy_shares_memory_whatever_its_order(name):
    array = SHARED[name]
    x = mr.from_numpy(array)
    assert (x.shape, x.dtype) == (array.shape, array.dtype)
    assert x.numpy().strides == array.strides
    assert np.shares_memory(x.numpy(), array) or not array.size
    np.testing.assert_array_equal(x.numpy(), array)


def test_changes_are_seen_on_both_sides():
    array = block()
    x = mr.from_numpy(array[:, ::-1])
    array[0, 0, 0] = -1
    assert x[0, -1, 0].item() == -1
    x[1, 0, 0] = -2
    assert array[1, -1, 0] == -2


def test_read_only_memory_stays_so():
    array = block()
    array.flags.writeable = False
    x = mr.from_numpy(array)
    assert x.numpy() is array
    assert (x + 1).sum().item() == array.sum() + 24
    with pytest.raises(ArgumentError, match="looks at read-only memory"):
        x.add_(1)
    assert not np.from_dlpack(x).flags.writeable


@pytest.mark.parametrize(
    "array",
    [
        np.frombuffer(bytes(17), np.float32, offset=1),
        np.zeros(3, [("flag", np.int8), ("value", np.float32)])["value"],
        np.zeros(3, [("value", np.float64), ("flag", np.int32)])["value"],
    ],
    ids=["odd offset", "unaligned field", "strides between entries"],
)
def test_from_numpy_says_when_it_copies(array):
    with pytest.warns(UserWarning, match=r"from_numpy: this array is not aligned, so it is copied"):
        x = mr.from_numpy(array)
    assert not np.shares_memory(x.numpy(), array)
    assert x.numpy().flags.aligned
    np.testing.assert_array_equal(x.numpy(), array)
    mr.from_numpy(array.copy())  # no warning


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([1.0], "from_numpy: expected a numpy.ndarray, got list"),
        (np.ones(2, np.float16), "float16"),
        (np.ones(2, ">f4"), ">f4"),
        (np.array(["a"]), "<U1"),
    ],
)
def test_what_from_numpy_does_not_take(given, words):
    with pytest.raises(DTypeError, match=words):
        mr.from_numpy(given)


# **** __array__ ****


def test_numpy_takes_tensors():
    x = mr.ones(2, 3)
    assert np.shares_memory(np.asarray(x), x.numpy())
    assert not np.shares_memory(np.array(x), x.numpy())
    assert not np.shares_memory(np.asarray(x, copy=True), x.numpy())
    assert np.asarray(x, dtype=np.float64).dtype == np.float64
    with pytest.raises(ArgumentError, match="a cast to float64 needs a copy, got copy=False"):
        np.asarray(x, dtype=np.float64, copy=False)


@pytest.mark.parametrize("take", [np.asarray, np.from_dlpack, lambda x: x.numpy()])
def test_what_requires_grad_is_not_given_away(take):
    with pytest.raises(GraphError, match=r"does not require grad, got one that does\. Use \.detac"):
        take(mr.ones(2, requires_grad=True))
    assert take(mr.ones(2, requires_grad=True).detach()).tolist() == [1, 1]


# **** DLPack ****


def test_dlpack_with_numpy_shares_memory_both_ways():
    array = block()[:, ::2]
    x = mr.from_dlpack(array)
    x[0, 0, 0] = -1
    assert array[0, 0, 0] == -1
    back = np.from_dlpack(x)
    assert np.shares_memory(back, array)
    assert back.strides == array.strides
    assert mr.from_dlpack(x).numpy().ctypes.data == array.ctypes.data


def test_a_reversed_view_is_not_exported():
    x = mr.from_numpy(block()[::-1])
    with pytest.raises(
        ArgumentError, match=r"memory in ascending order, got a reversed view\. Use"
    ):
        np.from_dlpack(x)
    np.testing.assert_array_equal(np.from_dlpack(x.contiguous()), block()[::-1])


class Foreign:
    """An object that says where its memory is."""

    def __init__(self, kind):
        self.kind = kind

    def __dlpack_device__(self):
        return self.kind, 0

    def __dlpack__(self, **options):
        raise AssertionError("nobody should get this far")


def test_dlpack_from_elsewhere():
    with pytest.raises(DTypeError, match="an object with __dlpack__, got int"):
        mr.from_dlpack(3)
    with pytest.raises(DeviceError, match="memory of a CPU or CUDA GPU, got kind 8"):
        mr.from_dlpack(Foreign(8))


@pytest.mark.skipif(not NO_GPU, reason="there is a GPU")
def test_without_a_gpu_its_memory_is_a_clear_error():
    for call in (
        lambda: mr.from_dlpack(Foreign(2)),
        lambda: mr.tensor(Foreign(2)),
        lambda: mr.ones(1).cuda(),
        lambda: mr.ones(1, device="cuda"),
    ):
        with pytest.raises(DeviceError, match=r"(?s)CuPy.*(minires\[cuda13\]|nvidia-smi)"):
            call()


def test_dlpack_with_cupy_shares_memory_both_ways(on_gpu):
    cupy = importlib.import_module("cupy")
    array = cupy.arange(6.0)
    x = mr.from_dlpack(array)
    array[0] = -1
    assert x[0].item() == -1
    cupy.from_dlpack(x)[1] = -2
    assert x[1].item() == -2
    with pytest.raises(DeviceError, match=r"expected a tensor on cpu, got cuda:0\. Use \.cpu\(\)"):
        np.asarray(x)


# **** PyTorch ****


def test_parity_of_memory_with_pytorch():
    torch = pytest.importorskip("torch")
    theirs = torch.arange(24.0).reshape(2, 3, 4).permute(2, 0, 1)[:, :, 1:]
    ours = mr.from_dlpack(theirs)
    assert ours.numpy().strides == tuple(4 * n for n in theirs.stride())
    theirs[0, 0, 0] = -1
    assert ours[0, 0, 0].item() == -1
    ours[3, 1, 1] = -2
    assert theirs[3, 1, 1] == -2
    for back in (torch.from_dlpack(ours), torch.as_tensor(ours), torch.from_numpy(ours.numpy())):
        assert back.data_ptr() == theirs.data_ptr()
        assert torch.equal(back, theirs)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_parity_of_dtypes(dtype):
    torch = pytest.importorskip("torch")
    theirs = torch.ones(3, dtype=getattr(torch, dtype))
    for ours in (mr.from_dlpack(theirs), mr.tensor(theirs), mr.Tensor(theirs)):
        assert ours.dtype == np.dtype(dtype)
        assert torch.from_dlpack(ours).dtype == theirs.dtype
    copy = mr.tensor(theirs)
    theirs.zero_()
    assert copy.tolist() == [1, 1, 1]


def test_parity_of_refusals():
    torch = pytest.importorskip("torch")
    graded = torch.ones(2, requires_grad=True)
    for take in (mr.from_dlpack, mr.tensor):
        with pytest.raises(BufferError, match=r"require gradient, use tensor\.detach"):
            take(graded)
    with pytest.raises(GraphError, match="does not require grad"):
        torch.from_dlpack(mr.ones(2, requires_grad=True))
    with pytest.raises(ArgumentError, match="reversed view"):
        torch.from_dlpack(mr.from_numpy(block()[::-1]))
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(DTypeError, match=r"dtype"):
            mr.from_dlpack(torch.ones(2, dtype=dtype))


# **** images ****


def test_from_nhwc_is_a_view():
    images = np.random.default_rng(0).random((2, 5, 4, 3), np.float32)
    x = mr.from_nhwc(images)
    assert x.shape == (2, 3, 5, 4)
    np.testing.assert_array_equal(x.numpy(), images.transpose(0, 3, 1, 2))
    assert np.shares_memory(x.numpy(), images)
    assert mr.channels_last(x) is x, "the order in which kernels work"
    w = mr.randn(4, 3, 3, 3)
    np.testing.assert_allclose(
        mr.conv2d(x, w).numpy(), mr.conv2d(x.contiguous(), w).numpy(), rtol=1e-4, atol=1e-5
    )


def test_from_nhwc_of_other_things():
    assert mr.from_nhwc(np.zeros((1, 2, 2, 3), np.uint8)).dtype == np.uint8
    flipped = np.zeros((1, 4, 4, 3), np.float32)[:, ::-1, ::2]
    assert np.shares_memory(mr.from_nhwc(flipped).numpy(), flipped)
    x = mr.ones(1, 2, 3, 4, requires_grad=True)
    (mr.from_nhwc(x) * 2).sum().backward()
    assert x.grad.tolist() == mr.full((1, 2, 3, 4), 2.0).tolist()


@pytest.mark.parametrize(
    ("images", "kind", "words"),
    [
        (np.zeros((32, 32, 3)), ShapeError, r"\(n, h, w, c\), got \(32, 32, 3\)\. Add the batch"),
        (np.zeros((2, 3)), ShapeError, r"from_nhwc: expected images of shape .* got \(2, 3\)$"),
        ([[[[0.0]]]], DTypeError, r"an array or a tensor \(n, h, w, c\), got list"),
        (np.zeros((1, 2, 2, 3), np.float16), DTypeError, "float16"),
    ],
)
def test_from_nhwc_errors(images, kind, words):
    with pytest.raises(kind, match=words):
        mr.from_nhwc(images)


def test_sharing_needs_nothing_heavy():
    code = (
        "import sys, numpy as np, minires as mr; mr.from_dlpack(np.ones(2)); np.from_dlpack("
        "mr.ones(2)); mr.from_nhwc(np.ones((1, 2, 2, 3))); mr.cuda.is_available();"
        "print([m for m in ('numba', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
