"""Watch features gather at the corners of a tetrahedron: four classes of Fashion-MNIST in three dimensions.

    python examples/neural_collapse_simplex.py
    python examples/neural_collapse_simplex.py --steps 50 --per_class 20     # to see that it works

With a normalized head, features and class vectors live on the sphere. Four classes collapse to a simplex equiangular
tight frame, which in three dimensions is a tetrahedron. The data are the files of a Debian package:

    apt-get install dataset-fashion-mnist

The first command takes less than a minute. Training enlarges differences of rounding, so the distances at the end
differ with the machine and its threads, such as 0.09 and 0.12. One last line is

    step 750: loss 0.0394, class vectors 0.1162 from a simplex
"""

import argparse
import gzip
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional

from collapse import NormalizedClassifier, retract_
from collapse.theory import simplex_distance, unit_rows

CLASSES = (0, 1, 7, 8)  # top, trousers, sneaker, bag: far enough apart to see the geometry early


def fashion_mnist(folder: Path, per_class: int) -> tuple[Tensor, Tensor]:
    """Read the first training images of the four classes, standardized, and their classes, renumbered from 0."""
    with gzip.open(folder / "train-images-idx3-ubyte.gz") as file:
        pixels = torch.frombuffer(bytearray(file.read()[16:]), dtype=torch.uint8).view(-1, 1, 28, 28)
    with gzip.open(folder / "train-labels-idx1-ubyte.gz") as file:
        labels = torch.frombuffer(bytearray(file.read()[8:]), dtype=torch.uint8)
    kept = torch.stack([torch.where(labels == label)[0][:per_class] for label in CLASSES])
    return (pixels[kept.flatten()] / 255 - 0.2860) / 0.3530, torch.arange(4).repeat_interleave(kept.shape[1])


def small_network(width: int) -> nn.Module:
    """Build three convolutions and a linear layer with three outputs, centered by batch normalization."""
    layers: list[nn.Module] = []
    for channels_in, channels_out in ((1, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [nn.Conv2d(channels_in, channels_out, 3, 2, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU()]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 3, bias=False), nn.BatchNorm1d(3)]
    return nn.Sequential(*layers, *head)


def draw(axis, features: Tensor, labels: Tensor, vectors: Tensor, title: str) -> None:
    """Draw features on the unit sphere as points, and class vectors as lines from its center."""
    turn, tilt = torch.meshgrid(torch.linspace(0, 2 * torch.pi, 40), torch.linspace(0, torch.pi, 20), indexing="ij")
    sphere = (tilt.sin() * turn.cos(), tilt.sin() * turn.sin(), tilt.cos())
    axis.plot_wireframe(*(part.numpy() for part in sphere), linewidth=0.2, color="gray", alpha=0.5)
    axis.scatter(*unit_rows(features).T.numpy(), c=labels.numpy(), cmap="tab10", vmax=9, s=8)
    for vector in unit_rows(vectors).tolist():
        axis.plot(*([0, value] for value in vector), color="black", linewidth=1.5)
    axis.set(title=title, xticks=[], yticks=[], zticks=[], box_aspect=(1, 1, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=750)
    parser.add_argument("--per_class", type=int, default=600, help="images of each class")
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--width", type=int, default=16, help="channels of the first convolution")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output", type=Path, default=Path("runs/neural_collapse/simplex.png"))
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    pixels, labels = fashion_mnist(args.data, args.per_class)
    shown = torch.cat([torch.where(labels == label)[0][:60] for label in range(4)])
    network, head = small_network(args.width), NormalizedClassifier(3, 4)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=args.learning_rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [args.steps // 2, args.steps * 4 // 5])

    moments = {max(args.steps // 20, 1): 1, args.steps: 2}  # step -> picture
    figure = plt.figure(figsize=(10, 4.6), layout="constrained")
    for step in range(1, args.steps + 1):
        batch = torch.randperm(len(labels))[:128]
        loss = functional.cross_entropy(head(network(pixels[batch])), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        retract_(head)  # puts class vectors back on the sphere
        if step in moments:
            vectors = head.class_vectors().detach()
            print(f"step {step}: loss {loss:.4f}, class vectors {simplex_distance(vectors):.4f} from a simplex")
            with torch.no_grad():
                features = network.eval()(pixels[shown])
            network.train()
            axis = figure.add_subplot(1, 2, moments[step], projection="3d")
            draw(axis, features, labels[shown], vectors, f"{step} steps")
    args.output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output, dpi=120)


if __name__ == "__main__":
    main()
