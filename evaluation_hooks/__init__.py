"""Measure a model while a Trainer evaluates it: what the callbacks of `modality` and `collapse` share.

A method brings an `Observer`, which hooks into the model and collects what it needs, and an `EvaluationCallback`, which
names the metrics. When to listen, which rows count, and how results reach the log is decided here, once. Both methods
also take stored features, whose checks are here, too.
"""

from evaluation_hooks.batches import counted_rows, has_repeats, valid_rows
from evaluation_hooks.callback import EvaluationCallback, evaluation_prefix
from evaluation_hooks.observer import Observer
from evaluation_hooks.states import random_states_kept
from evaluation_hooks.stored import check_same_order, check_unmasked

__all__ = [
    "EvaluationCallback",
    "Observer",
    "check_same_order",
    "check_unmasked",
    "counted_rows",
    "evaluation_prefix",
    "has_repeats",
    "random_states_kept",
    "valid_rows",
]
