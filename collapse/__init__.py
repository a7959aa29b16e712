"""Neural collapse: normalised classifier heads, and metrics of how far features have collapsed.

`normalize_classifier_(model)` puts the head of any transformers classifier on the sphere, `ClassStatistics` and
`neural_collapse` measure features in one pass at any number of classes, `NeuralCollapseCallback` does so from within a
Trainer, and `unconstrained_features` runs the theory.
"""

from collapse.callback import NeuralCollapseCallback
from collapse.centres import class_distance_normalized_variance, nearest_centre_agreement
from collapse.classifier import NormalizedClassifier, normalized_logits, subtract_margin
from collapse.heads import find_head, normalize_classifier_
from collapse.layerwise import layerwise_collapse
from collapse.loading import load_normalized_classifier, normalized_class
from collapse.losses import nonl_loss, ntce_loss, regularized_cross_entropy
from collapse.metrics import feature_norm_spread, nc1, nc2, nc3, neural_collapse, separation_quotient
from collapse.observer import HeadObserver
from collapse.retraction import SphereRetractionCallback, retract_
from collapse.simplex import simplex_distance
from collapse.sphere import geodesic, tangent_part, unit_rows
from collapse.statistics import ClassStatistics
from collapse.temperature import attainable_loss, temperature_for_loss
from collapse.theory import (
    SphereProduct,
    UnconstrainedFeatures,
    collapsed_saddle,
    most_negative_curvature,
    riemannian_gradient,
    riemannian_hessian,
    unconstrained_features,
)

__all__ = [
    "ClassStatistics",
    "HeadObserver",
    "NeuralCollapseCallback",
    "NormalizedClassifier",
    "SphereProduct",
    "SphereRetractionCallback",
    "UnconstrainedFeatures",
    "attainable_loss",
    "class_distance_normalized_variance",
    "collapsed_saddle",
    "feature_norm_spread",
    "find_head",
    "geodesic",
    "layerwise_collapse",
    "load_normalized_classifier",
    "most_negative_curvature",
    "nc1",
    "nc2",
    "nc3",
    "nearest_centre_agreement",
    "neural_collapse",
    "nonl_loss",
    "normalize_classifier_",
    "normalized_class",
    "normalized_logits",
    "ntce_loss",
    "regularized_cross_entropy",
    "retract_",
    "riemannian_gradient",
    "riemannian_hessian",
    "separation_quotient",
    "simplex_distance",
    "subtract_margin",
    "tangent_part",
    "temperature_for_loss",
    "unconstrained_features",
    "unit_rows",
]
