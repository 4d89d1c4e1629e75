"""Modes: settings that hold inside a ``with`` block, or while the body of a function runs.

A setting (is anything recorded? which kernels run?) is a context variable: each thread and each
asyncio task has its own value, and a new task begins with those of the task that made it. The
variable holds a chain of :class:`Held`, one for each mode that was entered and not yet left; the
value that counts is that of the newest::

    with no_grad():             True <- False
        with enable_grad():     True <- False <- True

A setting may also be built in layers (:class:`Layered`): each mode then holds something around what
held before it.

Leaving a mode takes its own link out of the chain, wherever that is. So blocks may be left in
another order than that in which they were entered (two generators that take turns), and in another
thread or task (an ``ExitStack`` closed by a task of its own): the mode is then over in both.
"""

from __future__ import annotations

import functools
import inspect
import weakref
from collections.abc import AsyncGenerator, Callable, Generator
from contextvars import ContextVar, Token
from typing import Any, ClassVar

from .errors import ArgumentError, message, quoted


class Held:
    """A value that a setting was given, and what it was before.

    Attributes:
        value: what holds; once this is over, what holds without it.
        before: the link below, None for the first.
        by: the mode that was entered; None for a value that was set by a statement.
        over: whether the mode was left while the link stood in a chain.
    """

    __slots__ = ("__weakref__", "before", "by", "over", "token", "value")

    def __init__(self, value: Any, before: Held | None = None, by: Mode | None = None) -> None:
        self.value, self.before, self.by = value, before, by
        self.over = False
        self.token: Token[Held] | None = None

    def end(self) -> None:
        """Count no longer, in all the chains this stands in."""
        self.over, self.token = True, None
        del self.value

    def __getattr__(self, name: str) -> Any:
        """Called for what is not there: the value, after the end."""
        if name != "value" or self.before is None:
            raise AttributeError(name)
        return _living(self.before).value


class Layer(Held):
    """A value that is built around the value below: ``around(below)``, made when it is first asked
    for."""

    __slots__ = ("_around",)
    _built: ClassVar[weakref.WeakSet[Layer]] = weakref.WeakSet()

    def __init__(self, around: Callable[[Any], Any], before: Held, by: Mode) -> None:
        self.before, self.by = before, by
        self.over, self.token = False, None
        self._around = around

    def end(self) -> None:
        self.over, self.token = True, None
        for layer in [*Layer._built]:  # any of them may have been built around this one
            layer.rebuild()

    def rebuild(self) -> None:
        """Forget the value that was built."""
        Layer._built.discard(self)
        del self.value

    def __getattr__(self, name: str) -> Any:
        """Called for the value while it is not built."""
        if name != "value" or self.before is None:
            raise AttributeError(name)
        below = _living(self.before).value
        if self.over:
            return below
        self.value = self._around(below)
        Layer._built.add(self)
        return self.value


Setting = ContextVar[Held]
_settings: list[Setting] = []
_unlisted: list[Setting] = []


def setting(name: str, default: Any, listed: bool = True) -> Setting:
    """A new setting; ``.get().value`` is its value here and now. ``listed`` says that
    :func:`settings` has it."""
    first = Held(default)
    made = ContextVar(f"minires_{name}", default=first)
    (_settings if listed else _unlisted).append(made)
    return made


def links() -> list[tuple[Setting, Held]]:
    """All settings and their newest links here and now, for :func:`go_back`."""
    return [(variable, variable.get()) for variable in (*_settings, *_unlisted)]


def go_back(before: list[tuple[Setting, Held]]) -> None:
    """Leave whatever was entered since :func:`links` and was not left, since Ctrl-C stopped what
    would have left it."""
    for variable, held in before:
        variable.set(held)


def install(setting: Setting, value: Any) -> None:
    """Give a setting another value where no mode holds, in all threads."""
    first = setting.get()
    while first.before is not None:
        first = first.before
    first.value = value
    for layer in [*Layer._built]:
        layer.rebuild()


def settings() -> tuple[Any, ...]:
    """The values of all listed settings here and now."""
    return tuple([variable.get().value for variable in _settings])


def state(setting: Setting, value: Any) -> Held:
    """Give a setting a value by a statement, in place of an earlier one: until the mode around it
    is left."""
    before = setting.get()
    while (before.over or before.by is None) and before.before is not None:
        before = before.before
    held = Held(value, before)
    setting.set(held)
    return held


def _living(held: Held) -> Held:
    while held.over and held.before is not None:
        held = held.before
    return held


class Mode:
    """A setting has ``value`` inside ``with``, or while a decorated function runs.

    Generator functions, coroutine functions and asynchronous generators can be decorated as well:
    the mode holds while their bodies run, and whoever they yield to has their own. One mode may be
    entered several times, and in several threads and tasks at once.

    Args:
        name: of the mode, for messages.
        setting: what :func:`setting` made.
        value: what it is given.
    """

    def __init__(self, name: str, setting: Setting, value: Any) -> None:
        self._name, self._setting, self._value = name, setting, value
        self._entered: list[Held] = []

    def _held(self) -> Held:
        """A new link of the chain as it is here and now."""
        return Held(self._value, _living(self._setting.get()), self)

    def __enter__(self) -> None:
        held, before = self._held(), self._setting.get()
        self._entered.append(held)
        try:
            held.token = self._setting.set(held)
        except BaseException:  # Ctrl-C: nobody would leave what was not entered to the end
            self._setting.set(before)
            self._entered.remove(held)
            raise

    def __exit__(self, *exc: object) -> None:
        top = self._setting.get()
        # our newest link in this chain; above it there may be links of modes entered since, and
        # directly on it values set by statements, which end with it
        held, inside, statements = top, True, []
        while not (held.by is self and held in self._entered):
            if held.by is None:
                statements.append(held)
            elif not held.over:
                inside, statements = False, []
            if held.before is None:  # neither entered nor inherited here
                if not self._entered:
                    raise ArgumentError(message(self._name, "a mode that was entered", "its exit"))
                held, inside, statements = self._entered[-1], False, []
                break
            held = held.before
        self._entered.remove(held)
        if inside and held.before is not None and held.token is not None:
            try:
                return self._setting.reset(held.token)
            except ValueError:  # it was entered in another context, whose chain is out of reach
                self._setting.set(held.before)
        for link in (held, *statements):
            if not link.over:
                link.end()

    def __call__(self, function: Any) -> Any:
        """Decorate a function of any kind: its body runs in this mode.

        Raises:
            ArgumentError: a class, of which it is not clear what should run so; no function.
        """
        if isinstance(function, staticmethod | classmethod):
            return type(function)(self(function.__func__))
        if isinstance(function, type) or not callable(function):
            got, fix = quoted(function), ""
            if isinstance(function, type):
                got, fix = f"the class {function.__name__}", "Decorate those of its methods that"
                fix += " are to run in this mode, such as forward."
            raise ArgumentError(message(self._name, "a function", got, fix=fix))
        routine = inspect.isroutine(function) or isinstance(function, functools.partial)
        body = function if routine else type(function).__call__
        named = functools.wraps(function, updated=("__dict__",) if routine else ())
        for is_kind, decorate in (
            (inspect.isgeneratorfunction, _generator),
            (inspect.iscoroutinefunction, _coroutine),
            (inspect.isasyncgenfunction, _async_generator),
        ):
            if is_kind(body):
                return named(decorate(self, function))
        return named(_ordinary(self, function))


class Layered(Mode):
    """A mode whose setting holds ``around(what held before)``.

    Args:
        name, setting: as of :class:`Mode`.
        around: makes the new value of the one before.
    """

    def _held(self) -> Held:
        return Layer(self._value, _living(self._setting.get()), self)


class _Body:
    """The body of a function, run piece by piece in a mode. Between the pieces everything is as
    the caller had it; what the body itself has set or entered waits for the next piece."""

    def __init__(self, mode: Mode) -> None:
        self._setting = mode._setting
        self._inside = mode._held()

    def run(self, function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        outside = self._setting.get()
        self._setting.set(self._inside)
        try:
            return function(*args, **options)
        finally:
            self._inside = self._setting.get()
            self._setting.set(outside)

    def drive(self, body: Any) -> Generator[Any, Any, Any]:
        """Everything that a generator or coroutine yields, is sent, is thrown, and returns."""
        step, sent = body.send, None
        while True:
            try:
                item = self.run(step, sent)
            except StopIteration as stop:
                return stop.value
            try:
                sent = yield item
            except BaseException as error:  # to be thrown into the body, also what closes it
                step, sent = body.throw, error
            else:
                step = body.send


class _Awaited:
    """What is awaited, piece by piece in a mode."""

    def __init__(self, body: _Body, awaited: Any) -> None:
        self._body, self._awaited = body, awaited

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._body.drive(self._awaited)


def _ordinary(mode: Mode, function: Callable[..., Any]) -> Callable[..., Any]:
    def decorated(*args: Any, **options: Any) -> Any:
        return _Body(mode).run(function, *args, **options)

    return decorated


def _generator(mode: Mode, function: Callable[..., Any]) -> Callable[..., Any]:
    def decorated(*args: Any, **options: Any) -> Generator[Any, Any, Any]:
        return (yield from _Body(mode).drive(function(*args, **options)))

    return decorated


def _coroutine(mode: Mode, function: Callable[..., Any]) -> Callable[..., Any]:
    async def decorated(*args: Any, **options: Any) -> Any:
        return await _Awaited(_Body(mode), function(*args, **options))

    return decorated


def _async_generator(mode: Mode, function: Callable[..., Any]) -> Callable[..., Any]:
    async def decorated(*args: Any, **options: Any) -> AsyncGenerator[Any, Any]:
        body, values = _Body(mode), function(*args, **options)
        step = values.asend(None)
        while True:
            try:
                item = await _Awaited(body, step)
            except StopAsyncIteration:
                return
            try:
                sent = yield item
            except BaseException as error:  # as above
                step = values.athrow(error)
            else:
                step = values.asend(sent)

    return decorated
