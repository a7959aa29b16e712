"""What is proved and observed about the training of deep factorizations, as functions.

`rho_recursion`, `compression_error` and `invariance_residual` state the theorem of the invariant subspace;
`DeepLinearNetwork`, `whiten` and `log_linear_fit` are for deep linear networks on data; `descend` trains with stops.
"""

from dmf.theory.descent import descend
from dmf.theory.invariance import InvarianceResidual, compression_error, invariance_residual, rho_recursion
from dmf.theory.linear_networks import DeepLinearNetwork, LogLinearFit, log_linear_fit, whiten

__all__ = [
    "DeepLinearNetwork",
    "InvarianceResidual",
    "LogLinearFit",
    "compression_error",
    "descend",
    "invariance_residual",
    "log_linear_fit",
    "rho_recursion",
    "whiten",
]
