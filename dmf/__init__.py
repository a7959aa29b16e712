"""Deep matrix factorization: products of many factors, and the small subspace in which their training happens.

Only torch is imported here. `functional` multiplies and initialises chains of factors; `subspace` finds the
low-dimensional subspaces that the first gradient reveals.
"""

from dmf.functional import chain_apply, chain_product, identity_chain, orthogonal, orthogonal_chain
from dmf.subspace import (
    FactorSVD,
    OrthogonalMap,
    block_krylov_svd,
    compressed_bases,
    factor_svd,
    leading_subspaces,
    orthonormalize,
    principal_angles,
)

__all__ = [
    "FactorSVD",
    "OrthogonalMap",
    "block_krylov_svd",
    "chain_apply",
    "chain_product",
    "compressed_bases",
    "factor_svd",
    "identity_chain",
    "leading_subspaces",
    "orthogonal",
    "orthogonal_chain",
    "orthonormalize",
    "principal_angles",
]
