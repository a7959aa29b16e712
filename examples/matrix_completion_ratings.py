"""Film ratings: three ways to predict the held-out tenth of MovieLens-100K."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matrix_completion_data import Ratings, split_ratings

from dmf import MatrixCompletion

matplotlib.use("Agg")
import matplotlib.pyplot as plt

VARIANTS: dict[str, dict[str, Any]] = {
    "biases, nearly no factors": {"rank": 2, "weight_decay": 100.0},
    "compressed factorization": {"rank": 20},
    "the same with implicit feedback": {"rank": 20, "weight_decay": 1.4, "implicit_feedback": True},
}


def complete_ratings(ratings: Ratings, output: Path, seed: int, epochs: int) -> dict[str, Any]:
    """Fit every variant to the same nine tenths, test on the last one, draw the training curves."""
    training, test = split_ratings(ratings, 0.1, seed)
    results = {}
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for name, settings in VARIANTS.items():
        model = MatrixCompletion(max_epochs=epochs, clip=True, random_state=seed, verbose=1, **settings)
        began = time.perf_counter()
        model.fit(training.rows, training.cols, training.values, shape=training.shape)
        seconds = time.perf_counter() - began
        error = -model.score(test.rows, test.cols, test.values)
        results[name] = {"settings": settings, "test_rmse": round(error, 4), "seconds": round(seconds, 2)}
        print(f"  {name:34} test RMSE {error:.4f}   {seconds:5.1f} s")
        curve = [record["training_rmse"] for record in model.history_]
        line = axis.plot(np.arange(1, len(curve) + 1), curve, label=name)
        axis.axhline(error, color=line[0].get_color(), linestyle=":")
    axis.set(xlabel="epoch", ylabel="RMSE (dotted: test)", title="ratings, 90 % for training")
    axis.legend()
    figure.savefig(output / "movielens.png", dpi=120)
    plt.close(figure)
    return results
