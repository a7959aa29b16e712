"""Follow neural collapse on Fashion-MNIST: a small ResNet with a normalized head against plain cross entropy.

    python examples/neural_collapse.py --steps 100 --per_class 50 --width 8     # seconds; NC1 0.4, normalized 0.3
    python examples/neural_collapse.py --methods cross_entropy normalized ntce nonl --scale 8

Every method starts from the same network and sees the same batches. The data are the files of a Debian package:

    apt-get install dataset-fashion-mnist
"""

import argparse
import gzip
import json
from pathlib import Path

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import TensorDataset

from collapse import ClassStatistics, NormalizedClassifier, neural_collapse, retract_
from collapse.losses import nonl_loss, ntce_loss
from collapse.metrics import nearest_center_agreement
from collapse.theory import unit_rows

METHODS = ("cross_entropy", "normalized", "ntce", "nonl")  # all but the first put features on the sphere
PANELS = {"nc1": "NC1", "nc2": "NC2", "nc3": "NC3", "test_accuracy": "test accuracy"}
Head = nn.Linear | NormalizedClassifier


def fashion_mnist(folder: Path, part: str, per_class: int) -> TensorDataset:
    """Read the first images of each class of one part ("train" or "t10k"), standardized, in their order."""
    with gzip.open(folder / f"{part}-images-idx3-ubyte.gz") as file:
        pixels = torch.frombuffer(bytearray(file.read()[16:]), dtype=torch.uint8).view(-1, 1, 28, 28)
    with gzip.open(folder / f"{part}-labels-idx1-ubyte.gz") as file:
        labels = torch.frombuffer(bytearray(file.read()[8:]), dtype=torch.uint8).long()
    kept = torch.cat([torch.where(labels == label)[0][:per_class] for label in range(10)]).sort().values
    return TensorDataset((pixels[kept] / 255 - 0.2860) / 0.3530, labels[kept])


class Block(nn.Module):
    """Two 3 x 3 convolutions with batch normalization and a shortcut."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(channels_in, channels_out, 3, stride, 1, bias=False), nn.BatchNorm2d(channels_out), nn.ReLU(),
            nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False), nn.BatchNorm2d(channels_out),
        )  # fmt: skip
        self.shortcut = nn.Sequential()
        if channels_in != channels_out:
            shortcut = nn.Conv2d(channels_in, channels_out, 1, stride, bias=False)
            self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(channels_out))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.inner(x) + self.shortcut(x))


def small_resnet(width: int) -> nn.Module:
    """Build three residual stages, average pooling and a linear layer.

    Batch normalization centers the features at the end: pooled ReLU outputs are non-negative, and no two vectors of a
    simplex ETF could then point away from each other.
    """
    return nn.Sequential(
        nn.Conv2d(1, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(),
        Block(width, width, 1), Block(width, 2 * width, 2), Block(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 64, bias=False), nn.BatchNorm1d(64),
    )  # fmt: skip


def batch_loss(method: str, head: Head, features: Tensor, labels: Tensor) -> Tensor:
    if isinstance(head, NormalizedClassifier) and method != "normalized":
        loss = ntce_loss if method == "ntce" else nonl_loss
        return loss(features, labels, head.weight, head.scale)
    return functional.cross_entropy(head(features), labels)


@torch.no_grad()
def measure(network: nn.Module, head: Head, train: TensorDataset, test: TensorDataset) -> dict[str, float]:
    """Measure NC1 to NC4 and accuracy on the training images, and accuracy on the test images."""
    network.eval()
    rows, test_rows = (torch.cat([network(x) for x in part.tensors[0].split(500)]) for part in (train, test))
    network.train()
    labels, predictions, weight = train.tensors[1], head(rows).argmax(1), head.weight
    if isinstance(head, NormalizedClassifier):
        rows, weight = unit_rows(rows), head.class_vectors()
    statistics = ClassStatistics(*weight.shape)
    statistics.update(rows, labels)
    return neural_collapse(statistics, weight=weight) | {
        "nc4": nearest_center_agreement(rows, predictions, statistics),
        "train_accuracy": (predictions == labels).double().mean().item(),
        "test_accuracy": (head(test_rows).argmax(1) == test.tensors[1]).double().mean().item(),
    }


def train_network(method: str, train: TensorDataset, test: TensorDataset, args: argparse.Namespace) -> list[dict]:
    """Train with SGD and a stepped learning rate, and return what was measured ten times along the way."""
    torch.manual_seed(args.seed)  # the same start for every method
    network = small_resnet(args.width)
    head = NormalizedClassifier(64, 10, args.scale) if method != "cross_entropy" else nn.Linear(64, 10)
    parameters = [*network.parameters(), *head.parameters()]
    optimizer = torch.optim.SGD(parameters, lr=args.learning_rate, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, [args.steps // 2, args.steps * 4 // 5])
    (pixels, labels), generator = train.tensors, torch.Generator().manual_seed(args.seed)  # and the same batches
    order, points = torch.empty(0, dtype=torch.long), []
    for step in range(1, args.steps + 1):
        order = order if len(order) >= 128 else torch.randperm(len(labels), generator=generator)
        batch, order = order.tensor_split([128])
        loss = batch_loss(method, head, network(pixels[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        retract_(head)  # puts class vectors back on the sphere
        if step % max(args.steps // 10, 1) == 0:
            points.append({"step": step, "loss": loss.item()} | measure(network, head, train, test))
            measured = "  ".join(f"{title} {points[-1][name]:.4f}" for name, title in PANELS.items())
            print(f"{method:13s} step {step:5d}  {measured}")
    return points


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["cross_entropy", "normalized"])
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--per_class", type=int, default=600, help="training images of each class")
    parser.add_argument("--learning_rate", type=float, default=0.05)
    parser.add_argument("--scale", type=float, help="of the logits on the sphere (default: by the class count)")
    parser.add_argument("--width", type=int, default=16, help="channels of the first stage")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output_dir", type=Path, default=Path("runs/neural_collapse"))
    args, curves = parser.parse_args(), {}
    train, test = (fashion_mnist(args.data, part, args.per_class) for part in ("train", "t10k"))
    figure, axes = plt.subplots(1, len(PANELS), figsize=(4 * len(PANELS), 3.4), layout="constrained")
    for method in args.methods:
        curves[method] = train_network(method, train, test, args)
        for axis, (name, title) in zip(axes, PANELS.items(), strict=True):
            axis.plot([p["step"] for p in curves[method]], [p[name] for p in curves[method]], label=method)
            axis.set(title=title, xlabel="step", yscale="log" if name == "nc1" else "linear")
    axes[0].legend(fontsize=8)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    figure.savefig(args.output_dir / "curves.png", dpi=120)
    (args.output_dir / "results.json").write_text(json.dumps(curves, indent=1) + "\n", encoding="utf8")


if __name__ == "__main__":
    main()
