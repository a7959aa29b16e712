"""Complete a photograph of which most pixels are missing, as a matrix.

    python examples/matrix_completion_photograph.py
    python examples/matrix_completion_photograph.py --missing 0.8
    python examples/matrix_completion_photograph.py --every 4 --rank 10 --epochs 10     # to see that it works

With `--missing 0.8` it takes seconds, and prints

    80% missing: 18.2 dB on the missing pixels (biases alone 13.5 dB)
"""

import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_sample_image

from dmf import MatrixCompletion


def psnr(error: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio, in decibels, of values between 0 and 1."""
    return float(-10 * np.log10(np.mean(error**2)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missing", type=float, default=0.7, help="share of the pixels to remove, between 0 and 1")
    parser.add_argument("--rank", type=int, default=80)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--every", type=int, default=1, help="take only each n-th row and column")
    parser.add_argument("--seed", type=int, default=0, help="of the missing pixels and of the start")
    parser.add_argument("--output", type=Path, default=Path("runs/matrix_completion/photograph.png"))
    args = parser.parse_args()
    truth = load_sample_image("china.jpg")[:: args.every, :: args.every].mean(axis=2) / 255  # gray, from 0 to 1
    gone = np.random.default_rng(args.seed).random(truth.shape) < args.missing
    observed = np.where(gone, np.nan, truth)

    model = MatrixCompletion(
        rank=args.rank, weight_decay=0.25, clip=(0.0, 1.0), max_epochs=args.epochs, patience=args.epochs,
        validation_fraction=0.05, random_state=args.seed, verbose=1,
    )  # fmt: skip
    completed = np.where(gone, model.fit(observed).complete(), observed)

    quality = psnr((completed - truth)[gone])
    biases = psnr((model.mean_ + model.row_bias_[:, None] + model.column_bias_ - truth)[gone])
    print(f"{args.missing:.0%} missing: {quality:.1f} dB on the missing pixels (biases alone {biases:.1f} dB)")

    gray = plt.get_cmap("gray").with_extremes(bad="tab:red")  # missing pixels are red
    figure, axes = plt.subplots(1, 3, figsize=(15, 3.8), layout="constrained")
    pictures = {"observed": observed, f"completed, {quality:.1f} dB": completed, "truth": truth}
    for axis, (title, picture) in zip(axes, pictures.items(), strict=True):
        axis.imshow(np.ma.masked_invalid(picture), cmap=gray, vmin=0, vmax=1)
        axis.set_title(title)
        axis.axis("off")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=110)


if __name__ == "__main__":
    main()
