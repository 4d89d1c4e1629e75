"""What the optimiser tests share."""

import numpy as np
import pytest

from minires.tensor import Tensor, from_numpy


@pytest.fixture
def param():
    """Makes a trainable tensor of given values, with a gradient where one is given."""

    def make(values, grad=None, dtype=np.float64) -> Tensor:
        p = from_numpy(np.array(values, dtype=dtype))
        p.requires_grad = True
        if grad is not None:
            p.grad = from_numpy(np.array(grad, dtype=dtype))
        return p

    return make
