"""Deep matrix factorization: products of many factors, and the small subspace in which their training happens.

Only torch and jaxtyping are imported here. `DeepMatrixFactorization` and `CompressedDMF` are modules; `dense_loss`,
`masked_loss` and `observed_loss` train them, the last one through sampled sparse products. `MatrixCompletion` is an
estimator in the style of scikit-learn; it is imported on first use, or by
`from dmf import *`, and needs the extra `deep-lora[completion]`.

The mathematics they are made of is in public submodules: `dmf.functional` (chains of factors), `dmf.linalg` (singular
values and subspaces), `dmf.subspaces` (the subspaces of the first gradient), `dmf.sparse` (products at listed entries),
`dmf.ranking` (metrics of ranked lists) and `dmf.theory` (what is proved and observed about training).
"""

from typing import TYPE_CHECKING, Any

from dmf.compressed import CompressedDMF
from dmf.factorization import DeepMatrixFactorization
from dmf.losses import dense_loss, masked_loss, observed_loss
from dmf.observed import ObservedEntries
from dmf.optimizer import parameter_groups

if TYPE_CHECKING:
    from dmf.completion import MatrixCompletion as MatrixCompletion

__all__ = [
    "CompressedDMF",
    "DeepMatrixFactorization",
    "MatrixCompletion",
    "ObservedEntries",
    "dense_loss",
    "masked_loss",
    "observed_loss",
    "parameter_groups",
]


def __getattr__(name: str) -> Any:
    """Import `MatrixCompletion` on demand, so that everything else needs only torch and jaxtyping."""
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
