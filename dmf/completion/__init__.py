"""Matrix completion as a scikit-learn estimator; needs the extra `deep-lora[completion]`.

`estimator` is what users see; `data` reads what they pass, `settings` checks their numbers, `units`, `biases` and
`model` hold the mathematics, `start` says where training begins, `training` is the loop, and `saving`, `checkpoint` and
`files` are what is kept on disk.
"""

from dmf.completion.estimator import MatrixCompletion

__all__ = ["MatrixCompletion"]
