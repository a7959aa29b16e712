"""Neural collapse: normalized classifier heads, and metrics of how far features have collapsed.

`neural_collapse(features, labels, weight)` measures stored features in one call, `ClassStatistics` in batches, for any
number of classes, and `NeuralCollapseCallback` logs the metrics of a Trainer's model. `normalize_classifier_(model)`
puts the head of any transformers classifier on the sphere, with a margin or fixed to a simplex if you like.
`collapse.metrics` has every metric by itself, `collapse.losses` has losses to compare with, and `collapse.theory` is
the theory as an experiment.
"""

from collapse.callback import NeuralCollapseCallback
from collapse.classifier import NormalizedClassifier, SimplexClassifier
from collapse.detection import nci_score
from collapse.heads.finding import find_head
from collapse.heads.normalizing import normalize_classifier_
from collapse.language import next_token_pairs
from collapse.layerwise import layerwise_collapse
from collapse.loading import load_normalized_classifier, normalized_class
from collapse.metrics import nc1, nc2, nc3, neural_collapse
from collapse.observer import HeadObserver
from collapse.retraction import SphereRetractionCallback, retract_
from collapse.scale import attainable_loss, scale_for_loss
from collapse.simplex import simplex_vectors
from collapse.statistics import ClassStatistics

__all__ = [
    "ClassStatistics",
    "HeadObserver",
    "NeuralCollapseCallback",
    "NormalizedClassifier",
    "SimplexClassifier",
    "SphereRetractionCallback",
    "attainable_loss",
    "find_head",
    "layerwise_collapse",
    "load_normalized_classifier",
    "nc1",
    "nc2",
    "nc3",
    "nci_score",
    "neural_collapse",
    "next_token_pairs",
    "normalize_classifier_",
    "normalized_class",
    "retract_",
    "scale_for_loss",
    "simplex_vectors",
]
