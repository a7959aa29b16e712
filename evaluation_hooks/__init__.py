"""Measure a model while a Trainer evaluates it: what the callbacks of `modality` and `collapse` share.

A method brings an `Observer`, which hooks into the model and collects what it needs, and an `EvaluationCallback`, which
names the metrics. When to listen, which rows count, and how results reach the log is decided here, once.
"""

from evaluation_hooks.batches import has_repeats, valid_rows
from evaluation_hooks.callback import EvaluationCallback, evaluation_prefix
from evaluation_hooks.observer import Observer
from evaluation_hooks.states import random_states_kept

__all__ = ["EvaluationCallback", "Observer", "evaluation_prefix", "has_repeats", "random_states_kept", "valid_rows"]
