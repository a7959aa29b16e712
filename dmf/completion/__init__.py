"""Matrix completion as a scikit-learn estimator; needs the extra `deep-lora[completion]`.

`estimator` is what users see, with what `answers` and `updates` give it; `data` reads what they pass, `ids` what they
call rows and columns, `settings` checks their numbers, `units`, `biases` and `model` hold the mathematics, `start` says
where training begins, `training` is the loop, `folding` adds entries to what it found, and `storage` is what is kept on
disk.
"""

from dmf.completion.estimator import MatrixCompletion

__all__ = ["MatrixCompletion"]
