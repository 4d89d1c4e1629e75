"""What pytest loads of minires in every run: an option and a fixture.

``pytest --minires-gradcheck`` adds the checks of ``minires gradcheck`` to the tests, one for each
operation, layer and block on each backend. The fixture ``gradcheck`` checks a function of your
own::

    def test_my_function(gradcheck):
        x = minires.randn(3, 4, dtype="float64", requires_grad=True)
        gradcheck(my_function, [x])

The checker itself is imported only when it is used, so that other people's runs are no slower
than ``import minires``.
"""

from __future__ import annotations

from typing import Any

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("minires", "minires").addoption(
        "--minires-gradcheck",
        action="store_true",
        help="also check the gradients of minires itself, on every backend",
    )


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose among the items
def pytest_collection_modifyitems(
    session: pytest.Session, config: pytest.Config, items: list[pytest.Item]
) -> None:
    if config.getoption("--minires-gradcheck"):
        from .selfcheck.as_tests import collect

        items += collect(session)


@pytest.fixture
def gradcheck() -> Any:
    """``gradcheck(f, inputs)`` checks first derivatives, with ``second_order=True`` also second
    ones; see :func:`minires.gradcheck.as_tests.assert_gradients`."""
    from .gradcheck.as_tests import assert_gradients

    return assert_gradients
