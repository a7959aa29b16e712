"""Numbers of a run that cannot work, refused before anything is loaded, and metrics that should be small."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from training.errors import UsageError

LARGEST_SEED = 2**32 - 1  # of numpy


class Range(NamedTuple):
    """What a number may be; None is always allowed where it is the default."""

    lowest: float
    highest: float = math.inf
    open: bool = False  # without `lowest` itself

    def holds(self, value: float) -> bool:
        """Tell whether a number is finite and lies in the range."""
        return (
            math.isfinite(value) and self.lowest <= value <= self.highest and not (self.open and value == self.lowest)
        )

    def described(self) -> str:
        """Return the range in words."""
        if self.highest < math.inf:
            return f"from {self.lowest:g} to {self.highest:.10g}"
        return f"{'above' if self.open else 'at least'} {self.lowest:g}"


_COUNT, _POSITIVE, _NOT_NEGATIVE, _SEED = Range(1), Range(0, open=True), Range(0), Range(0, LARGEST_SEED)
RANGES = {
    "per_device_train_batch_size": _COUNT, "per_device_eval_batch_size": _COUNT, "gradient_accumulation_steps": _COUNT,
    "eval_accumulation_steps": _COUNT, "save_total_limit": _COUNT, "num_train_epochs": _POSITIVE,
    "learning_rate": _NOT_NEGATIVE, "weight_decay": _NOT_NEGATIVE, "warmup_steps": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE, "logging_steps": _POSITIVE, "eval_steps": _POSITIVE, "save_steps": _POSITIVE,
    "dataloader_num_workers": _NOT_NEGATIVE, "seed": _SEED, "data_seed": _SEED, "sample_seed": _SEED,
    "early_stopping_patience": _COUNT, "label_smoothing_factor": Range(0, 1), "lora_alpha": _COUNT,
    "neftune_noise_alpha": _NOT_NEGATIVE,
}  # fmt: skip
# The smaller they are, the better; transformers assumes that only of losses.
SMALL_IS_GOOD = frozenset(
    ("perplexity", "mse", "mae", "gap", "paired_distance", "distribution_gap", "alignment", "uniformity",
     "linear_separability")
)  # fmt: skip


def refuse_out_of_range(arguments: Any) -> None:
    """Raise if a number is out of its range.

    Args:
        arguments: with fields of `RANGES`.

    Raises:
        UsageError: the text names the option and its range.
    """
    for name, allowed in RANGES.items():
        value = getattr(arguments, name, None)
        if value is not None and not allowed.holds(value):
            raise UsageError(f"--{name} got {value}; it must be a number {allowed.described()}")
    steps = getattr(arguments, "max_steps", -1)
    if steps == 0 or steps < -1:
        raise UsageError(f"--max_steps got {steps}; it must be at least 1, or left out to train whole epochs")


def is_small_good(metric: str) -> bool:
    """Tell whether a metric is better the smaller it is; with or without the name of its data.

    >>> is_small_good("eval_perplexity"), is_small_good("accuracy"), is_small_good("token_loss")
    (True, False, True)
    """
    name = metric.removeprefix("eval_")
    return name in SMALL_IS_GOOD or name.endswith("loss")
