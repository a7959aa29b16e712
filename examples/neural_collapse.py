"""Neural collapse on Fashion-MNIST: a small ResNet with a normalised head against plain cross entropy.

    python examples/neural_collapse.py                  # curves of NC1 to NC3 and accuracy, and a picture in 3-D
    python examples/neural_collapse.py --short          # a minute on one core
    python examples/neural_collapse.py --smoke          # seconds, on made-up images: needs no data
    python examples/neural_collapse.py --methods cross_entropy normalized ntce nonl --temperature 8

Every method starts from the same network and sees the same batches. Then a network with three features is trained on
four classes, and drawn: on the sphere its features gather at the corners of a tetrahedron, the simplex ETF of d = 3.
The data are the files of Debian's package `dataset-fashion-mnist`. Written to `--output_dir`: `curves.png`,
`simplex.png` and `results.json`; the exit status is 2 when the data are missing.

Under `accelerate launch` the methods are shared out: each process trains some of them, whole, so every number is that
of one process. The first process alone trains the small network of the picture, prints, writes and draws.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import cast

import torch
from accelerate.utils import gather_object
from neural_collapse_figures import draw_curves, draw_simplex
from neural_collapse_model import DEFAULT_DATA, Images, SmallResNet, fashion_mnist, made_up_images
from neural_collapse_training import LABELS, METHODS, ON_THE_SPHERE, Point, Settings, train_network
from processes import processes, refuse, say

from collapse import scale_for_loss
from collapse.theory import simplex_distance

PICTURE_CLASSES = [0, 1, 7, 8]  # top, trousers, sneaker, bag: far apart enough to see the geometry early


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["cross_entropy", "normalized"])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--per_class", type=int, default=600, help="training images of each class")
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--temperature", type=float, default=None, help="tau; default scale_for_loss(10)")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", default=DEFAULT_DATA, help="folder with the four .gz files")
    parser.add_argument("--output_dir", default="runs/neural_collapse")
    parser.add_argument("--short", action="store_true", help="100 steps on 50 images of each class")
    parser.add_argument("--smoke", action="store_true", help="20 steps on made-up images")
    arguments = parser.parse_args(argv)
    if arguments.short:
        arguments.steps, arguments.per_class, arguments.width = 100, 50, 8
    if arguments.smoke:
        arguments.steps, arguments.per_class, arguments.width = 20, 12, 4
    return arguments


def settings_of(arguments: argparse.Namespace, method: str, steps: int) -> Settings:
    return Settings(
        method, arguments.learning_rate, arguments.temperature if method in ON_THE_SPHERE else None,
        steps=steps, measure_every=max(steps // 10, 1), seed=arguments.seed,
    )  # fmt: skip


def load(arguments: argparse.Namespace) -> tuple[Images, Images]:
    """Training and test images.

    Raises:
        FileNotFoundError: the folder does not hold them.
    """
    if arguments.smoke:
        return made_up_images(arguments.per_class, seed=0), made_up_images(arguments.per_class, seed=1)
    train, test = (fashion_mnist(arguments.data, part) for part in ("train", "t10k"))
    return train.first_per_class(arguments.per_class), test.first_per_class(min(arguments.per_class, 200))


def compare(arguments: argparse.Namespace, train: Images, test: Images) -> dict[str, list[Point]]:
    """The curve of every method on the same network and all classes; each process trains some of the methods."""
    state = processes()
    curves = {}
    for method in arguments.methods[state.process_index :: state.num_processes]:
        say(f"\n{LABELS[method]}")
        settings = settings_of(arguments, method, arguments.steps)
        curves[method] = train_network(settings, partial(SmallResNet, arguments.width), train, test, show).points
    found = dict(gather_object(list(curves.items())))
    for method in found.keys() - curves.keys():
        say(f"\n{LABELS[method]}, trained on another process")
        for point in found[method]:
            show(point)
    return {method: found[method] for method in arguments.methods}


def three_features(
    arguments: argparse.Namespace, train: Images
) -> dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Features, labels and class vectors in three dimensions on four classes, early and at the end."""
    data = train.of_classes(PICTURE_CLASSES)
    steps = max(arguments.steps // 2, 50)
    pictures = {}
    for name, count in (("early", max(steps // 20, 5)), ("end", steps)):
        settings = settings_of(arguments, "normalized", count)
        settings.temperature = scale_for_loss(len(PICTURE_CLASSES))
        run = train_network(settings, partial(SmallResNet, arguments.width, 3), data, data)
        run.network.eval()
        with torch.no_grad():
            shown = data.first_per_class(60)
            vectors = cast(torch.Tensor, run.head.weight).detach()
            pictures[f"{name}, {count} steps"] = (run.network(shown.pixels), shown.labels, vectors)
    return pictures


def show(point: Point) -> None:
    names = {"nc1": "NC1", "nc2": "NC2", "nc3": "NC3", "train_accuracy": "train", "test_accuracy": "test"}
    say(f"step {point.step:5d}  " + "  ".join(f"{label} {point.metrics[name]:.4f}" for name, label in names.items()))


def main() -> int:
    arguments = parse_arguments()
    torch.manual_seed(arguments.seed)
    try:
        train, test = load(arguments)
    except FileNotFoundError as error:
        return refuse(error)
    curves = compare(arguments, train, test)
    if processes().is_main_process:
        write(arguments, curves, three_features(arguments, train))
    return 0


def write(
    arguments: argparse.Namespace,
    curves: dict[str, list[Point]],
    pictures: dict[str, tuple[torch.Tensor, torch.Tensor, torch.Tensor]],
) -> None:
    """Both pictures and `results.json`."""
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    draw_curves(output / "curves.png", {LABELS[name]: points for name, points in curves.items()})
    draw_simplex(output / "simplex.png", pictures)
    result = {
        "settings": {name: asdict(settings_of(arguments, name, arguments.steps)) for name in curves},
        "curves": {name: [{"step": p.step, **p.metrics} for p in points] for name, points in curves.items()},
        "class_vectors_to_simplex": {name: simplex_distance(vectors) for name, (_, _, vectors) in pictures.items()},
    }
    (output / "results.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf8")
    print(f"\nwritten to {output}: curves.png, simplex.png, results.json")


if __name__ == "__main__":
    sys.exit(main())
