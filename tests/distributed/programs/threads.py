"""Prints how many threads kernels and BLAS have, once the group has begun; and looks who tells of
kernels.

With an argument, a kernel runs before that.
"""

import sys

import numpy as np
from threadpoolctl import threadpool_info

import minires as mr
from minires import environment
from minires.distributed import current_group
from minires.kernels.numba import talk

if sys.argv[1:]:
    mr.relu(mr.randn(100, 100)).numpy()
imported = "numba" in sys.modules
group = current_group()
assert ("numba" in sys.modules) == imported, "to begin a group is no reason to import Numba"
blas = {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}
numbers = [mr.get_num_threads(), environment.describe()["threads"], *blas]
x = mr.randn(64, 64, 8, 8)
np.testing.assert_array_equal(mr.relu(x).numpy(), np.maximum(x.numpy(), 0))  # kernels run on them
assert talk.allowed == (group.rank == 0), "of what is compiled rank 0 alone tells"
if group.rank == 0:
    print(*numbers)
