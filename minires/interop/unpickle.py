"""A reader of pickles that cannot run anything: it knows data, and a short list of names.

A pickle is a program for a small stack machine, and Python's own machine can be told to import
any module and call anything in it. This one imports nothing and calls nothing that a file names.
It interprets the opcodes that build containers, numbers and strings; a global (``GLOBAL``,
``STACK_GLOBAL``) becomes its dotted name as text if it is on the list of the caller, and is
refused by that name if not. ``REDUCE``, "call this with these arguments", looks the name up in
the caller's table of functions. Opcodes that make instances or fetch globals in other ways are
refused too.

A byte of a pickle can make a set of 200 bytes, or call a function once more with arguments that
stand there already. What is made is counted, so that memory and time stay in proportion to the size
of the file. A container may also stand in another one twice, and that one twice in the next: then a
few bytes are more than any program can walk through, so what is walked through is counted as well.

The opcodes are documented in the standard library: :mod:`pickletools`, which also decodes them.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Collection, Mapping
from typing import Any

from minires.errors import CheckpointError, printable

Functions = Mapping[str, Callable[..., Any]]


class Global(str):
    """The dotted name of a class, function or dtype in a pickle; nothing more than the name."""

    __slots__ = ()


class Stateful:
    """An object that a function of the caller's table made, and that a pickle then gives a state
    (``BUILD``): what a class does in ``__setstate__``."""

    def set_state(self, state: Any) -> None:
        """Take what the pickle says.

        Raises:
            ValueError, TypeError: it does not fit.
        """
        raise NotImplementedError


class Refused(CheckpointError):
    """A pickle that asks for more than data; ``what`` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(f"unpickle: refused {what}; nothing was run")
        self.what = what


class Malformed(CheckpointError):
    """Bytes that are no pickle, or only a part of one."""


def unpickle(
    data: bytes,
    *,
    functions: Functions,
    names: Collection[str] = (),
    persistent: Callable[[Any], Any] | None = None,
    size: int | None = None,
) -> Any:
    """The object that a pickle describes, made of dicts, lists, tuples, sets, numbers and text.

    Args:
        data: the pickle.
        functions: what ``REDUCE`` may call, by dotted name.
        names: globals that may appear without being called; they are read as :class:`Global`.
        persistent: called for ``BINPERSID`` with the identifier, for its object.
        size: bytes of the file that the pickle stands in; what is made is bounded by it.

    Attributes that the pickle would set on a dict (``BUILD``) are left out. What a function made
    may take them: see :class:`Stateful`.

    >>> import pickle
    >>> unpickle(pickle.dumps({"epoch": 3}), functions={})
    {'epoch': 3}
    >>> unpickle(pickle.dumps(print), functions={})
    Traceback (most recent call last):
    minires.interop.unpickle.Refused: unpickle: refused builtins.print; nothing was run

    Raises:
        Refused: a global, call or opcode beyond that.
        Malformed: no pickle, a damaged one, one that makes much more than its size, or containers
            too deep within each other.
    """
    allowance = _FREE + (len(data) if size is None else size) // _BYTES_EACH
    machine = _Machine(functions, names, persistent, allowance)
    try:
        for opcode, argument, _ in pickletools.genops(data):
            machine.step(opcode.name, argument)
        content = machine.stack.pop()
        _check_walk(content, _WALKED * allowance)
        return content
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, Warning) as error:
        # Warning: about an odd escape in a text, where warnings are errors
        if isinstance(error, CheckpointError):
            raise
        raise Malformed(f"{type(error).__name__}: {error}") from error
    except MemoryError:
        del machine
    # Raised anew when all that was made is free again: Python 3.11 leaves a "with" block by making
    # a number, and if there is no memory for that, it tries again without end.
    raise MemoryError


_NUMBERS = ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT")
_TEXTS = ("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE")
_LONGER = ("BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8")
_VALUES = frozenset((*_NUMBERS, *_TEXTS, *_LONGER))  # opcodes that push their argument
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_SET": set}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_COLLECT: dict[str, Callable[[list[Any]], Any]] = {  # from what stands above the mark
    "TUPLE": tuple,
    "LIST": lambda items: items,
    "FROZENSET": lambda items: frozenset(map(_key, items)),
    "DICT": lambda items: dict(_pairs(items)),
}
_IGNORED = ("PROTO", "FRAME", "STOP")

# What opcodes make is counted in units of an empty tuple or list, some 60 bytes. Every opcode of a
# pickle that Python writes has operands, a place in the memo, items: four bytes for each are few.
# A list of one item has 120 bytes, a dict of one entry 230, a set as many; each further entry of a
# large one has up to 100.
_FREE, _BYTES_EACH = 1 << 18, 4
_OF_A_LIST, _OF_A_TABLE, _OF_A_CALL = 2, 4, 8
_MOST_MARKS = 10_000  # within each other
_DEEPEST = 200  # containers within each other: programs walk through them by calls within calls
_WALKED = 8  # entries that such a walk may meet, for each unit
_LARGEST_KEY = 2**61 - 1  # from here on, integers have the hashes of smaller ones


class _Machine:
    """Stack, memo, and what each opcode does to them."""

    def __init__(
        self,
        functions: Functions,
        names: Collection[str],
        persistent: Callable[[Any], Any] | None,
        allowance: int,
    ) -> None:
        self.functions, self.names, self.persistent = functions, names, persistent
        self.allowance, self.left = allowance, allowance
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks under each mark
        self.memo: list[Any] = []  # numbered from 0 on, as Python does it
        self.memo_beyond: dict[int, Any] = {}  # numbered in any other way
        self.globals: dict[str, Global] = {}  # each name once

    def spend(self, units: int) -> None:
        """Count what is about to be made."""
        self.left -= units
        if self.left < 0:
            raise Malformed(
                f"it makes more than {self.allowance:,} containers and calls, too many for its size"
            )

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _VALUES:
            self.stack.append(argument)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _EMPTY:
            self.spend(_OF_A_LIST if name == "EMPTY_LIST" else _OF_A_TABLE)
            self.stack.append(_EMPTY[name]())
        elif name in _COLLECT:
            items = self.above_mark()
            self.spend(1 if name in ("TUPLE", "LIST") else _OF_A_TABLE + len(items))
            self.stack.append(_COLLECT[name](items))
        elif name in _SHORT_TUPLES:
            self.spend(1)
            n = _SHORT_TUPLES[name]
            items = self.stack[-n:]
            if len(items) < n:
                raise IndexError("a tuple of more than there is")
            self.stack[-n:] = [tuple(items)]
        elif name not in _IGNORED:
            method = getattr(self, f"do_{name}", None)
            if method is None:
                raise Refused(f"the opcode {name}")
            method(argument)

    def above_mark(self) -> list[Any]:
        """What was pushed since the last mark, taken off together with it."""
        items, self.stack = self.stack, self.below.pop()
        return items

    # -- stack and memo

    def do_MARK(self, _: None) -> None:
        if len(self.below) >= _MOST_MARKS:
            raise Malformed(f"more than {_MOST_MARKS:,} marks within each other")
        self.below.append(self.stack)
        self.stack = []

    def do_POP(self, _: None) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.above_mark()

    def do_POP_MARK(self, _: None) -> None:
        self.above_mark()

    def do_DUP(self, _: None) -> None:
        self.stack.append(self.stack[-1])

    def do_MEMOIZE(self, _: None) -> None:
        self.memo.append(self.stack[-1])

    def do_PUT(self, index: int) -> None:
        if index == len(self.memo):
            self.memo.append(self.stack[-1])
        elif 0 <= index < len(self.memo):
            self.memo[index] = self.stack[-1]
        else:
            self.spend(2)
            self.memo_beyond[index] = self.stack[-1]

    def do_GET(self, index: int) -> None:
        within = 0 <= index < len(self.memo)
        self.stack.append(self.memo[index] if within else self.memo_beyond[index])

    do_BINPUT = do_LONG_BINPUT = do_PUT
    do_BINGET = do_LONG_BINGET = do_GET

    # -- filling containers

    def do_APPENDS(self, _: None) -> None:
        items = self.above_mark()
        _expect(self.stack[-1], list).extend(items)

    def do_APPEND(self, _: None) -> None:
        item = self.stack.pop()
        _expect(self.stack[-1], list).append(item)

    def do_ADDITEMS(self, _: None) -> None:
        items = self.above_mark()
        self.spend(len(items))
        _expect(self.stack[-1], set).update(map(_key, items))

    def do_SETITEMS(self, _: None) -> None:
        items = self.above_mark()
        self.spend(len(items) // 2)
        _expect(self.stack[-1], dict).update(_pairs(items))

    def do_SETITEM(self, _: None) -> None:
        self.spend(1)
        value, key = self.stack.pop(), self.stack.pop()
        _expect(self.stack[-1], dict)[_key(key)] = value

    def do_BUILD(self, _: None) -> None:
        state = self.stack.pop()
        if isinstance(self.stack[-1], Stateful):
            self.spend(_OF_A_CALL)
            self.stack[-1].set_state(state)
        elif not isinstance(self.stack[-1], dict):
            raise Refused(f"attributes set on a {type(self.stack[-1]).__name__}")

    # -- what could run code elsewhere

    def do_GLOBAL(self, argument: str) -> None:
        self.push_global(*argument.split(" ", 1))

    def do_STACK_GLOBAL(self, _: None) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.push_global(module, name)

    def push_global(self, module: Any, name: Any) -> None:
        dotted = f"{_expect(module, str)}.{_expect(name, str)}"
        if dotted not in self.functions and dotted not in self.names:
            raise Refused(printable(dotted, _SHOWN))
        self.stack.append(self.globals.setdefault(dotted, Global(dotted)))

    def do_INST(self, argument: str) -> None:
        raise Refused(printable(".".join(argument.split(" ", 1)), _SHOWN))

    def do_REDUCE(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or function not in self.functions:
            what = function if isinstance(function, str) else f"a {type(function).__name__}"
            raise Refused(f"a call of {printable(what, _SHOWN)}")
        # an argument may be a large container that the pickle names once more: it will be copied
        self.spend(_OF_A_CALL + len(_expect(arguments, tuple)))
        given = [a for a in arguments if isinstance(a, dict | list | tuple | str)]
        self.spend(sum(map(len, given)))
        self.stack.append(self.functions[function](*arguments))

    def do_BINPERSID(self, _: None) -> None:
        if self.persistent is None:
            raise Refused("an object outside the pickle")
        self.spend(_OF_A_CALL)
        self.stack.append(self.persistent(self.stack.pop()))


def _expect(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"a {type(value).__name__} in the wrong place")
    return value


def _key(value: Any) -> Any:
    """A key of a dict or item of a set. To hash nested tuples can take for ever; and integers of
    the same hash are compared with each other, each with all."""
    if isinstance(value, int) and abs(value) >= _LARGEST_KEY:
        raise ValueError("an integer of more than 61 bits as a key")
    return _expect(value, (str, bytes, int, float, type(None)))


def _pairs(items: list[Any]) -> list[tuple[Any, Any]]:
    if len(items) % 2:
        raise ValueError("a key without a value")
    return list(zip(map(_key, items[::2]), items[1::2]))


def _check_walk(content: Any, most: int) -> None:
    """Refuse what later programs could not walk through: too deep, endless, or shared so often that
    there are more than ``most`` entries if each is counted wherever it stands.

    The walk has a stack of its own. Containers without containers in them are not remembered but
    looked through once more: ``most`` bounds that too, and they are nearly all that there are.
    """
    met = 0  # entries so far, each as often as it stands somewhere
    known: dict[int, tuple[int, int]] = {}  # id -> depth, entries; of containers with containers
    within: dict[int, list[Any]] = {}  # id -> what is left to do, entries before, depth: unfinished

    def enter(value: Any) -> int:
        """The depth of what is known; 0 for what has to be walked through first."""
        nonlocal met
        if id(value) in known:
            depth, entries = known[id(value)]
            met += entries
        else:
            items = value.values() if isinstance(value, dict) else value
            met += len(items)
            parts = [item for item in items if isinstance(item, dict | list | tuple)]
            depth = 0 if parts else 1
            if id(value) in within:
                raise Malformed("a container that is within itself")
            if parts:
                within[id(value)] = [parts, met - len(items), 1]
        if met > most:
            raise Malformed(
                f"containers that stand in others so often that there are over {most:,}"
            )
        if len(within) + depth > _DEEPEST:
            raise Malformed(f"more than {_DEEPEST} containers within each other")
        return depth

    if isinstance(content, dict | list | tuple):
        enter(content)
    while within:
        key, (parts, before, depth) = next(reversed(within.items()))
        if parts:
            depth = enter(parts[-1])
            if not depth:
                continue
        else:
            del within[key]
            known[key] = depth, met - before
            if not within:
                return
            key = next(reversed(within))  # the container that it stands in
        outer = within[key]
        outer[0].pop()
        outer[2] = max(outer[2], depth + 1)


_SHOWN = 100  # characters of a name
