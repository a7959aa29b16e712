"""One rate for all ranks: plain AdamW at LoRA's usual rate on every adapter parameter, defaults otherwise.

Fine-tunes the MiniLM encoder on the main job's training sentences (dropout on) at several ranks and reports the
training loss against its start. "random" keeps the random subspace of a fresh adapter, "gradient" sets it from the
first batches.

    python benchmarks/rank_training.py
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model
from torch.utils.data import DataLoader
from tqdm import tqdm
from transformers import AutoTokenizer, DataCollatorWithPadding, set_seed

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

from deep_lora import DeepLoraConfig, initialize_subspaces_
from few_shot_arguments import FewShotArguments
from few_shot_data import DEFAULT_MODEL, encode, load_sentences, split_sentences
from few_shot_training import load_base_model
from packaged_files import packaged_file


def forever(loader: DataLoader) -> Any:
    while True:
        yield from loader


def losses(rank: int, start: str, seed: int, settings: argparse.Namespace) -> list[float]:
    """Training loss of every step."""
    arguments = FewShotArguments(seeds=[seed])
    sentences = load_sentences(arguments)
    folder = str(packaged_file(*DEFAULT_MODEL))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    training = encode(split_sentences(sentences, arguments).train[seed], tokenizer, arguments.max_length)
    set_seed(seed)
    loader = DataLoader(
        training,  # type: ignore[arg-type]
        batch_size=arguments.batch_size,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
        collate_fn=DataCollatorWithPadding(tokenizer),
    )
    base = load_base_model(folder, sentences.class_names)
    config = DeepLoraConfig(task_type="SEQ_CLS", r=rank, target_modules=arguments.target_modules)
    model = get_peft_model(base, config)
    if start == "gradient":
        initialize_subspaces_(model, lambda: [model(**batch).loss.backward() for batch in loader], seed=seed)
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
    """Means over one epoch of four batches, so that a single batch decides nothing."""
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
    parser.add_argument("--output", default="benchmarks/results/rank_training.json")
    settings = parser.parse_args()
    runs = [
        {"rank": rank, "subspace": start, "seed": seed, **summary(losses(rank, start, seed, settings))}
        for rank in settings.ranks
        for start in settings.starts
        for seed in settings.seeds
    ]
    packages = ("torch", "transformers", "peft", "deep-lora")
    result = {
        "settings": {key: value for key, value in vars(settings).items() if key != "output"},
        "versions": {name: version(name) for name in packages} | {"python": platform.python_version()},
        "runs": runs,
    }
    Path(settings.output).parent.mkdir(parents=True, exist_ok=True)
    Path(settings.output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    for run in runs:
        print(f"r={run['rank']:<3} {run['subspace']:9} seed {run['seed']}  end/start {run['end_over_start']:.3f}")


if __name__ == "__main__":
    main()
