"""Matrix completion as a scikit-learn estimator; needs the extra `deep-lora[completion]`.

`estimator` is what users see; `data` reads what they pass, `settings` checks their numbers, `biases` and `model` hold
the mathematics, `training` the loop, `saving`, `checkpoint` and `files` what is kept on disk.
"""

from dmf.completion.estimator import MatrixCompletion

__all__ = ["MatrixCompletion"]
