"""Convolution of any geometry, against the reference."""

from __future__ import annotations

import pytest
from harness import arrays, check_op, raises
from hypothesis import given, settings
from hypothesis import strategies as st

import minires as mr
from minires.errors import ShapeError


@pytest.mark.slow
@given(
    n=st.integers(1, 2),
    groups=st.integers(1, 3),
    c_in=st.integers(1, 3),
    c_out=st.integers(1, 3),
    size=st.tuples(st.integers(1, 7), st.integers(1, 7)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    padding=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
)
@settings(max_examples=150, deadline=None, derandomize=True)
def test_conv2d_any_geometry(n, groups, c_in, c_out, size, kernel, stride, padding, dilation):
    x, w = (n, groups * c_in, *size), (groups * c_out, c_in, *kernel)
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    reach = [d * (k - 1) + 1 - 2 * p for k, d, p in zip(kernel, dilation, padding)]
    if any(r > s for r, s in zip(reach, size)):
        with raises(ShapeError, "a kernel no larger than the padded input"):
            mr.conv2d(mr.zeros(x), mr.zeros(w), **options)
    else:
        check_op(lambda x, w, b: mr.conv2d(x, w, b, **options), arrays(x, w, w[:1]))
