"""The options that training commands share: model, adapter, data and run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from transformers import TrainingArguments

from training.errors import UsageError


def option(default: Any, text: str) -> Any:
    """A field with its help."""
    return field(default=default, metadata={"help": text})


@dataclass
class ModelArguments:
    """Which base model, and how it is loaded."""

    _argument_group_name = "base model"

    model: str | None = option(None, "Pretrained model: a name on the Hub or a local folder.")
    revision: str | None = option(None, "Branch, tag or commit of the model on the Hub.")
    gguf_file: str | None = option(None, "A GGUF file in that folder or repository; it is de-quantised on loading.")
    dtype: str = option("float32", "Precision of the frozen weights: float32, bfloat16, float16 or auto (as stored).")
    load_in_8bit: bool = option(False, "Quantise the base to 8 bits with bitsandbytes.")
    load_in_4bit: bool = option(False, "Quantise the base to 4 bits (NF4) with bitsandbytes.")
    attn_implementation: str | None = option(None, "eager, sdpa, flash_attention_2, ...; the model's default if unset.")
    trust_remote_code: bool = option(False, "Run Python code that the model's repository brings along. Off: refuse it.")

    def __post_init__(self) -> None:
        if self.load_in_4bit and self.load_in_8bit:
            raise UsageError("--load_in_4bit and --load_in_8bit exclude each other; pass one of them")
        if self.dtype not in ("float32", "bfloat16", "float16", "auto"):
            raise UsageError(f"--dtype got {self.dtype!r}; choose float32, bfloat16, float16 or auto")

    def names(self) -> list[str]:
        """The base models that were named."""
        return [self.model] if self.model else []


@dataclass
class AdapterArguments:
    """Which adapter is trained."""

    _argument_group_name = "adapter"

    adapter: str = option("deep_lora", "deep_lora or lora; any other PEFT method comes with --adapter_config.")
    adapter_config: str | None = option(
        None,
        "JSON or YAML file with the fields of a PEFT config, peft_type among them; replaces the options below, except "
        "--init_* (and --modules_to_save, which is added).",
    )
    rank: int = option(8, "Rank of the update; even for deep_lora with --init_sides both.")
    target_modules: list[str] = field(
        default_factory=lambda: ["all-linear"],
        metadata={"help": "Names of the layers to adapt, one regular expression, or all-linear."},
    )
    exclude_modules: list[str] | None = option(None, "Names of layers that are left alone.")
    modules_to_save: list[str] | None = option(
        None, "Layers that are trained whole; new heads are found and added by themselves."
    )
    adapter_dropout: float = option(0.0, "Dropout on the input of the adapter, in [0, 1).")
    lora_alpha: int | None = option(None, "LoRA's scale is lora_alpha / rank; the rank if unset. Deep LoRA has none.")
    depth: int = option(3, "Number of factors of deep_lora.")
    freeze_subspaces: bool = option(False, "Train the cores of deep_lora alone; U and V keep their first values.")
    gamma: float = option(1.0, "Rate of U and V of deep_lora relative to that of the cores.")
    max_update_norm: float | None = option(
        None,
        "Bound on the norm of every update of deep_lora, in root-mean-square singular values of its weight: with 0.4 a "
        "rate that is too high does not diverge. Unbounded if unset.",
    )
    max_relative_step: float | None = option(
        None,
        "No step of a factor of deep_lora is longer than this share of its norm (0.015, say): no rate is too high for "
        "the adapter any more. Takes --max_update_norm; a new head needs --other_learning_rate. Unlimited if unset.",
    )
    other_learning_rate: float | None = option(
        None, "Rate of what is trained beside deep_lora, such as a new head; --learning_rate if unset."
    )
    init_batches: int = option(
        4, "Training batches (on each process) whose gradient sets the subspaces of deep_lora; 0 leaves them random."
    )
    init_sides: Literal["both", "right"] = option(
        "right",
        "Which singular vectors of the gradient span the subspaces of deep_lora: right (all of them, the default) or "
        "both (half of them left, half right: the paper's).",
    )
    init_exact_bytes: int = option(
        2**29,
        "Memory in which the gradients of all adapted layers may be summed exactly: the subspaces are then the same on "
        "any number of processes. Where they do not fit together, each is summed approximately.",
    )

    def __post_init__(self) -> None:
        if self.adapter not in ("deep_lora", "lora"):
            raise UsageError(
                f"--adapter got {self.adapter!r}; choose deep_lora or lora, or describe any other PEFT method in a "
                "file for --adapter_config"
            )
        if self.rank < 1:
            raise UsageError(f"--rank got {self.rank}; it must be at least 1")
        for name in ("init_batches", "init_exact_bytes"):
            if (value := getattr(self, name)) < 0:
                raise UsageError(f"--{name} got {value}; it must not be negative")
        for name in ("max_relative_step", "other_learning_rate", "gamma"):
            if (share := getattr(self, name)) is not None and not share > 0:
                raise UsageError(f"--{name} got {share}; it must be positive, or left out")
        if self.adapter == "deep_lora" and not self.adapter_config:
            self.check_halves("--rank", self.rank)

    def check_halves(self, name: str, rank: int) -> None:
        """Subspaces from both sides of the gradient need a rank of deep_lora that can be halved.

        Raises:
            UsageError: it is odd; `name` says where it came from.
        """
        if self.init_batches and self.init_sides == "both" and rank % 2:
            raise UsageError(
                f"{name} got {rank}; with --init_sides both deep_lora needs an even rank, half of it for each side of "
                "the gradient: pass an even rank, --init_sides right or --init_batches 0"
            )


@dataclass
class DataArguments:
    """Where the data come from, and how much of them is used."""

    _argument_group_name = "data"

    dataset: str | None = option(
        None, "A .csv, .tsv, .json, .jsonl or .parquet file, a folder, or a name for datasets.load_dataset."
    )
    dataset_config: str | None = option(None, "Configuration of a data set on the Hub.")
    validation_data: str | None = option(None, "Another file to validate on; otherwise a split or a part of --dataset.")
    test_data: str | None = option(None, "Another file to test on, once, after training.")
    train_split: str = option("train", "Split of the data set to train on.")
    validation_split: str | None = option(None, "Split to validate on; validation, dev, valid or val if there is one.")
    test_split: str | None = option(None, "Split to test on; test if there is one.")
    validation_fraction: float = option(0.1, "Part of the training data to validate on where there is no split for it.")
    num_train_samples: int | None = option(None, "Use so many training samples, drawn with --sample_seed.")
    num_validation_samples: int | None = option(None, "Use so many validation samples.")
    num_test_samples: int | None = option(None, "Use so many test samples.")
    sample_seed: int = option(0, "Seed of the draws above and of the validation part.")
    label_column: str | None = option(None, "Column with the answers: classes, numbers or tags. Default: label.")

    def __post_init__(self) -> None:
        if not 0 < self.validation_fraction < 1:
            raise UsageError(f"--validation_fraction got {self.validation_fraction}; it must lie between 0 and 1")
        for name in ("num_train_samples", "num_validation_samples", "num_test_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} got {value}; it must be at least 1, or left out for all samples")


@dataclass
class RunArguments(TrainingArguments):
    """How long and how fast, where to, and on what: all of transformers' TrainingArguments."""

    _argument_group_name = "training (--help_all shows every option of transformers' TrainingArguments)"

    output_dir: str | None = option("runs/finetune", "Folder for everything that is written.")
    learning_rate: float = option(
        None, "Rate of the optimizer. If unset: 1e-3; 3e-3 for deep_lora where the schedule lets the rate fall."
    )
    per_device_train_batch_size: int = option(16, "Training samples in a step on each process.")
    per_device_eval_batch_size: int = option(32, "Samples in a forward pass of evaluation on each process.")
    logging_steps: float = option(10, "Steps between two logs; below 1 it is a part of the whole run.")
    eval_strategy: str = option("epoch", "When to validate: no, steps (see --eval_steps) or epoch.")
    save_strategy: str = option("epoch", "When to write a checkpoint: no, steps (see --save_steps) or epoch.")
    save_total_limit: int | None = option(2, "Checkpoints that are kept; older ones are deleted.")
    report_to: list[str] = field(
        default_factory=lambda: ["none"],
        metadata={"help": "Trackers to log to: tensorboard, wandb, trackio, ...; none or all."},
    )
    seed: int = option(0, "Seed of new weights, dropout and the order of the data.")
    push_to_hub: bool = option(False, "Upload the adapter, and its LoRA export, to the Hub after training.")
    hub_private_repo: bool | None = option(None, "Make the new repository private.")
    dry_run: bool = option(False, "Show what would be trained, and stop.")
    overwrite: bool = option(False, "Delete the checkpoints of an earlier run in --output_dir instead of going on.")
    metric_source: Literal["local", "evaluate"] = option(
        "local",
        "Where metrics come from: local (scikit-learn, scipy) or evaluate, whose definitions are code from the Hub; "
        "where it cannot be reached the local ones are taken.",
    )
    license: str | None = option(None, "Licence named in the model card, such as apache-2.0.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_eval_metrics:
            raise UsageError(
                "--batch_eval_metrics asks for metrics batch by batch, and those of this package are of all rows "
                "together; leave it out (--eval_accumulation_steps 1 spares the accelerator's memory)"
            )
        if self.device.type == "cpu":
            self.dataloader_pin_memory = False


FEATURED = (
    "output_dir", "num_train_epochs", "max_steps", "learning_rate", "lr_scheduler_type", "warmup_steps",
    "weight_decay", "optim", "per_device_train_batch_size", "per_device_eval_batch_size",
    "gradient_accumulation_steps", "gradient_checkpointing", "bf16", "fp16", "torch_compile", "eval_strategy",
    "eval_steps", "save_strategy", "save_steps", "save_total_limit", "logging_steps", "load_best_model_at_end",
    "metric_for_best_model", "report_to", "seed", "resume_from_checkpoint", "use_cpu", "push_to_hub", "hub_model_id",
    "hub_private_repo", "dry_run", "overwrite", "metric_source", "license", "dataloader_num_workers",
)  # fmt: skip
