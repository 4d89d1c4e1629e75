"""The operations of a group, on any number of ranks."""

import numpy as np

from minires.distributed import alone, current_group
from minires.distributed.group import Launched
from minires.errors import DistributedError, MiniresError, NaNError, ShapeError

group = current_group()
rank, size = group.rank, group.size
ranks = np.arange(size)


def raised(function, *args):
    try:
        function(*args)
    except Exception as error:
        return error
    raise AssertionError("no error")


# reduce: all operations, and memory that is not in order
for op, whole in (("sum", np.add), ("prod", np.multiply), ("max", np.maximum), ("min", np.minimum)):
    for dtype in ("float32", "float64", "int64", "complex128"):
        if op in ("max", "min") and dtype == "complex128":
            continue
        array = np.full((3, 2), rank + 2, dtype)
        group.reduce(array, op)
        np.testing.assert_array_equal(array, whole.reduce(ranks + 2))
plain = np.arange(24.0).reshape(4, 6)
for view in (np.s_[:, ::-2], np.s_[1, 2:3], np.s_[2:2], np.s_[...]):
    array, expected = plain * (rank + 1), plain * (rank + 1)
    expected[view] = plain[view] * (ranks + 1).sum()
    group.reduce(array[view])
    np.testing.assert_array_equal(array, expected)
mixed = plain * (rank + 1)  # one memory order on this rank, another on the next
mixed = mixed if rank % 2 else np.asfortranarray(mixed)
group.reduce(mixed)
np.testing.assert_array_equal(mixed, plain * (ranks + 1).sum())
bits = np.array([0.1, 1e16, -1e16]) * (rank + 1) / 3
group.reduce(bits)
assert (group.gather(bits.view(np.int64)) == bits.view(np.int64)).all(), "other bits on some rank"

# gather and broadcast: also what MPI has no name for, and what has no entries
for dtype in ("float16", "bool", "uint8", "complex64", "float64"):
    gathered = group.gather(np.full((2, 1), rank % 2, dtype)[:, ::-1])
    assert gathered.dtype == dtype
    assert gathered.shape == (size, 2, 1)
    np.testing.assert_array_equal(gathered[:, 1, 0], ranks % 2)
    array = np.array(rank == size - 1, dtype)
    group.broadcast(array, size - 1)
    assert array == 1
assert group.gather(np.empty((0, 3))).shape == (size, 0, 3)
sliced = np.full((4, 4), rank, np.int32)
group.broadcast(sliced[::2, ::2], size - 1)
assert sliced.sum() == 4 * (size - 1) + 12 * rank, "only every other entry was to be written"

# objects
assert group.gather_objects({"rank": rank, "none": None}) == [
    {"rank": r, "none": None} for r in ranks
]
big = "x" * 300_000
assert group.broadcast_object(big if rank == size - 1 else None, size - 1) == big
assert group.gather_objects("y" * rank * 1000) == ["y" * r * 1000 for r in ranks]
if size > 1:
    last = size - 1
    error = raised(group.gather_objects, (lambda: 0) if rank == last else 0)
    assert isinstance(error, DistributedError)
    expected = f"distributed: expected an object that can be pickled, got another on rank {last}"
    assert str(error).startswith(expected), error
    assert ("PicklingError" in str(error)) == (rank == last)
    error = raised(group.broadcast_object, lambda: 0, 0)
    assert "got another on rank 0" in str(error)
group.barrier()

# first: rank 0 alone
calls = []
assert group.first(lambda a: calls.append(a) or "made", 3) == "made"
assert calls == ([3] if rank == 0 else [])
error = raised(group.first, lambda: 1 // 0)
assert isinstance(error, ZeroDivisionError if rank == 0 else DistributedError), error

# agree: nobody, one, some, all
group.agree()
group.agree(None)
last = size - 1
error = raised(group.agree, ShapeError("mine") if rank == last else None)
assert type(error) is ShapeError
assert str(error) == ("mine" if rank == last else f"rank {last}: mine"), error


class Own(NaNError):
    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


error = raised(group.agree, Own(1, 2) if rank == last else None)
assert type(error) is (Own if rank == last else NaNError)
assert str(error).endswith("1 and 2")
error = raised(group.agree, KeyError("k") if rank == last else None)
assert type(error) is (KeyError if rank == last else DistributedError)
assert rank == last or str(error) == f"rank {last}: KeyError: 'k'"
assert str(raised(group.agree, ValueError(str(rank)))) == str(rank)
error = raised(group.agree, MiniresError("any") if rank == last else None)
assert type(error) is MiniresError

# what does not fit together, where MPI notices
if size == 2 and group.MPI.get_vendor()[0] == "MPICH":
    array = np.zeros(1 + rank)
    if rank == 0:
        group.broadcast(array)
    else:
        error = raised(group.broadcast, array)
        assert isinstance(error, DistributedError)
        expected = "distributed broadcast: expected the same operation on arrays of the same size "
        assert str(error).startswith(f"{expected}on all ranks, got "), error
        assert "\n" not in str(error)
    group.barrier()

# alone: each for itself, and back
with alone():
    assert current_group().size == 1
    assert current_group().rank == 0
    lonely = np.full(2, rank)
    current_group().reduce(lonely)
    assert (lonely == rank).all()
assert current_group() is group
assert isinstance(group, Launched) == (size > 1)
assert (group.local_rank, group.local_size) == (rank, size)
print("done", flush=True)
