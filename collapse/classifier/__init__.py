"""Linear classifiers on the sphere, and the margins of their losses."""

from collapse.classifier.margins import MarginKind, add_angular_margin, subtract_margin, with_margin
from collapse.classifier.normalized import NormalizedClassifier, normalized_logits
from collapse.classifier.simplex import SimplexClassifier

__all__ = [
    "MarginKind",
    "NormalizedClassifier",
    "SimplexClassifier",
    "add_angular_margin",
    "normalized_logits",
    "subtract_margin",
    "with_margin",
]
