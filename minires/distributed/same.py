"""Whether all ranks have the same network, and how they come to have it.

Ranks that train together do the same steps from the same values. If one began with another network,
their operations would not fit together, or would, and give nonsense without a word. So names,
shapes and dtypes are compared before the first step, and the values themselves after each epoch:
each rank sends a digest of what it has, a few bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from minires.autograd import Variable
from minires.device import CPU, beside, device_of, move, zeros_on
from minires.distributed.group import Group, current_group
from minires.distributed.nccl import carrier
from minires.errors import DistributedError, message

PIECE = 8 << 20  # bytes that are sent together
ALIGNMENT = 16  # bytes: where arrays begin among them

Named = Iterable[tuple[str, Variable]]


def check_same_model(named: Named) -> None:
    """Compare names, order, shapes and dtypes of parameters and buffers, and which are frozen.

    Collective; all ranks get the same error. In a group of one nothing is compared.

    Args:
        named: pairs of a name and a tensor, as ``model.named_parameters()`` gives them.

    Raises:
        DistributedError: names the first tensor that differs from that of rank 0, and the rank.
    """
    group = current_group()
    if group.size == 1:
        return
    own = [(name, _described(tensor)) for name, tensor in named]
    digests = group.gather(_digest(repr(own).encode()))
    if (digests == digests[0]).all():
        return
    all_ranks = group.gather_objects(own)
    for rank, theirs in enumerate(all_ranks):
        if theirs != all_ranks[0]:
            expected, got = _first_difference(all_ranks[0], theirs)
            fix = "All ranks must build the same network, with the same options."
            got = f"{got} on rank {rank}"
            raise DistributedError(message("distributed", f"{expected} on all ranks", got, fix=fix))


def _described(tensor: Variable) -> str:
    frozen = "" if tensor.requires_grad or tensor.dtype.kind != "f" else " (no gradient)"
    return f"{tensor.shape} {tensor.dtype}{frozen}"


def _first_difference(ours: list[tuple[str, str]], theirs: list[tuple[str, str]]) -> Any:
    """What rank 0 has, and another one instead, at the first place where they differ."""
    for first, second in zip(ours, theirs):
        if first != second:
            return " ".join(first), " ".join(second)
    if len(ours) > len(theirs):
        return " ".join(ours[len(theirs)]), "nothing"
    return f"{len(ours)} tensors", f"another, {' '.join(theirs[len(ours)])},"


def check_same_values(named: Named) -> None:
    """Compare the values of parameters and buffers, to the last bit.

    Collective, of tensors that passed :func:`check_same_model`; all ranks get the same error.

    Args:
        named: pairs of a name and a tensor, on any device.

    Raises:
        DistributedError: names the first tensor that differs from that of rank 0, and the rank.
    """
    group = current_group()
    if group.size == 1:
        return
    tensors = dict(named)
    own = [_digest(_bytes(tensor._array).data) for tensor in tensors.values()]
    digests = group.gather(np.array(own, np.uint8).reshape(len(own), -1))
    differ = (digests != digests[0]).any(axis=2)  # (ranks, tensors)
    if not differ.any():
        return
    number = int(differ.any(axis=0).argmax())
    rank = int(differ[:, number].argmax())
    expected = f"the same {[*tensors][number]} on all ranks"
    fix = "Something changed it on one rank alone; set parameters and buffers on all, or on none."
    raise DistributedError(message("distributed", expected, f"another on rank {rank}", fix=fix))


def broadcast_state(tensors: Iterable[Variable], src: int = 0) -> None:
    """Write the values that rank ``src`` has into the tensors of all ranks, in place.

    Collective, of tensors that passed :func:`check_same_model`.

    Args:
        tensors: parameters and buffers, on any device; views of one memory are written each.
        src: the rank whose values all get.

    Raises:
        ArgumentError: a tensor is read-only; nothing was written.
    """
    group = current_group()
    if group.size == 1:
        return
    targets = [(t, t._to_write("broadcast", "a tensor")) for t in tensors]
    ends = np.cumsum([array.nbytes for _, array in targets]) // PIECE
    pieces: dict[Any, list[tuple[Variable, Any]]] = {}
    for end, target in zip(ends, targets):
        pieces.setdefault((end, target[0].device), []).append(target)
    for piece in pieces.values():
        _broadcast(piece, group, src)


def _broadcast(targets: list[tuple[Variable, Any]], group: Group, src: int) -> None:
    """Send arrays of one device together: each message by itself would take its time."""
    starts, size = [], 0
    for _, array in targets:
        starts.append(size)
        size += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
    device = device_of(targets[0][1])
    together = zeros_on(device, (size,), np.uint8)
    with beside((together,)):
        parts = [
            together[i : i + array.nbytes].view(array.dtype).reshape(array.shape)
            for i, (_, array) in zip(starts, targets)
        ]
        for part, (_, array) in zip(parts, targets):
            part[...] = array
        carrier(group, together).broadcast(together, src)
        for part, (tensor, array) in zip(parts, targets):
            if group.rank != src:
                array[...] = part
                tensor.bump_version()


def _bytes(array: Any) -> np.ndarray[Any, Any]:
    return np.ascontiguousarray(move(array, CPU)).reshape(-1).view(np.uint8)


def _digest(content: Any) -> np.ndarray[Any, Any]:
    return np.frombuffer(hashlib.blake2b(content, digest_size=16).digest(), np.uint8)
