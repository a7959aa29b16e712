"""One run of `few_shot_text.py`: a method on a seed, trained with transformers' Trainer."""

from __future__ import annotations

import copy
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

import torch
from few_shot_arguments import RATES, FewShotArguments, UsageError
from few_shot_data import LabelledSentences, Splits, encode
from peft import LoraConfig, PeftConfig, PeftModel, TaskType, get_peft_model
from processes import on_cpu, own_share
from transformers import (
    AutoModelForSequenceClassification,
    DataCollatorWithPadding,
    EvalPrediction,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)

from deep_lora import DeepLoraConfig, SubspaceInitializationCallback

LOGGING_STEPS = 5


@dataclass(frozen=True)
class Run:
    """What one method did on one seed. Losses are means over `LOGGING_STEPS` steps; seconds leave out evaluation."""

    method: str
    seed: int
    learning_rate: float
    test_accuracy: float
    validation_accuracy: float
    final_training_loss: float
    trainable_parameters: int
    seconds: float
    median_step_seconds: float
    loss_curve: list[tuple[int, float]] = field(repr=False)
    validation_curve: list[tuple[int, float]] = field(repr=False)


@dataclass(frozen=True)
class Trained:
    """A run's numbers, and the model it left."""

    run: Run
    model: PeftModel


class StepTimer(TrainerCallback):
    """Wall seconds of every optimizer step; their median says more on a busy machine than their sum."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_step_begin(self, args, state, control, **kwargs):
        self.start = time.perf_counter()

    def on_step_end(self, args, state, control, **kwargs):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.start)


class PostfixProgress(ProgressCallback):
    """Trainer's progress bar with the latest loss and accuracy behind it, instead of a printed line for each log."""

    def __init__(self) -> None:
        super().__init__()
        self.latest: dict[str, str] = {}

    def on_log(self, args, state, control, logs=None, **kwargs):
        shown = {"loss": "loss", "eval_accuracy": "validation accuracy"}
        self.latest |= {shown[name]: f"{value:.3f}" for name, value in (logs or {}).items() if name in shown}
        if self.training_bar is not None:
            self.training_bar.set_postfix(self.latest)


def load_base_model(model: str, class_names: list[str]) -> PreTrainedModel:
    """The pretrained encoder with a new classifier head, in float32.

    Raises:
        UsageError: transformers cannot load it as a sequence classifier.
    """
    names = dict(enumerate(class_names))
    try:
        return AutoModelForSequenceClassification.from_pretrained(
            model,
            num_labels=len(names),
            id2label=names,
            label2id={name: number for number, name in names.items()},
            dtype=torch.float32,
        )
    except (OSError, ValueError) as error:
        raise UsageError(f"--model {model} cannot be loaded as a sequence classifier: {error}") from error


def check_targets(model: torch.nn.Module, target_modules: str) -> None:
    """Refuses a pattern that matches no linear layer.

    Raises:
        UsageError: No name matches; the message lists how this model calls its layers.
    """
    linear = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
    if target_modules != "all-linear" and not any(re.fullmatch(target_modules, name) for name in linear):
        raise UsageError(
            f"--target_modules {target_modules} matches no linear layer of this model; its linear layers are "
            f"{linear[:8]}{' ...' if len(linear) > 8 else ''}: pass a pattern that matches whole names, or all-linear"
        )


def adapter_config(method: str, arguments: FewShotArguments) -> PeftConfig:
    """The adapter of a method. PEFT trains and saves the classifier head by itself for this task type.

    Raises:
        UsageError: The method refuses a value, such as an odd rank.
    """
    shared = {"task_type": TaskType.SEQ_CLS, "r": arguments.rank, "target_modules": arguments.target_modules}
    try:
        if method == "deep_lora":
            return DeepLoraConfig(**shared)
        return LoraConfig(lora_alpha=2 * arguments.rank, **shared)
    except ValueError as error:
        raise UsageError(f"{method} cannot be set up: {error}") from error


def add_adapter(model: PreTrainedModel, config: PeftConfig) -> PeftModel:
    """The model with a new adapter; the config stays as it is.

    Raises:
        UsageError: PEFT refuses, for instance to adapt a layer of the head that it also saves whole.
    """
    try:
        return get_peft_model(model, copy.deepcopy(config))
    except (TypeError, ValueError) as error:
        raise UsageError(
            f"the adapter does not fit {type(model).__name__}: {error}; pass a pattern to --target_modules that leaves "
            "out the layers of the head"
        ) from error


def method_callbacks(method: str, arguments: FewShotArguments) -> list[TrainerCallback]:
    if method == "deep_lora":
        return [SubspaceInitializationCallback(num_batches=arguments.init_batches)]
    return []


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def training_arguments(method: str, arguments: FewShotArguments, seed: int) -> TrainingArguments:
    """Plain AdamW on all trainable parameters, at one rate for the adapter and the head."""
    return TrainingArguments(
        output_dir=arguments.output_dir,
        max_steps=arguments.max_steps,
        learning_rate=arguments.learning_rate or RATES[method],
        per_device_train_batch_size=own_share(arguments.batch_size),
        per_device_eval_batch_size=own_share(arguments.eval_batch_size),
        eval_strategy="steps",
        eval_steps=arguments.eval_steps,
        eval_on_start=True,
        logging_steps=LOGGING_STEPS,
        save_strategy="no",
        report_to="none",
        disable_tqdm=False,
        seed=seed,
        ddp_find_unused_parameters=False,
        use_cpu=on_cpu(),
        dataloader_pin_memory=not on_cpu(),
    )


def train(
    method: str,
    seed: int,
    load_base: Callable[[], PreTrainedModel],
    config: PeftConfig,
    tokenizer: PreTrainedTokenizerBase,
    splits: Splits,
    arguments: FewShotArguments,
) -> Trained:
    """Trains one method on the balanced training sentences of one seed, and tests it once, at the end.

    Args:
        load_base: Loads a fresh base model; called after seeding, so all methods of a seed start from the same head.
    """
    set_seed(seed)
    model = add_adapter(load_base(), config)

    def encoded(part: LabelledSentences) -> list[dict]:
        return encode(part, tokenizer, arguments.max_length)

    trainer = Trainer(
        model=model,
        args=training_arguments(method, arguments, seed),
        train_dataset=encoded(splits.train[seed]),
        eval_dataset=encoded(splits.validation),
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=accuracy,
        callbacks=method_callbacks(method, arguments),
    )
    # Encoders with a classifier take `num_items_in_batch` and ignore it; Trainer would multiply their mean loss by the
    # number of processes and of accumulated batches.
    trainer.model_accepts_loss_kwargs = False
    trainer.remove_callback(ProgressCallback)
    timer = StepTimer()
    trainer.add_callback(timer)
    trainer.add_callback(PostfixProgress())
    start = time.perf_counter()
    trainer.train()
    elapsed = time.perf_counter() - start
    tested = trainer.predict(encoded(splits.test))
    losses = curve(trainer.state.log_history, "loss")
    validation = curve(trainer.state.log_history, "eval_accuracy")
    run = Run(
        method=method,
        seed=seed,
        learning_rate=trainer.args.learning_rate,
        test_accuracy=tested.metrics["test_accuracy"],
        validation_accuracy=validation[-1][1],
        final_training_loss=losses[-1][1],
        trainable_parameters=sum(p.numel() for p in model.parameters() if p.requires_grad),
        seconds=elapsed - sum(seconds for _, seconds in curve(trainer.state.log_history, "eval_runtime")),
        median_step_seconds=median(timer.seconds),
        loss_curve=losses,
        validation_curve=validation,
    )
    return Trained(run, model)


def curve(log_history: list[dict[str, float]], name: str) -> list[tuple[int, float]]:
    """(step, value) of everything that Trainer logged under a name."""
    return [(int(entry["step"]), entry[name]) for entry in log_history if name in entry]
