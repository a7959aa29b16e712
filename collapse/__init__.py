"""Neural collapse: normalized classifier heads, and metrics of how far features have collapsed.

`normalize_classifier_(model)` puts the head of any transformers classifier on the sphere, `ClassStatistics` and
`neural_collapse` measure features in one pass for any number of classes, and `NeuralCollapseCallback` logs the metrics
of a Trainer's model. `collapse.metrics` has every metric by itself, `collapse.losses` has losses to compare with, and
`collapse.theory` is the theory as an experiment.
"""

from collapse.callback import NeuralCollapseCallback
from collapse.classifier import NormalizedClassifier
from collapse.heads import find_head, normalize_classifier_
from collapse.layerwise import layerwise_collapse
from collapse.loading import load_normalized_classifier, normalized_class
from collapse.metrics import nc1, nc2, nc3, neural_collapse
from collapse.observer import HeadObserver
from collapse.retraction import SphereRetractionCallback, retract_
from collapse.scale import attainable_loss, scale_for_loss
from collapse.statistics import ClassStatistics

__all__ = [
    "ClassStatistics",
    "HeadObserver",
    "NeuralCollapseCallback",
    "NormalizedClassifier",
    "SphereRetractionCallback",
    "attainable_loss",
    "find_head",
    "layerwise_collapse",
    "load_normalized_classifier",
    "nc1",
    "nc2",
    "nc3",
    "neural_collapse",
    "normalize_classifier_",
    "normalized_class",
    "retract_",
    "scale_for_loss",
]
