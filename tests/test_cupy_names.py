"""The list of CuPy's names, and the stand-in that keeps to it."""

from __future__ import annotations

import cupy_names
import numpy as np
import pytest
from cupy_stand_in import cupy_installed


def test_the_list_is_that_of_the_cupy_that_is_installed():
    cupy = pytest.importorskip("cupy")
    if cupy.__version__ != cupy_names.version():
        pytest.skip(f"the list is that of CuPy {cupy_names.version()}, not of {cupy.__version__}")
    assert cupy_names.installed() == cupy_names.FILE.read_text(encoding="utf-8")


def public(value):
    return [name for name in dir(value) if name[0] != "_"]


@pytest.mark.parametrize(
    "place",
    """ndarray cuda cuda.Device cuda.Stream cuda.Event cuda.MemoryPool cuda.MemoryPointer
    cuda.runtime""".split(),  # noqa: SIM905
)
def test_the_stand_in_has_cupys_attributes_and_no_others(place):
    with cupy_installed() as value:
        for part in place.split("."):
            value = getattr(value, part)
        assert public(value)
        unknown = [n for n in public(value) if f"cupy.{place}.{n}" not in cupy_names.known()]
    assert not unknown


def test_functions_are_those_of_cupy():
    with cupy_installed() as cupy:
        unknown = [n for n in public(cupy) if f"cupy.{n}" not in cupy_names.known()]
        assert unknown == []
        for name in ("emath", "float128", "longdouble", "spacing", "block"):
            assert hasattr(np, name)
            with pytest.raises(AttributeError, match=f"'cupy' has no attribute {name!r}"):
                getattr(cupy, name)
        with pytest.raises(NotImplementedError, match=r"stand-in for CuPy has no cupy\.random"):
            _ = cupy.random


REFUSED = [
    (TypeError, "unexpected keyword argument 'where'", lambda x, cp: x.sum(where=True)),
    (TypeError, "unexpected keyword argument 'initial'", lambda x, cp: np.max(x, initial=0)),
    (TypeError, "Wrong arguments {'where': True}", lambda x, cp: np.add(x, 1, where=True)),
    (TypeError, "Unsupported type <class 'numpy.ndarray'>", lambda x, cp: x + np.ones(3)),
    (TypeError, "Unsupported type <class 'numpy.ndarray'>", lambda x, cp: np.ones(3) * x),
    (
        TypeError,
        "Unsupported type <class 'numpy.ndarray'>",
        lambda x, cp: cp.where(np.ones(3), x, x),
    ),
    (TypeError, "Implicit conversion to a NumPy array", lambda x, cp: np.asarray(x)),
    (TypeError, "returned NotImplemented", lambda x, cp: np.spacing(x)),
    (TypeError, "positional argument", lambda x, cp: x.item(0)),
    (TypeError, "unhashable", lambda x, cp: hash(x)),
    (TypeError, "float32 array cannot be set to float64", lambda x, cp: x.set(np.ones(3, "f4"))),
    (TypeError, "__index__|interpreted as an integer", lambda x, cp: range(x.sum())),
    (ValueError, "Unsupported dtype object", lambda x, cp: cp.array([None])),
    (ValueError, "Unsupported dtype float128", lambda x, cp: x.astype("float128")),
    (ValueError, "Unsupported dtype object", lambda x, cp: cp.zeros(3, object)),
    (AttributeError, "no attribute 'writeable'", lambda x, cp: x.flags.writeable),
    (AttributeError, "no attribute 'ctypes'", lambda x, cp: x.ctypes),
    (AttributeError, "foo", lambda x, cp: setattr(x, "foo", 1)),
    (NotImplementedError, "cupy_maximum.reduce", lambda x, cp: np.maximum.reduce(x)),
    (NotImplementedError, "cupy_divide.at", lambda x, cp: np.divide.at(x, [0], 1)),
]


@pytest.mark.parametrize(("kind", "text", "use"), REFUSED)
def test_what_cupy_refuses_is_refused(kind, text, use):
    with cupy_installed() as cupy:
        match = text if "|" in text else text.translate({ord(c): f"\\{c}" for c in "(){}"})
        with pytest.raises(kind, match=match):
            use(cupy.ones(3), cupy)


def test_arrays_of_two_devices_do_not_meet():
    with cupy_installed() as cupy:
        x = cupy.ones(3)
        with cupy.cuda.Device(1):
            y = cupy.ones(3)
            with pytest.raises(ValueError, match=r"resides \(0\) is different from the current de"):
                x + y
            assert (cupy.asarray(x) + y).device.id == 1
        with pytest.raises(ValueError, match=r"resides \(1\) is different"):
            y * 2
        assert y[1:].device.id == y.T.device.id == 1  # what runs no kernel runs anywhere
        assert y.get().tolist() == [1, 1, 1]


def test_values():
    with cupy_installed() as cupy:
        x = cupy.asarray(np.arange(6, dtype="f4").reshape(2, 3).T)
        assert x.flags.f_contiguous
        total = x.sum()
        assert isinstance(total, cupy.ndarray)
        assert total.shape == ()
        images = np.ones((2, 3, 4, 5)).transpose(0, 3, 1, 2)
        assert cupy.asarray(images).flags.c_contiguous  # whatever it was on the CPU
        assert cupy.asarray(images.T).get().flags.c_contiguous
        assert (x.T + x.T).flags.c_contiguous
        assert np.isnan(cupy.empty(5).get()).all()
        assert set(cupy.empty(5, "i4").tolist()) == {-1}
        assert x[0].base is x
        assert x[0, 0].base is x
        assert x[0][1:].base is x
        assert x[[0, 1]].base is None
        y = x
        y += 1
        assert y is x
        assert x.data.ptr % 512 == 0
        assert x[1].data.ptr == x.data.ptr + 4
        assert x.argsort(0).dtype == np.int64
        assert cupy.allclose(x, x).shape == ()
        assert not isinstance(x.tolist()[0][0], cupy.ndarray)
        (cupy.ones(3) / 0).sum()  # without NumPy's warnings


def test_memory_is_watched():
    with cupy_installed() as cupy:
        from cupy_stand_in import memory

        x = cupy.zeros(5)
        block = x._memory._block
        outside = block._start + 40
        block._raw[outside] = 0
        with pytest.raises(memory.RedZoneError, match="byte 40 of a block of 40 bytes"):
            memory.check()
        block._raw[outside] = memory.ZONE[0]
        x = None
        assert set(block._raw[block._start : block._start + 512]) == {memory.FREED}
        block._raw[outside] = 0
        with pytest.raises(memory.RedZoneError, match="after it was freed"):
            cupy.zeros(5)
        block._raw[outside] = memory.FREED
        block = None
        pool = cupy.get_default_memory_pool()
        pool.set_limit(2048)
        with pytest.raises(
            memory.OutOfMemoryError, match=r"allocating 4,096 bytes .*limit set to: 2,048"
        ):
            cupy.zeros(512)
        y = cupy.zeros(4)
        assert pool.used_bytes() == 512
        del y
        assert pool.used_bytes() == 0
        assert pool.free_bytes() == 512
        pool.free_all_blocks()
        assert pool.total_bytes() == 0
