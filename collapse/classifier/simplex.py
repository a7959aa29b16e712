"""`SimplexClassifier`: a normalized classifier whose class vectors stay at the corners of a simplex."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from collapse.classifier.normalized import NormalizedClassifier
from collapse.simplex import simplex_vectors


class SimplexClassifier(NormalizedClassifier):
    """A `NormalizedClassifier` with fixed class vectors, `simplex_vectors(num_classes, in_features)`.

    The class vectors start where training would take them, and are not trained: a buffer with the name `weight`. Only
    the features learn, which saves the K x d parameters and keeps rare classes as far apart as frequent ones. Its
    arguments, shapes and errors are those of `NormalizedClassifier`.

    Raises:
        ValueError: also where the simplex does not fit, for in_features < num_classes - 1.

    Source: Zhu et al., NeurIPS 2021 (a fixed simplex costs no accuracy); Yang et al., NeurIPS 2022 (unbalanced data).

    >>> head = SimplexClassifier(8, 3)
    >>> list(head.parameters()), (head.weight @ head.weight.mT).mul(2).round().int().tolist()
    ([], [[2, -1, -1], [-1, 2, -1], [-1, -1, 2]])
    """

    def reset_parameters(self) -> None:
        if isinstance(self.weight, torch.nn.Parameter):
            storage = self.weight.detach()
            del self.weight
            self.register_buffer("weight", storage)
        super().reset_parameters()

    def random_vectors(self) -> Float[Tensor, "K d"]:
        """Return the simplex; nothing is drawn."""
        return simplex_vectors(self.out_features, self.in_features).to(self.weight.device)

    def starting_vectors(self, previous: Float[Tensor, "K d"]) -> Float[Tensor, "K d"]:
        """Return the simplex, whatever the head before had."""
        return self.random_vectors()
