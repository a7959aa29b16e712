"""Without the step rule: what is learned at the rates that users of LoRA bring, by Trainer and nothing else.

    python -m benchmarks.run plain_rates      # results/plain_rates.json; runs that are kept are not repeated

MiniLM and film reviews that are longer than those of the few-shot study. `DeepLoraConfig(deep_lora_version=3)` stores
its factors half as small, as versions before did; under the step rule that has no influence.
"""

from __future__ import annotations

import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)

from benchmarks.kept_runs import RunFolder
from benchmarks.packages import MINILM, packaged_file
from benchmarks.reviews import draw_balanced, load_reviews
from deep_lora import DeepLoraConfig
from training.results.intervals import mean_with_interval

KEPT = Path("runs/plain_rates")
CONFIGS = {"lora": LoraConfig, "deep_lora": DeepLoraConfig}


def measure(settings: dict[str, Any], path: Path = KEPT) -> dict[str, Any]:
    """Train every method at every rate on every seed, seed by seed; return the scores on the held-out reviews."""
    kept = RunFolder(path, settings["task"])
    methods = settings["methods"]
    for seed, rate, name in product(range(settings["seeds"]), settings["rates"], methods):
        with kept.claim(key := key_of(methods[name], rate, seed)) as mine:
            if mine and kept.kept(key) is None:
                kept.keep(key, run(settings["task"], methods[name], rate, seed))
                print(key, kept.kept(key), flush=True)
    found: dict[str, Any] = {}
    for name, rate in product(methods, settings["rates"]):
        runs = [kept.kept(key_of(methods[name], rate, seed)) or {} for seed in range(settings["seeds"])]
        scores = [one["accuracy"] for one in runs]
        losses = [one["loss"] for one in runs]
        found.setdefault(name, {})[f"{rate:g}"] = {"accuracy": scores, **mean_with_interval(scores), "loss": losses}
    return {"methods": found}


def key_of(method: dict[str, Any], rate: float, seed: int) -> str:
    return f"{method['adapter']} {method['config']} | {rate:g} | {seed}"


def run(task: dict[str, Any], method: dict[str, Any], rate: float, seed: int) -> dict[str, float]:
    """Train once; return the accuracy on the held-out reviews, and the mean training loss of the last steps."""
    tokenizer = AutoTokenizer.from_pretrained(packaged_file(*MINILM))
    train, held_out = parts(task, tokenizer, seed)
    set_seed(seed)
    base = AutoModelForSequenceClassification.from_pretrained(packaged_file(*MINILM), num_labels=2)
    same = {"target_modules": "all-linear", "task_type": "SEQ_CLS"}
    model = get_peft_model(base, CONFIGS[method["adapter"]](**same, **method["config"]))
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder, learning_rate=rate, max_steps=task["steps"], per_device_train_batch_size=task["batch"],
            per_device_eval_batch_size=100, logging_steps=task["steps"] // 4, save_strategy="no", report_to="none",
            use_cpu=True, disable_tqdm=True,
        )  # fmt: skip
        trainer = Trainer(
            model, arguments, train_dataset=train, eval_dataset=held_out, compute_metrics=_accuracy,
            data_collator=DataCollatorWithPadding(tokenizer),
        )  # fmt: skip
        trainer.train()
        accuracy = trainer.evaluate()["eval_accuracy"]
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    return {"accuracy": accuracy, "loss": losses[-1]}


def parts(task: dict[str, Any], tokenizer: Any, seed: int) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw training and held-out reviews of the lengths that the task asks for, encoded."""
    reviews = load_reviews()
    lengths = [len(ids) for ids in tokenizer(reviews.texts)["input_ids"]]
    fitting = np.flatnonzero([task["min_tokens"] <= length <= task["max_tokens"] for length in lengths])
    drawn = draw_balanced(reviews.select(fitting), task["train"] + task["held_out"], seed)
    encoded = tokenizer(drawn.texts)
    rows = [
        {**{name: values[place] for name, values in encoded.items()}, "labels": int(label)}
        for place, label in enumerate(drawn.labels)
    ]
    return rows[: task["train"]], rows[task["train"] :]


def _accuracy(predicted: Any) -> dict[str, float]:
    return {"accuracy": float((predicted.predictions.argmax(-1) == predicted.label_ids).mean())}
