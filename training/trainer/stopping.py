"""A run that ends when it does not get better, and the best model of a run."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.errors import RunError
from training.names import CHECKPOINT


class BestCheckpoint(TrainerCallback):
    """Tell Trainer where the best checkpoint is: of a folder that was moved it would silently keep the last weights."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Find the best checkpoint in the folder of the run, or where the resumed one was.

        Raises:
            RunError: it is in neither.
        """
        if not args.load_best_model_at_end or not state.global_step:
            return
        if not state.best_global_step:
            warnings.warn(
                f"up to step {state.global_step} the evaluations of this run were not compared, so "
                "--load_best_model_at_end chooses among later ones only",
                stacklevel=2,
            )
            return
        place = Path(str(args.output_dir)) / f"{CHECKPOINT}{state.best_global_step}"
        if place.is_dir():
            state.best_model_checkpoint = str(place)
        elif state.best_model_checkpoint is None:  # Trainer forgets a folder that is not there
            raise RunError(
                f"the best model is in {place.name}, which is no longer in {args.output_dir}; restore it, or "
                "pass --overwrite to start over"
            )


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
