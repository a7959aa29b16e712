"""A run that ends when it does not get better."""

from __future__ import annotations

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class EarlyStopping(TrainerCallback):
    """End the training after a number of evaluations without a better one.

    Unlike that of transformers it looks only at the log, so that a resumed run ends where the uninterrupted one does.

    Args:
        patience: that many evaluations.
    """

    def __init__(self, patience: int) -> None:
        self.patience = patience

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """End the training if too many evaluations follow the best one."""
        name = f"eval_{str(args.metric_for_best_model).removeprefix('eval_')}"
        values = [entry[name] for entry in state.log_history if name in entry]
        sign = 1 if args.greater_is_better else -1
        best = max(range(len(values)), key=lambda place: sign * values[place], default=0)
        if len(values) - 1 - best >= self.patience:
            control.should_training_stop = True

    on_train_begin = on_evaluate  # a run that had ended, and is started again
