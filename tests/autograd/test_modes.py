"""Every mode in every form: block, decorator of each kind of function, across threads and tasks."""

import asyncio
import contextlib
import functools
import inspect
import threading

import numpy as np
import pytest

import minires as mr
from minires import nn, precision
from minires.anomaly import NaNGuard
from minires.autograd import current
from minires.autograd.engine import _engine, around
from minires.autograd.modes import _grad_mode, _precise
from minires.device import _backend, current_gpu
from minires.errors import ArgumentError
from minires.fusion import FUSING
from minires.mode import Mode, _settings, settings
from minires.watcher import Observer, Watcher, observed_by


def guarded():
    return isinstance(current(), NaNGuard)


def fused():
    return bool(current().rules)


def engine_as_usual():
    return around("around", lambda engine: FUSING)


# name: (how it is made, its setting, the value it gives); of modes that put an engine around the
# one before, the function that tells of it in place of the setting
MODES = {
    "no_grad": (mr.no_grad, _grad_mode, False),
    "enable_grad": (mr.enable_grad, _grad_mode, True),
    "set_grad_enabled(False)": (lambda: mr.set_grad_enabled(False), _grad_mode, False),
    "set_grad_enabled(True)": (lambda: mr.set_grad_enabled(True), _grad_mode, True),
    "inference_mode": (mr.inference_mode, _grad_mode, False),
    "inference_mode(False)": (lambda: mr.inference_mode(False), _grad_mode, True),
    "detect_anomaly": (mr.detect_anomaly, guarded, True),
    "no_fusion": (mr.no_fusion, fused, False),
    "precise": (mr.precise, _precise, True),
    "backend": (lambda: mr.backend("numpy"), _backend, "numpy"),
}
BARE = {
    "no_grad": mr.no_grad,
    "enable_grad": mr.enable_grad,
    "inference_mode": mr.inference_mode,
    "detect_anomaly": mr.detect_anomaly,
    "no_fusion": mr.no_fusion,
    "precise": mr.precise,
}
every_mode = pytest.mark.parametrize("name", MODES)


class Case:
    """A mode that is entered where the setting has another value."""

    def __init__(self, name):
        self.make, self.told, self.inside = MODES[name]
        self.layered = self.told in (guarded, fused)
        self.setting = _engine if self.layered else self.told
        start = self.get()
        self.outside = start if start != self.inside else (not start)

    def get(self):
        return self.told() if self.layered else self.setting.get().value

    def around(self):
        return engine_as_usual() if self.layered else Mode("around", self.setting, self.outside)


@pytest.fixture
def case(name):
    case = Case(name)
    start = case.get()
    with case.around():
        yield case
        assert case.get() == case.outside
    assert case.get() == start


# **** blocks ****


@every_mode
def test_a_block_nests_and_ends_with_an_error(case):
    with case.make():
        assert case.get() == case.inside
        with case.around():
            assert case.get() == case.outside
            with case.make():
                assert case.get() == case.inside
            assert case.get() == case.outside
        assert case.get() == case.inside
    assert case.get() == case.outside
    with pytest.raises(ZeroDivisionError), case.make():
        raise ZeroDivisionError
    assert case.get() == case.outside


@every_mode
def test_one_mode_may_be_entered_again_and_again(case):
    mode = case.make()
    for _ in range(2):
        with mode, mode:
            with mode:
                assert case.get() == case.inside
            assert case.get() == case.inside
        assert case.get() == case.outside


@every_mode
def test_blocks_left_in_another_order(case):
    outer, inner = case.make(), case.around()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert case.get() == case.outside  # the inner one's
    inner.__exit__(None, None, None)
    assert case.get() == case.outside
    first, second = case.around(), case.make()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert case.get() == case.inside  # the second is still on
    second.__exit__(None, None, None)
    assert case.get() == case.outside


# **** decorators ****


@every_mode
def test_functions_methods_and_callables(case):
    def body(*args, more=None):
        """What it does."""
        return case.get(), args, more

    class Holder:
        method = case.make()(body)
        static = case.make()(staticmethod(body))
        by_class = case.make()(classmethod(body))

    holder = Holder()
    assert case.make()(body)(1, more=2) == (case.inside, (1,), 2)
    assert case.make()(functools.partial(body, 1))(2) == (case.inside, (1, 2), None)
    assert holder.method(1) == (case.inside, (holder, 1), None)
    assert holder.static(1) == (case.inside, (1,), None)
    assert Holder.by_class(1) == (case.inside, (Holder, 1), None)
    assert case.make()(holder.method)(1) == (case.inside, (holder, 1), None)
    wrapped = case.make()(body)
    assert (wrapped.__name__, wrapped.__doc__) == ("body", "What it does.")

    @case.make()
    def fails():
        raise KeyError(case.get())

    with pytest.raises(KeyError, match=str(case.inside)):
        fails()

    @case.make()
    def again(depth):
        return [case.get(), *again(depth - 1)] if depth else []

    assert again(3) == [case.inside] * 3


class Net(nn.Module):
    def forward(self, x):
        return x * 2


def test_a_module_and_its_forward():
    x = mr.ones(2, requires_grad=True)
    assert not mr.no_grad()(Net())(x).requires_grad
    assert Net()(x).requires_grad

    class Quiet(Net):
        forward = mr.no_grad()(Net.forward)

    assert not Quiet()(x).requires_grad


@pytest.mark.parametrize("bare", BARE)
def test_without_parentheses(bare):
    case = Case(bare)

    @BARE[bare]
    def function():
        return case.get()

    @BARE[bare]
    def generator():
        yield case.get()

    with case.around():
        assert function() == case.inside
        assert [*generator()] == [case.inside]


@every_mode
def test_a_generator_has_the_mode_while_its_body_runs(case):
    log = []

    @case.make()
    def body(first):
        try:
            got = yield ("first", first, case.get())
            log.append(("sent", got, case.get()))
            try:
                yield "second"
            except ValueError as error:
                log.append(("thrown", str(error), case.get()))
                yield "third"
            return "returned"
        finally:
            log.append(("end", case.get()))

    assert inspect.isgeneratorfunction(body)
    running = body(7)
    assert case.get() == case.outside
    assert next(running) == ("first", 7, case.inside)
    assert case.get() == case.outside
    assert running.send("hello") == "second"
    assert case.get() == case.outside
    assert running.throw(ValueError("stop")) == "third"
    assert case.get() == case.outside
    with pytest.raises(StopIteration) as stop:
        next(running)
    assert stop.value.value == "returned"
    assert case.get() == case.outside
    assert log == [
        ("sent", "hello", case.inside),
        ("thrown", "stop", case.inside),
        ("end", case.inside),
    ]
    with pytest.raises(StopIteration):
        next(running)


@every_mode
def test_a_generator_is_closed_in_its_mode(case):
    log = []

    @case.make()
    def body():
        try:
            yield 1
        finally:
            log.append(case.get())

    running = body()
    next(running)
    running.close()
    assert log == [case.inside]
    body().close()  # one that never began
    running = body()
    next(running)
    del running
    assert log == [case.inside] * 2

    @case.make()
    def stubborn():
        try:
            yield 1
        except GeneratorExit:
            yield 2

    running = stubborn()
    next(running)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        running.close()
    assert case.get() == case.outside

    @case.make()
    def raising():
        yield
        raise KeyError("inside")

    running = raising()
    next(running)
    with pytest.raises(KeyError, match="inside"):
        next(running)
    running = raising()
    next(running)
    with pytest.raises(ZeroDivisionError):
        running.throw(ZeroDivisionError)
    assert case.get() == case.outside


@every_mode
def test_what_a_generator_sets_itself_waits_for_it(case):
    """A block inside a body holds over its yields, and not for the caller."""

    @case.make()
    def body():
        with case.around():
            yield case.get()
            yield case.get()
        yield case.get()

    one, two = body(), body()
    seen = []
    for _ in range(3):
        for running in (one, two):  # they take turns
            seen.append(next(running))
            assert case.get() == case.outside
            with case.make():
                assert case.get() == case.inside
    assert seen == [case.outside] * 4 + [case.inside] * 2


@every_mode
def test_delegation_and_nested_decorators(case):
    @case.make()
    def inner():
        got = yield case.get()
        return got

    @mr.detect_anomaly()
    @case.make()
    def outer():
        result = yield from inner()
        yield result, case.get(), guarded()

    running = outer()
    assert next(running) == case.inside
    assert not guarded() or case.told is guarded
    assert running.send("x") == ("x", case.inside, True)


@every_mode
def test_a_coroutine_has_the_mode_while_its_body_runs(case):
    seen = []

    @case.make()
    async def body(x):
        seen.append(case.get())
        await asyncio.sleep(0)
        seen.append(case.get())
        try:
            await asyncio.sleep(0)
            raise KeyError("inside")
        finally:
            seen.append(case.get())

    async def other(done):
        while not done.is_set():
            assert case.get() == case.outside
            await asyncio.sleep(0)

    async def main():
        done = asyncio.Event()
        watching = asyncio.create_task(other(done))
        with pytest.raises(KeyError, match="inside"):
            await body(1)
        assert case.get() == case.outside
        done.set()
        await watching

    assert inspect.iscoroutinefunction(body)
    asyncio.run(main())
    assert seen == [case.inside] * 3

    driven = body(1)  # by hand, as an event loop of one's own would
    driven.send(None)
    assert case.get() == case.outside
    with pytest.raises(OSError, match="from outside"):
        driven.throw(OSError("from outside"))
    assert case.get() == case.outside


@every_mode
def test_an_asynchronous_generator_has_the_mode_while_its_body_runs(case):
    log = []

    @case.make()
    async def body():
        try:
            await asyncio.sleep(0)
            got = yield case.get()
            log.append(("sent", got, case.get()))
            try:
                yield "second"
            except ValueError:
                await asyncio.sleep(0)
                yield ("thrown", case.get())
            yield "last"
        finally:
            await asyncio.sleep(0)
            log.append(("end", case.get()))

    async def main():
        running = body()
        assert await anext(running) == case.inside
        assert case.get() == case.outside
        assert await running.asend("hello") == "second"
        assert case.get() == case.outside
        assert await running.athrow(ValueError()) == ("thrown", case.inside)
        assert case.get() == case.outside
        assert [item async for item in running] == ["last"]
        assert log == [("sent", "hello", case.inside), ("end", case.inside)]
        log.clear()
        running = body()
        await anext(running)
        await running.aclose()
        assert log == [("end", case.inside)]
        assert case.get() == case.outside
        running = body()
        await anext(running)
        await asyncio.create_task(closing(running))  # in a task of its own
        assert log == [("end", case.inside)] * 2

    async def closing(running):
        await running.aclose()
        assert case.get() == case.outside

    assert inspect.isasyncgenfunction(body)
    asyncio.run(main())


def test_a_callable_whose_call_is_a_generator():
    class Batches:
        def __call__(self):
            yield mr.is_grad_enabled()

    assert [*mr.no_grad()(Batches())()] == [False]
    partial = functools.partial(lambda n: (yield mr.is_grad_enabled(), n), 1)
    assert [*mr.no_grad()(partial)()] == [(False, 1)]


def test_graphs_of_a_generator():
    x = mr.ones(2, requires_grad=True)

    @mr.no_grad()
    def quiet():
        for _ in range(2):
            yield x * 2

    for y in quiet():
        assert not y.requires_grad
        assert (x * 2).requires_grad

    @mr.set_grad_enabled(False)
    def set_so():
        yield x * 2
        with mr.enable_grad():
            yield x * 2

    assert [y.requires_grad for y in set_so()] == [False, True]
    assert mr.is_grad_enabled()


@every_mode
def test_what_cannot_be_decorated(case, name):
    name = name.split("(")[0]
    with pytest.raises(ArgumentError, match=rf"{name}: expected a function, got the class Net\. D"):
        case.make()(Net)
    with pytest.raises(ArgumentError, match=rf"{name}: expected a function, got 3"):
        case.make()(3)


def test_flags_and_exits_that_are_none():
    for make in (mr.set_grad_enabled, mr.inference_mode):
        with pytest.raises(ArgumentError, match=r"mode True or False, got 'no'"):
            make("no")
        with make(np.bool_(True)):
            pass
    with pytest.raises(ArgumentError, match="no_grad: expected a mode that was entered, got its e"):
        mr.no_grad().__exit__(None, None, None)


# **** set_grad_enabled as a statement ****


def test_a_statement_holds_until_the_block_around_it_ends():
    with mr.enable_grad():
        mr.set_grad_enabled(False)
        assert not mr.is_grad_enabled()
        with mr.enable_grad():
            assert mr.is_grad_enabled()
        assert not mr.is_grad_enabled()
        mr.set_grad_enabled(True)
        mr.set_grad_enabled(False)
    assert mr.is_grad_enabled()

    @mr.enable_grad()
    def function():
        mr.set_grad_enabled(False)
        return mr.is_grad_enabled()

    assert function() is False
    assert mr.is_grad_enabled()

    @mr.enable_grad()
    def generator():
        mr.set_grad_enabled(False)
        yield mr.is_grad_enabled()
        yield mr.is_grad_enabled()

    for seen in generator():
        assert seen is False
        assert mr.is_grad_enabled()
    outer, inner = mr.enable_grad(), mr.enable_grad()
    with contextlib.ExitStack() as last:
        outer.__enter__()
        mr.set_grad_enabled(False)
        last.enter_context(inner)
        outer.__exit__(None, None, None)  # the statement ends with it
        assert mr.is_grad_enabled()
    assert mr.is_grad_enabled()


def test_the_statement_becomes_a_block_or_a_decorator():
    mode = mr.set_grad_enabled(False)
    assert not mr.is_grad_enabled()
    with mode:
        assert not mr.is_grad_enabled()
    assert mr.is_grad_enabled()
    mr.set_grad_enabled(False)
    try:
        with mr.set_grad_enabled(True):
            assert mr.is_grad_enabled()
        assert not mr.is_grad_enabled()
        assert mr.set_grad_enabled(True)(mr.is_grad_enabled)()
        assert not mr.is_grad_enabled()
    finally:
        mr.set_grad_enabled(True)
    length = links()
    for _ in range(100):  # statements replace one another
        mr.set_grad_enabled(True)
    assert links() == length


# **** threads and tasks ****


@every_mode
def test_a_new_thread_begins_with_the_defaults(name):
    case, seen = Case(name), []
    start = case.get()
    with case.around(), case.make():
        thread = threading.Thread(target=lambda: seen.append(case.get()))
        thread.start()
        thread.join()
        assert case.get() == case.inside
    assert seen == [start]


@every_mode
def test_one_mode_in_many_threads_at_once(case):
    mode, together, wrong = case.make(), threading.Barrier(4), []

    def work():
        start = case.get()
        for _ in range(50):
            together.wait(5)
            with mode:
                together.wait(5)
                wrong.extend([] if case.get() == case.inside else ["inside"])
                together.wait(5)
            wrong.extend([] if case.get() == start else ["outside"])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert mode._entered == []


@every_mode
def test_tasks_begin_with_the_modes_of_their_maker_and_go_their_own_way(case):
    async def child(ready, leave):
        first = case.get()
        ready.set()
        await leave.wait()
        return first, case.get()

    async def main():
        ready, leave = asyncio.Event(), asyncio.Event()
        before = asyncio.create_task(child(asyncio.Event(), leave))
        with case.make():
            within = asyncio.create_task(child(ready, leave))
            await ready.wait()
        assert case.get() == case.outside
        leave.set()
        assert await before == (case.outside, case.outside)
        assert await within == (case.inside, case.inside)

    asyncio.run(main())


@every_mode
def test_entered_in_one_task_and_left_in_another(case):
    stack = contextlib.ExitStack()
    seen = {}

    async def enter(entered, left):
        stack.enter_context(case.make())
        stack.enter_context(case.make())
        seen["entered"] = case.get()
        entered.set()
        await left.wait()
        seen["entering task, after"] = case.get()

    async def leave(left):
        seen["leaving task, before"] = case.get()
        stack.close()
        seen["leaving task, after"] = case.get()
        left.set()

    async def main():
        entered, left = asyncio.Event(), asyncio.Event()
        entering = asyncio.create_task(enter(entered, left))
        await entered.wait()
        assert case.get() == case.outside
        await asyncio.gather(entering, asyncio.create_task(leave(left)))
        assert case.get() == case.outside

    asyncio.run(main())
    assert seen == {
        "entered": case.inside,
        "leaving task, before": case.outside,
        "leaving task, after": case.outside,
        "entering task, after": case.outside,
    }


@every_mode
def test_entered_by_the_maker_of_a_task_that_leaves_it(case):
    async def leave(stack):
        assert case.get() == case.inside  # inherited
        stack.close()
        assert case.get() == case.outside
        with case.make():
            assert case.get() == case.inside
        assert case.get() == case.outside

    async def main():
        for _ in range(3):
            stack = contextlib.ExitStack()
            stack.enter_context(case.make())
            assert case.get() == case.inside
            await asyncio.create_task(leave(stack))
            assert case.get() == case.outside
            with case.make():
                assert case.get() == case.inside
            assert case.get() == case.outside

    asyncio.run(main())


@every_mode
def test_left_elsewhere_inside_another_block(case):
    """Who leaves a foreign mode keeps what is on here."""
    stack = contextlib.ExitStack()

    async def enter():
        stack.enter_context(case.around())

    async def leave():
        with case.make():
            stack.close()
            assert case.get() == case.inside
        assert case.get() == case.outside

    async def main():
        await asyncio.create_task(enter())
        await asyncio.create_task(leave())

    asyncio.run(main())


def test_left_in_another_thread():
    stack = contextlib.ExitStack()
    stack.enter_context(mr.no_grad())
    thread = threading.Thread(target=stack.close)
    thread.start()
    thread.join()
    assert mr.is_grad_enabled()


def links():
    """The length of the chain here."""
    held, count = _grad_mode.get(), 0
    while held is not None:
        held, count = held.before, count + 1
    return count


def test_chains_do_not_grow():
    """Links that are over are let go of, however they ended."""

    async def main():
        start = links()
        for _ in range(50):
            stack = contextlib.ExitStack()
            stack.enter_context(mr.no_grad())
            await asyncio.create_task(leave(stack))
        assert links() <= start + 1

    async def leave(stack):
        stack.close()

    asyncio.run(main())


def test_watching_is_a_mode_too():
    stack = contextlib.ExitStack()

    async def main():
        await asyncio.create_task(enter())
        stack.close()
        assert not isinstance(current(), Watcher)

    async def enter():
        observer = Observer()
        assert stack.enter_context(observed_by(observer)) is observer
        assert current().observer is observer

    asyncio.run(main())


def test_every_mode_is_in_the_table():
    """Whoever adds a setting adds its mode here, but for settings that no mode has, or one that
    needs a GPU."""
    known = [setting for _, setting, _ in MODES.values() if setting not in (guarded, fused)]
    known += [precision._precision, current_gpu]
    assert {id(setting) for setting in _settings} == {id(setting) for setting in known}
    assert len(settings()) == len(_settings)
