"""Deep matrix factorization: products of many factors, and the small subspace in which their training happens.

Only torch and jaxtyping are imported here. `functional` multiplies and initialises chains of factors; `subspace` finds
the low-dimensional subspaces that the first gradient reveals. `DeepMatrixFactorization` and `CompressedDMF` are
modules; `dense_loss`, `masked_loss` and `observed_loss` train them, the last one through sampled sparse products.
`theory`, `layerwise` and `linear_networks` hold what is proved and observed about their training, as functions.

`MatrixCompletion` is an estimator in the style of scikit-learn; it is imported when it is first asked for, and needs
the extra `deep-lora[completion]`.
"""

from typing import TYPE_CHECKING, Any

from dmf.compressed import CompressedDMF
from dmf.functional import chain_apply, chain_product, identity_chain, orthogonal, orthogonal_chain
from dmf.layerwise import LogLinearFit, class_separation, layerwise_collapse, log_linear_fit
from dmf.linalg import (
    FactorSVD,
    OrthogonalMap,
    block_krylov_svd,
    compressed_bases,
    factor_svd,
    leading_subspaces,
    one_sided_bases,
    orthonormalize,
    principal_angles,
)
from dmf.losses import dense_loss, masked_loss, observed_loss
from dmf.observed import ObservedEntries
from dmf.optimizer import parameter_groups
from dmf.sparse import SparsityPattern, entry_products, sampled_product, sparse_product
from dmf.starts import matched_normal, matched_uniform
from dmf.theory.invariance import (
    InvarianceResidual,
    compression_error,
    effective_rank,
    invariance_residual,
    rho_recursion,
)
from dmf.theory.linear_networks import DeepLinearNetwork, descend, whiten
from dmf.wide import DeepMatrixFactorization

if TYPE_CHECKING:
    from dmf.completion import MatrixCompletion as MatrixCompletion

__all__ = [
    "CompressedDMF",
    "DeepLinearNetwork",
    "DeepMatrixFactorization",
    "FactorSVD",
    "InvarianceResidual",
    "LogLinearFit",
    "ObservedEntries",
    "OrthogonalMap",
    "SparsityPattern",
    "block_krylov_svd",
    "chain_apply",
    "chain_product",
    "class_separation",
    "compressed_bases",
    "compression_error",
    "dense_loss",
    "descend",
    "effective_rank",
    "entry_products",
    "factor_svd",
    "identity_chain",
    "invariance_residual",
    "layerwise_collapse",
    "leading_subspaces",
    "log_linear_fit",
    "masked_loss",
    "matched_normal",
    "matched_uniform",
    "observed_loss",
    "one_sided_bases",
    "orthogonal",
    "orthogonal_chain",
    "orthonormalize",
    "parameter_groups",
    "principal_angles",
    "rho_recursion",
    "sampled_product",
    "sparse_product",
    "whiten",
]


def __getattr__(name: str) -> Any:
    """`MatrixCompletion` on demand, so that everything else needs torch and jaxtyping alone."""
    if name != "MatrixCompletion":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from dmf.completion import MatrixCompletion
    except ModuleNotFoundError as error:
        raise ImportError(
            f"MatrixCompletion needs the package {error.name}, which is not installed: "
            'pip install "deep-lora[completion]"'
        ) from error
    return MatrixCompletion
