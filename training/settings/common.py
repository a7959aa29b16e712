"""The options that training commands share: base model, head and run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from transformers import TrainingArguments

from training.errors import UsageError
from training.settings.needs import refuse_missing
from training.settings.parsing import option
from training.settings.ranges import is_small_good, refuse_out_of_range


@dataclass
class ModelArguments:
    """Which base model, and how it is loaded."""

    _argument_group_name = "base model"

    model: str | None = option(None, "Pretrained model: a name on the Hub or a local folder.")
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    gguf_file: str | None = option(None, "A GGUF file in that folder or repository; it is dequantized on loading.")
    dtype: str = option("float32", "Precision of the frozen weights: float32, bfloat16, float16 or auto (as stored).")
    load_in_8bit: bool = option(False, "Quantize the base to 8 bits with bitsandbytes.")
    load_in_4bit: bool = option(False, "Quantize the base to 4 bits (NF4) with bitsandbytes.")
    attn_implementation: str | None = option(None, "eager, sdpa, flash_attention_2, ...; the model's default if unset.")
    trust_remote_code: bool = option(False, "Run Python code from the model's repository; otherwise it is refused.")

    def __post_init__(self) -> None:
        if self.load_in_4bit and self.load_in_8bit:
            raise UsageError("--load_in_4bit and --load_in_8bit exclude each other; pass one of them")
        if self.dtype not in ("float32", "bfloat16", "float16", "auto"):
            raise UsageError(f"--dtype got {self.dtype!r}; choose float32, bfloat16, float16 or auto")

    def names(self) -> list[str]:
        """Return the base models that were named."""
        return [self.model] if self.model else []


@dataclass
class HeadArguments:
    """The classifier head."""

    _argument_group_name = "head"

    normalized_head: bool = option(False, "Put features and class vectors of the classifier on the unit sphere.")
    head_scale: float | None = option(
        None, "Scale of the logits of a normalized head; if unset, it follows from the number of classes."
    )
    balance_classes: bool = option(
        False,
        "Weight the loss of each class by n / (classes x n of the class), so that rare classes count more.",
    )


@dataclass
class RunArguments(TrainingArguments):
    """How long and how fast, where to, and on what: all of transformers' TrainingArguments."""

    _argument_group_name = "training (--help_all shows every option of transformers' TrainingArguments)"

    output_dir: str | None = option("runs/finetune", "Folder for everything that is written.")
    num_train_epochs: float = option(
        None, "Passes over the training data; if unset, 3, or as many as make 100 steps. --max_steps wins."
    )
    learning_rate: float = option(
        None,
        "Learning rate; 1e-3 if unset. With deep_lora it applies only to what is trained beside the adapter, such as "
        "a new head; see --path_length.",
    )
    per_device_train_batch_size: int = option(16, "Training samples per step and process.")
    per_device_eval_batch_size: int = option(32, "Evaluation samples per forward pass and process.")
    logging_steps: float = option(
        None,
        "Steps between two logs; below 1, a fraction of the whole run. If unset, 10, or a tenth of a short run.",
    )
    logs_by_length: bool = field(default=False, init=False)
    eval_strategy: str = option("epoch", "When to validate: no, steps (see --eval_steps) or epoch.")
    save_strategy: str = option("epoch", "When to write a checkpoint: no, steps (see --save_steps) or epoch.")
    save_total_limit: int | None = option(2, "Checkpoints to keep; older ones are deleted.")
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Trackers to log to: tensorboard, wandb, trackio, ..., none or all."},
    )
    seed: int = option(0, "Seed of new weights, dropout and the order of the data.")
    push_to_hub: bool = option(False, "Upload the adapter, and its LoRA export, to the Hub after training.")
    hub_private_repo: bool | None = option(None, "Make the new repository private.")
    dry_run: bool = option(False, "Check everything, show what would be trained, and stop.")
    early_stopping_patience: int | None = option(
        None, "Stop after this many evaluations without an improvement of --metric_for_best_model (the loss if unset), "
        "and keep the best model."
    )  # fmt: skip
    overwrite: bool = option(
        False, "Delete the checkpoints of an earlier run in --output_dir instead of resuming from them."
    )
    metric_source: Literal["local", "evaluate"] = option(
        "local",
        "Where metrics come from: local (scikit-learn, scipy), or evaluate, whose definitions are code on the Hub. If "
        "the Hub cannot be reached, local metrics are used.",
    )
    license: str | None = option(None, "License named in the model card, such as apache-2.0.")

    def __post_init__(self) -> None:
        refuse_out_of_range(self)
        refuse_missing(self)
        if self.logging_steps is None:
            self.logging_steps, self.logs_by_length = 10, True
        greater: bool | None = getattr(self, "greater_is_better", None)
        if greater is None and is_small_good(self.metric_for_best_model or ""):
            self.greater_is_better = False
        if self.early_stopping_patience is not None:
            if self.eval_strategy == "no" or self.eval_strategy != self.save_strategy:
                raise UsageError(
                    "--early_stopping_patience keeps the best model; it needs --eval_strategy and --save_strategy "
                    "epoch, or both steps"
                )
            self.load_best_model_at_end = True
        super().__post_init__()
        self._require_checkpoints()
        if self.batch_eval_metrics:
            raise UsageError(
                "--batch_eval_metrics asks for metrics batch by batch, but this package computes metrics over all "
                "rows together; leave it out (--eval_accumulation_steps 1 spares the accelerator's memory)"
            )
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False
        if self.num_train_epochs is None and self.max_steps > 0:  # which win
            self.num_train_epochs = 3.0

    def _require_checkpoints(self) -> None:
        """Raise if evaluations have no checkpoint, of which the best could then not be loaded."""
        every, saved = self.eval_steps, self.save_steps
        if self.load_best_model_at_end and self.save_strategy == "steps" and every != saved:
            raise UsageError(
                f"--load_best_model_at_end needs a checkpoint of each evaluation, but --eval_steps is {every:g} and "
                f"--save_steps {saved:g}; pass the same for both"
            )


# What `--help` shows of a training command, besides its own data and model.
COMMON = (
    "output_dir", "num_train_epochs", "max_steps", "learning_rate", "per_device_train_batch_size", "adapter", "rank",
    "target_modules", "load_in_4bit", "bf16", "early_stopping_patience", "seed", "push_to_hub", "dry_run", "overwrite",
)  # fmt: skip
