"""transformers' Trainer with checkpoints that are complete or not there, and a stop where the loss is lost."""

from __future__ import annotations

import errno
import math
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import find_batch_size

from evaluation_hooks import has_repeats, random_states_kept, valid_rows
from training.errors import RunError, refused
from training.names import CHECKPOINT, PARTIAL, STATE
from training.trainer import checkpoints

_REFUSALS = (ValueError, TypeError, ImportError)  # of values, of keywords, of what is not installed


class NonFiniteLoss(RunError):
    """The loss or the weights are NaN or infinite; the last good checkpoint is kept."""


class AdapterTrainer(Trainer):
    """Trainer for the commands of this package.

    A checkpoint is written into `output_dir/.partial` and renamed when it is complete. Weights that are not finite are
    never saved, and a loss that is not finite ends the run at the next log, checkpoint or evaluation.

    Args:
        facts: what the manifest of each checkpoint says about the run.
    """

    def __init__(self, *args: Any, facts: dict[str, Any] | None = None, **kwargs: Any) -> None:
        with refused("the Trainer cannot be set up", ValueError, ImportError, RuntimeError):
            super().__init__(*args, **kwargs)
        self.facts = facts or {}
        self._folder: Path | None = None
        accepts: bool = getattr(self, "model_accepts_loss_kwargs", False)
        self.model_accepts_loss_kwargs: bool = accepts and self._model_divides_by_items()
        self.guard = FiniteLossGuard()
        self.add_callback(self.guard)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """Run Trainer's step, and show the guard the loss."""
        loss = super().training_step(*args, **kwargs)
        self.guard.observe(loss)
        return loss

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        """Run Trainer's epoch unless the run has ended: from the last checkpoint, Trainer would take one step more."""
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Run Trainer's step without the rows that a distributed loader repeats to fill its last batch.

        Trainer drops their predictions after gathering, but their part of a batch's mean loss would stay. All processes
        run the batch once more, since those of FSDP compute together.
        """
        loss, logits, labels = super().prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        rows = find_batch_size(inputs)
        if loss is None or rows is None or not has_repeats(self.accelerator, rows):
            return loss, logits, labels
        valid = max(1, valid_rows(self.accelerator, rows))
        first = {name: value[:valid] if _per_row(value, rows) else value for name, value in inputs.items()}
        return super().prediction_step(model, first, True, ignore_keys)[0], logits, labels

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate without changing the random states, so that a run continues alike from before and after."""
        with random_states_kept():
            return super().evaluate(*args, **kwargs)

    @refused("the optimizer cannot be set up (--optim, --optim_args, --learning_rate, --weight_decay)", *_REFUSALS)
    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create Trainer's optimizer."""
        return super().create_optimizer(*args, **kwargs)

    @refused("the schedule cannot be set up (--lr_scheduler_type, --lr_scheduler_kwargs)", *_REFUSALS)
    def create_scheduler(self, *args: Any, **kwargs: Any) -> Any:
        """Create Trainer's schedule."""
        return super().create_scheduler(*args, **kwargs)

    def _model_divides_by_items(self) -> bool:
        """Find out if the model's loss is a sum divided by `num_items_in_batch`, as Trainer takes for granted.

        Many models take the argument and ignore it; their mean over each process's batch would be multiplied by the
        number of processes and by the accumulated batches.
        """
        inputs = self._prepare_inputs(self.data_collator([self._probe_row()]))
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad(), self.accelerator.autocast():
                first, second = (self.model(**inputs, num_items_in_batch=torch.tensor(n)) for n in (1, 2))
        except TypeError:
            return False
        finally:
            self.model.train(was_training)
        return bool(torch.isclose(first["loss"].float(), 2 * second["loss"].float()).all())

    def _probe_row(self) -> dict[str, Any]:
        """Return the first training row, with the columns that the model takes."""
        self._set_signature_columns_if_needed()
        row = self.train_dataset[0]
        return {name: value for name, value in row.items() if name in (self._signature_columns or ())}

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._folder is None else str(self._folder)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Let Trainer write all of its files into a temporary folder, which then gets its final name."""
        self._check_weights()
        folder = Path(super()._get_output_dir(trial))
        partial = folder / PARTIAL
        name = f"{CHECKPOINT}{self.state.global_step}"
        if self.args.should_save:
            shutil.rmtree(partial / name, ignore_errors=True)
        self._barrier()
        self._folder = partial
        try:
            super()._save_checkpoint(model, trial)
        except Exception as error:
            raise saving_error(error, folder, name) from error
        finally:
            self._folder = None
        self._barrier()
        best = folder / f"{CHECKPOINT}{self.state.best_global_step}"
        if best.name == name or best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if self.args.should_save:
            try:
                self.state.save_to_json(str(partial / name / STATE))
                checkpoints.publish(partial / name, folder / name, {"step": self.state.global_step, **self.facts})
            except OSError as error:
                raise saving_error(error, folder, name) from error
            checkpoints.rotate(folder, self.args.save_total_limit, self.state.best_model_checkpoint)
        self._barrier()

    def _check_weights(self) -> None:
        finite = [torch.isfinite(_local(p)).all() for p in self.model.parameters() if p.requires_grad]
        if finite and not _all_ranks(torch.stack(finite).all(), self.args):
            raise NonFiniteLoss(lost_message("a trained weight", self.state, self.args))

    def _barrier(self) -> None:
        self.accelerator.wait_for_everyone()


def _per_row(value: Any, rows: int) -> bool:
    return isinstance(value, Tensor) and value.ndim > 0 and len(value) == rows


class FiniteLossGuard(TrainerCallback):
    """End the run where a loss was not finite; the device is asked only where Trainer logs, saves or evaluates."""

    def __init__(self) -> None:
        self.finite: Tensor | None = None

    def observe(self, loss: Tensor) -> None:
        """Remember whether all losses were finite, without waiting for the device."""
        now = torch.isfinite(loss.detach()).all()
        self.finite = now if self.finite is None else self.finite & now

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Check the losses since the last look.

        Raises:
            NonFiniteLoss: with the step, the last losses and what to do.
        """
        due = control.should_log or control.should_save or control.should_evaluate or control.should_training_stop
        last = state.global_step >= state.max_steps
        if self.finite is not None and (due or last):
            if not _all_ranks(self.finite, args):
                raise NonFiniteLoss(lost_message("the training loss", state, args))
            self.finite = None


def lost_message(what: str, state: TrainerState, args: TrainingArguments) -> str:
    """Say what happened, what is left, and what to do."""
    losses = [f"{entry['loss']:.4g}" for entry in state.log_history if math.isfinite(entry.get("loss", math.nan))]
    kept = checkpoints.newest_complete(Path(args.output_dir or "."))
    rate = next((entry["learning_rate"] for entry in reversed(state.log_history) if "learning_rate" in entry), None)
    return (
        f"{what} was not finite at or before step {state.global_step} of {state.max_steps} (last logged losses: "
        f"{', '.join(losses[-3:]) or 'none'}; rate {args.learning_rate if rate is None else rate:.3g}). "
        f"{f'{kept.name} is the last good checkpoint' if kept else 'No checkpoint had been written'}. Lower "
        "--learning_rate, add --warmup_steps, use --bf16 instead of --fp16, or look for empty or extreme samples"
    )


def _all_ranks(flag: Tensor, args: TrainingArguments) -> bool:
    """Return whether the flag is set on every process."""
    if args.world_size > 1 and torch.distributed.is_initialized():
        flag = flag.to(args.device, torch.int32)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MIN)
    return bool(flag)


def _local(parameter: Tensor) -> Tensor:
    """Return this process's part of a sharded parameter."""
    return parameter.to_local() if hasattr(parameter, "to_local") else parameter


def saving_error(error: Exception, folder: Path, name: str) -> Exception:
    """Return an error with a sentence for a full disk and the like; a `RunError` stays as it is."""
    shutil.rmtree(folder / PARTIAL / name, ignore_errors=True)
    if isinstance(error, RunError):
        return error
    text = str(error)
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in text
    kept = checkpoints.newest_complete(folder)
    good = f"{kept.name} is the last good checkpoint" if kept else "no checkpoint had been written"
    if full or shutil.disk_usage(folder).free < 1 << 20:
        free = shutil.disk_usage(folder).free / 1e6
        return RunError(
            f"the disk under {os.path.relpath(folder)} is full ({free:.1f} MB free), so {name} was not written; {good}"
            ". Free some space and rerun the command to resume from there (--save_total_limit keeps fewer)"
        )
    return RunError(f"{name} could not be written: {text or type(error).__name__}; {good}")
