"""PyTorch's collective functions, on any number of ranks."""

import datetime
import sys

import numpy as np

import minires as mr
from minires import distributed as dist
from minires import errors

assert "mpi4py" not in sys.modules, "importing minires started MPI"
assert not dist.is_initialized()
assert dist.is_available()
given = int(sys.argv[1])  # how many ranks the test started
dist.init_process_group(
    "gloo", init_method="env://", timeout=datetime.timedelta(60), world_size=given
)
assert dist.is_initialized()
assert dist.get_backend() == "gloo"
dist.init_process_group("cpu:gloo,cuda:nccl", rank=dist.get_rank())
assert dist.get_backend() == "cpu:gloo,cuda:nccl"
rank, size = dist.get_rank(), dist.get_world_size()
assert size == given
assert dist.get_local_rank() == rank
assert ("mpi4py" in sys.modules) == (size > 1)
ranks = range(size)
Op = dist.ReduceOp


def refused(kind, text, function, *args, **options):
    """The call raises an error of this kind, with this text in it."""
    raised = None
    try:
        function(*args, **options)
    except Exception as error:
        raised = error
    assert type(raised) is kind, repr(raised)
    assert text in str(raised), str(raised)


def equal(tensor, expected, dtype=None):
    array = tensor.numpy() if isinstance(tensor, mr.Tensor) else tensor
    np.testing.assert_array_equal(array, expected, strict=dtype is not None)
    assert dtype is None or array.dtype == dtype


# all_reduce: every dtype, every operation
ops = {Op.SUM: np.add, Op.PRODUCT: np.multiply, Op.MAX: np.maximum, Op.MIN: np.minimum}
for dtype in ("f4", "f8", "c8", "c16", "u1", "u2", "u4", "i1", "i2", "i4", "i8"):
    for op, whole in ops.items():
        x = mr.tensor(np.array([[rank + 1, 2], [3, size - rank]], dtype))
        if op in (Op.MAX, Op.MIN) and dtype[0] == "c":
            refused(errors.DTypeError, "real numbers, which have an order", dist.all_reduce, x, op)
            continue
        dist.all_reduce(x, op)
        rows = [np.array([[r + 1, 2], [3, size - r]], dtype) for r in ranks]
        equal(x, whole.reduce(rows).astype(dtype), dtype)
for op, some in ((Op.SUM, True), (Op.MAX, True), (Op.PRODUCT, size == 1), (Op.MIN, size == 1)):
    x = mr.tensor([rank == 0, True, False])
    dist.all_reduce(x, op)
    equal(x, [some, True, False])
for dtype in ("f4", "f8", "c8", "c16"):
    x = mr.tensor(np.array([rank, 1.0], dtype))
    dist.all_reduce(x, Op.AVG)
    equal(x, np.array([sum(ranks) / size, 1], dtype), dtype)

# any strides, 0-d, nothing at all; what is around is left alone
whole = mr.tensor(np.full((4, 6), rank + 1.0))
dist.all_reduce(whole[::2, 1::3])
expected = np.full((4, 6), rank + 1.0)
expected[::2, 1::3] = sum(ranks) + size
equal(whole, expected)
x = mr.tensor(np.arange(6.0).reshape(2, 3) * rank).t()
dist.all_reduce(x)
equal(x, np.arange(6.0).reshape(2, 3).T * sum(ranks))
x = mr.tensor(float(rank))
dist.all_reduce(x)
assert x.item() == sum(ranks)
dist.all_reduce(mr.zeros(0, 3))
images = mr.randn(2, 3, 4, 4)  # channels last in memory, as convolutions leave them
y = mr.conv2d(images, mr.ones(2, 3, 3, 3), padding=1)
before = y.numpy().copy()
dist.all_reduce(y)
both = [mr.empty(2, 2, 4, 4) for _ in ranks]
dist.all_gather(both, mr.tensor(before))
np.testing.assert_allclose(y.numpy(), sum(b.numpy() for b in both), rtol=1e-5, atol=1e-5)

# in place: versions, readers that have not read yet, gradients
x = mr.tensor([1.0, 2.0], requires_grad=True)
loss = (x * x).sum()
dist.broadcast(x, size - 1)
if size > 1:
    refused(errors.GraphError, "x", loss.backward)
x = mr.randn(2, 3, 4, 4)
later = mr.conv2d(x, mr.ones(1, 3, 1, 1))  # lazy
value = x.numpy().sum(axis=1, keepdims=True)
dist.all_reduce(x)
np.testing.assert_allclose(later.numpy(), value, rtol=1e-5, atol=1e-5)
w = mr.tensor([1.0], requires_grad=True)
(w * (rank + 1)).backward()
dist.all_reduce(w.grad)
assert w.grad.item() == sum(ranks) + size
for function, args in (
    (dist.all_reduce, (w * 2,)),
    (dist.broadcast, (w * 2,)),
    (dist.all_gather, ([mr.ones(1) for _ in ranks], w * 2)),
    (dist.all_gather, ([w * 2 for _ in ranks], mr.ones(1))),
    (dist.all_gather_into_tensor, (mr.ones(size), w * 2)),
):
    text = "a leaf, since collective operations have no derivative, got the result of"
    refused(errors.GraphError, text, function, *args)
with mr.no_grad():
    dist.all_reduce(w * 2)
array = np.full(3, rank)
dist.all_reduce(array)  # as tensor.data is
equal(array, [sum(ranks)] * 3)

# broadcast and all_gather: also dtypes that have no sum
for dtype in ("f4", "c16", "?", "i8"):
    x = mr.tensor(np.array([[rank % 2, 1]], dtype)).t()
    parts = [mr.empty(2, 1, dtype=dtype) for _ in ranks]
    dist.all_gather(parts, x)
    for r, part in enumerate(parts):
        equal(part, np.array([[r % 2], [1]], dtype), dtype)
    dist.broadcast(x, size - 1)
    equal(x, np.array([[(size - 1) % 2], [1]], dtype), dtype)
half = np.full(2, rank, np.float16)
dist.broadcast(half, size - 1)
equal(half, [size - 1] * 2)
fix = "Convert the tensor with .float(), which loses nothing"
refused(errors.DTypeError, fix, dist.all_reduce, half)
for shape in ((size, 2, 3), (size * 2, 3)):
    out = mr.empty(*shape)
    dist.all_gather_into_tensor(out, mr.full((2, 3), float(rank)))
    equal(out, np.repeat(np.arange(size), 6).reshape(shape))
out = mr.empty(size)
dist.all_gather_into_tensor(out, mr.tensor(float(rank)))
equal(out, ranks)

# objects
things = [None] * size
dist.all_gather_object(things, {"rank": rank})
assert things == [{"rank": r} for r in ranks]
names = ["a", 1] if rank == size - 1 else [None, None]
dist.broadcast_object_list(names, size - 1, device="cpu")
assert names == ["a", 1]
dist.barrier(device_ids=[0])

# what is refused on each rank, before it asks the others
x = mr.ones(2)
frozen = np.ones(2)
frozen.flags.writeable = False
for kind, text, function, args in (
    (errors.ArgumentError, "op one of ReduceOp.SUM", dist.all_reduce, (x, "sum")),
    (errors.ArgumentError, "group None", dist.all_reduce, (x, Op.SUM, 1)),
    (errors.ArgumentError, "leave out async_op", dist.all_reduce, (x, Op.SUM, None, True)),
    (errors.DTypeError, "tensor a Tensor", dist.all_reduce, ([1.0],)),
    (errors.DTypeError, "floats for ReduceOp.AVG", dist.all_reduce, (mr.ones(2).int(), Op.AVG)),
    (errors.DTypeError, "tensor of numbers", dist.broadcast, (np.array(["a"], object),)),
    (errors.ArgumentError, "read-only memory", dist.all_reduce, (mr.ones(1).expand(3),)),
    (errors.ArgumentError, "read-only memory", dist.broadcast, (frozen,)),
    (errors.ArgumentError, "src an integer", dist.broadcast, (x, size)),
    (errors.ArgumentError, "as many entries as ranks", dist.all_gather, ([x] * (size + 1), x)),
    (errors.ArgumentError, "as many entries as ranks", dist.all_gather_object, ((), 1)),
    (errors.ArgumentError, "object_list a list", dist.broadcast_object_list, ((1,),)),
    (errors.ShapeError, "shape (2,)", dist.all_gather, ([mr.ones(3) for _ in ranks], x)),
    (errors.DTypeError, "of float32", dist.all_gather, ([x.double() for _ in ranks], x)),
    (errors.ShapeError, "output_tensor", dist.all_gather_into_tensor, (mr.ones(1, 7), x)),
    (errors.ArgumentError, 'init_method "env://"', dist.init_process_group, (None, "tcp://a:1")),
    (errors.ArgumentError, "unknown backend 'glu'", dist.init_process_group, ("glu",)),
    (errors.ArgumentError, "timeout a timedelta", dist.init_process_group, (None, None, 3)),
    (errors.DistributedError, "mpiexec -n 9", dist.init_process_group, (None, None, None, 9)),
    (errors.DistributedError, "to be rank 9", dist.init_process_group, (None, None, None, -1, 9)),
):
    refused(kind, text, function, *args)

# what the ranks do does not fit together: the same error on all, and all go on
last = size - 1
if size > 1:
    mine = mr.ones(2 + (rank == last))
    text = f"the same shape on all ranks, got (2,) on rank 0 and (3,) on rank {last}"
    refused(errors.ShapeError, text, dist.all_reduce, mine)
    mine = mr.ones(2).double() if rank == last else mr.ones(2)
    text = f"the same dtype on all ranks, got float32 on rank 0 and float64 on rank {last}"
    refused(errors.DTypeError, text, dist.broadcast, mine)
    text = f"the same op on all ranks, got SUM on rank 0 and MAX on rank {last}"
    op = Op.MAX if rank == last else Op.SUM
    refused(errors.DistributedError, text, dist.all_reduce, x, op)
    text = f"the same src on all ranks, got 0 on rank 0 and 1 on rank {last}"
    refused(errors.DistributedError, text, dist.broadcast, x, int(rank == last))
    text = f"the same operation on all ranks, got all_reduce on rank 0 and barrier on rank {last}"
    function = dist.barrier if rank == last else lambda: dist.all_reduce(x)
    refused(errors.DistributedError, text, function)
dist.barrier()

# captured functions hold no collective operation
captured = mr.capture(lambda x: dist.all_reduce(x) or x * 2)
refused(
    errors.CaptureError,
    "all_reduce: expected no collective operation inside mr.capture, got all_reduce. Call it "
    "between captured functions, as fit(capture=True) does",
    lambda: [captured(mr.ones(2)) for _ in range(3)],
)

dist.destroy_process_group()
assert not dist.is_initialized()
print("done", flush=True)
