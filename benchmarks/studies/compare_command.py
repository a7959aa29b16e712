"""What `deep-lora compare` says of three few-shot tasks, beside what the few-shot study found on them.

    python -m benchmarks.run compare_command      # results/compare_command.json; runs/compare_command holds the runs

The command gets files, the MiniLM encoder and the number of samples, and nothing else. It trains transformers' own head
on the first token; the study has heads on the mean of the tokens (reviews) or compares two embeddings (word pairs). So
scores differ, and what is asked is who is ahead. Runs that are complete are not repeated.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.few_shot.comparisons import RULED, USUAL, gaps
from benchmarks.few_shot.tasks.encoders import WORDS, RelatedWords, WordPairs, word_rows
from benchmarks.packages import MINILM, packaged_file
from benchmarks.reviews import load_reviews
from training.results.intervals import mean_with_interval

FOLDER = Path("runs/compare_command")
PARTS = ("train", "validation", "test")
WORD_PAIRS: dict[str, type[WordPairs]] = {"simlex": WordPairs, "wordsim": RelatedWords}


def measure(settings: dict[str, Any], folder: Path = FOLDER) -> dict[str, Any]:
    """Run the command on each task, and set its verdict beside the study's difference."""
    found = {}
    for name, asked in settings["tasks"].items():
        write_parts(read(name), folder / name, asked["validation"], asked["test"])
        subprocess.run([sys.executable, "-m", "training", *words(folder / name, asked, settings)], check=True)
        comparison = json.loads((folder / name / "runs" / "comparison.json").read_text(encoding="utf-8"))
        kept = ("metric", "data", "seeds", "methods", "verdict")
        found[name] = {key: comparison[key] for key in kept} | {"study": study(asked["study"])}
    return {"tasks": found}


def read(name: str) -> pd.DataFrame:
    """Read the rows of a task."""
    if name == "reviews":
        reviews = load_reviews()
        return pd.DataFrame({"text": reviews.texts, "label": [reviews.class_names[one] for one in reviews.labels]})
    task = WORD_PAIRS[name]
    rows = word_rows(packaged_file(*WORDS) / task.file)
    return pd.DataFrame([(one, other, float(score) / task.highest_score) for one, other, score, *_ in rows],
                        columns=["text", "second", "label"])  # fmt: skip


def write_parts(rows: pd.DataFrame, folder: Path, validation: int, test: int) -> None:
    """Write disjoint parts, which are the same for all pairs; each pair draws its own samples from the first."""
    order = np.random.default_rng(0).permutation(len(rows))
    folder.mkdir(parents=True, exist_ok=True)
    parts = np.split(order, [len(rows) - validation - test, len(rows) - test])
    for name, chosen in zip(PARTS, parts, strict=True):
        rows.iloc[chosen].to_csv(folder / f"{name}.csv", index=False)


def words(folder: Path, asked: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Return what the command line gets."""
    train, validation, test = (folder / f"{part}.csv" for part in PARTS)
    options = {
        "model": packaged_file(*MINILM), "dataset": train, "validation_data": validation, "test_data": test,
        "output_dir": folder / "runs", **settings["options"], **asked["options"],
    }  # fmt: skip
    return ["compare", *(str(word) for name, value in options.items() for word in (f"--{name}", value))]


def study(name: str) -> dict[str, Any]:
    """Return the study's difference between the same two methods, Deep LoRA and LoRA at 1e-3, on its seeds."""
    differences = gaps(name, RULED, USUAL)
    return {"setting": name, "seeds": len(differences), "difference": mean_with_interval(differences)}
