"""How well sketches find the leading subspaces of real gradients: the evidence behind `deep_lora.subspaces.sketch`.

For every linear layer of the MiniLM encoder, on the first batches of labeled film reviews, the largest principal angle
between exact singular subspaces of the summed gradient (float64), of r right vectors as by default or of r/2 from both
sides, and those found by

- a linear sketch in one pass (`G Omega`, `Psi G`, twice as many rows in Psi), which sums exactly over batches, and
- the probe of this package (a block Krylov space inside every backward call, leading triplets kept between calls).

    python -m benchmarks.studies.sketch_accuracy

Directions without gradient (the last layers see one token a sentence, so their gradients have low rank) do not count.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from benchmarks.packages import MINILM, packaged_file
from benchmarks.result_files import RESULTS, compact_json, versions, write_json
from benchmarks.reviews import load_reviews
from deep_lora.layers.gradient import GradientOperator
from deep_lora.subspaces.sketch import ITERATIONS, OVERSAMPLING, GradientSketch, kept_width
from dmf.linalg import orthonormalize, principal_angles

Calls = list[tuple[Tensor, Tensor]]


def captured_calls(num_batches: int, batch_size: int, seed: int) -> dict[str, Calls]:
    """Capture input and output gradient of every encoder layer, for each batch."""
    torch.manual_seed(seed)
    folder = packaged_file(*MINILM)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).eval()
    reviews = load_reviews()
    order = np.random.default_rng(seed).permutation(len(reviews.texts))
    calls: dict[str, Calls] = {}

    def watch(name: str) -> object:
        def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            x = args[0].detach().flatten(0, -2)
            output.register_hook(lambda grad: calls.setdefault(name, []).append((x, grad.flatten(0, -2))))

        return hook

    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and "encoder" in name:
            module.register_forward_hook(watch(name))
    for index in range(num_batches):
        batch = reviews.select(order[index * batch_size : (index + 1) * batch_size])
        inputs = tokenizer(batch.texts, padding=True, truncation=True, max_length=64, return_tensors="pt")
        model(**inputs, labels=torch.from_numpy(batch.labels)).loss.backward()
    return calls


def linear_sketch(gradient: Tensor, half_rank: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Find leading subspaces from `G Omega` and `Psi G` alone."""
    generator = torch.Generator().manual_seed(seed)
    omega = torch.randn(gradient.shape[1], width, generator=generator, dtype=gradient.dtype)
    psi = torch.randn(2 * width, gradient.shape[0], generator=generator, dtype=gradient.dtype)
    basis = orthonormalize(gradient @ omega)
    u, _, vh = torch.linalg.svd(torch.linalg.lstsq(psi @ basis, psi @ gradient).solution, full_matrices=False)
    return basis @ u[:, :half_rank], vh[:half_rank].mT


def probe(calls: Calls, rank: int, vectors: int, width: int, seed: int) -> tuple[Tensor, Tensor]:
    """Find leading subspaces by the sketch of this package, with so many triplets kept between calls."""
    rows, columns = calls[0][1].shape[1], calls[0][0].shape[1]
    sketch = GradientSketch(
        rows=rows, columns=columns, width=width, block=rank + OVERSAMPLING, iterations=ITERATIONS,
        seed=seed, dtype=torch.float32, device=torch.device("cpu"),
    )  # fmt: skip
    for x, delta in calls:
        sketch.update(GradientOperator.from_rows(x, delta))
    svd = sketch.leading(vectors)
    return svd.left.double(), svd.right.double()


def summary(angles: list[float]) -> dict[str, float]:
    return {"median": float(torch.tensor(angles).median()), "max": max(angles)}


def measure(calls: dict[str, Calls], rank: int, seed: int) -> dict[str, dict[str, float]]:
    """Measure the largest principal angle, over both sides or of the right one, for every method."""
    half = rank // 2
    angles: dict[str, list[float]] = {}
    for layer_calls in calls.values():
        gradient = sum((delta.double().mT @ x.double() for x, delta in layer_calls), start=torch.zeros(()))
        u, s, vh = torch.linalg.svd(gradient, full_matrices=False)
        if s[rank - 1] < 1e-9 * s[0]:
            continue
        exact = u[:, :half], vh[:half].mT
        found = {f"linear sketch, width {w}": linear_sketch(gradient, half, w, seed) for w in (2 * rank, 4 * rank, 96)}
        found[f"probe, width {kept_width(rank)}"] = probe(layer_calls, rank, half, kept_width(rank), seed)
        for name, pair in found.items():
            largest = max(principal_angles(a, b)[0].item() for a, b in zip(exact, pair, strict=True))
            angles.setdefault(name, []).append(largest)
        for width in (kept_width(rank), 2 * rank, 3 * rank):
            right = probe(layer_calls, rank, rank, width, seed)[1]
            found_angle = principal_angles(vh[:rank].mT, right)[0].item()
            angles.setdefault(f"right side, probe, width {width}", []).append(found_angle)
    return {name: summary(values) for name, values in angles.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapter; r/2 directions are compared")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--num_batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "sketch_accuracy.json")
    arguments = parser.parse_args()
    result = {
        "settings": {key: value for key, value in vars(arguments).items() if key != "output"}
        | {"oversampling": OVERSAMPLING, "iterations": ITERATIONS},
        "versions": versions("torch", "transformers"),
        "angles_in_radians": {
            f"{count} batches": measure(captured_calls(count, arguments.batch_size, arguments.seed), arguments.rank, 0)
            for count in arguments.num_batches
        },
    }
    write_json(arguments.output, result)
    print(compact_json(result["angles_in_radians"]))


if __name__ == "__main__":
    main()
