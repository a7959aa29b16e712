"""One rate for all ranks: plain AdamW at LoRA's usual rate on every adapter parameter, defaults otherwise.

Fine-tunes the MiniLM encoder on the main job's training sentences (dropout on) at several ranks and reports the
training loss against its start. "random" keeps the random subspace of a fresh adapter, "gradient" sets it from the
first batches.

    python -m benchmarks.studies.rank_training
"""

from __future__ import annotations

import argparse
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, set_seed

from benchmarks.packages import MINILM, packaged_file
from benchmarks.result_files import RESULTS, versions, write_json
from benchmarks.reviews import LabeledTexts, load_reviews, training_reviews
from deep_lora import DeepLoraConfig, initialize_subspaces_

TRAIN, VALIDATION, TEST = 64, 200, 1000  # reviews, as in the main job
BATCH, MAX_LENGTH = 16, 48
TARGETS = r".*encoder.*\.(query|key|value|dense)$"


def forever(loader: DataLoader) -> Any:
    while True:
        yield from loader


def encode(reviews: LabeledTexts, tokenizer: Any) -> list[dict[str, Any]]:
    """Encode each review as token ids and a label, without padding."""
    encoded = tokenizer(reviews.texts, truncation=True, max_length=MAX_LENGTH)
    return [
        {**{name: values[i] for name, values in encoded.items()}, "labels": int(label)}
        for i, label in enumerate(reviews.labels)
    ]


def losses(rank: int, start: str, seed: int, settings: argparse.Namespace) -> list[float]:
    """Train once; return the loss of every step."""
    folder = str(packaged_file(*MINILM))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    training = encode(training_reviews(load_reviews(), TEST, VALIDATION, TRAIN, seed), tokenizer)
    set_seed(seed)
    loader = DataLoader(
        training,  # type: ignore[arg-type]
        batch_size=BATCH,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=DataCollatorWithPadding(tokenizer),
    )
    base = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2, dtype=torch.float32)
    config = DeepLoraConfig(task_type="SEQ_CLS", r=rank, target_modules=TARGETS)
    model = get_peft_model(base, config)
    if start == "gradient":

        def all_batches() -> None:
            for batch in loader:
                model(**batch).loss.backward()

        initialize_subspaces_(model, all_batches, seed=seed, exact_bytes=0)  # as the stored results were made
    model.train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=settings.learning_rate)
    curve = []
    for batch in tqdm(islice(forever(loader), settings.steps), total=settings.steps, desc=f"r={rank} {start}"):
        loss = model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve


def summary(curve: list[float]) -> dict[str, Any]:
    """Average over each epoch of four batches, so that no single batch decides."""
    epochs = [sum(curve[i : i + 4]) / 4 for i in range(0, len(curve) - 3, 4)]
    return {
        "first_epoch_loss": epochs[0],
        "last_epoch_loss": epochs[-1],
        "end_over_start": epochs[-1] / epochs[0],
        "lowest_over_start": min(epochs) / epochs[0],
        "highest_over_start": max(epochs) / epochs[0],
        "loss": [round(value, 4) for value in curve],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 8, 64])
    parser.add_argument("--starts", nargs="+", default=["random", "gradient"], choices=["random", "gradient"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--output", type=Path, default=RESULTS / "rank_training.json")
    settings = parser.parse_args()
    runs = [
        {"rank": rank, "subspace": start, "seed": seed, **summary(losses(rank, start, seed, settings))}
        for rank in settings.ranks
        for start in settings.starts
        for seed in settings.seeds
    ]
    result = {
        "settings": {key: value for key, value in vars(settings).items() if key != "output"},
        "versions": versions("torch", "transformers", "peft", "deep-lora"),
        "runs": runs,
    }
    write_json(settings.output, result)
    for run in runs:
        print(f"r={run['rank']:<3} {run['subspace']:9} seed {run['seed']}  end/start {run['end_over_start']:.3f}")


if __name__ == "__main__":
    main()
