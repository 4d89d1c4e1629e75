"""The identity path, entry by entry: a residual block's Jacobian is ∂F/∂x + I.

* :func:`prove` holds every block kind to it, bit for bit and numerically; :func:`prove_block`
  does so for one block, also of your own.
* :func:`jacobians` gives the matrices themselves, :func:`paths_through` those of all ways through
  a chain of blocks, and :func:`path_lengths` splits a gradient by the number of branches it came
  through.
* :func:`singular_values` compares deep plain and residual stacks.
* :mod:`minires.identity.figures` draws all of it.

``docs/identity_path.md`` walks through it.
"""

from minires.identity.chains import (
    ChainProof,
    PathLengths,
    around_blocks,
    chain_jacobians,
    path_lengths,
    paths_through,
    product,
    prove_chain,
    sample_path_norms,
)
from minires.identity.jacobians import Jacobians, calibrate, jacobians
from minires.identity.proof import (
    Proof,
    example,
    option_a_matrix,
    prove,
    prove_block,
    scaled_skip,
    silenced,
    worst,
)
from minires.identity.spectra import Spectra, singular_values, stack_jacobians

__all__ = [
    "ChainProof",
    "Jacobians",
    "PathLengths",
    "Proof",
    "Spectra",
    "around_blocks",
    "calibrate",
    "chain_jacobians",
    "example",
    "jacobians",
    "option_a_matrix",
    "path_lengths",
    "paths_through",
    "product",
    "prove",
    "prove_block",
    "prove_chain",
    "sample_path_norms",
    "scaled_skip",
    "silenced",
    "singular_values",
    "stack_jacobians",
    "worst",
]
