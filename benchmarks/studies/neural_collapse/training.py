"""Train a feature network with each of the compared losses, and measure how far its features have collapsed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.studies.neural_collapse.network import Images
from collapse import ClassStatistics, NormalizedClassifier, neural_collapse, retract_
from collapse.losses import nonl_loss, ntce_loss, regularized_cross_entropy
from collapse.metrics import nearest_center_agreement
from collapse.theory import unit_rows

METHODS = ("cross_entropy", "regularized", "normalized", "ntce", "nonl")
ON_THE_SPHERE = ("normalized", "ntce", "nonl")


@dataclass
class Settings:
    """One run."""

    method: str = "normalized"
    learning_rate: float = 0.05
    scale: float | None = None  # of the logits on the sphere
    weight_decay: float = 5e-4  # cross entropy only; the regularized model has its own penalty
    strength: float = 1e-4
    momentum: float = 0.9
    batch_size: int = 128
    steps: int = 400
    measure_every: int = 50
    decay_at: tuple[float, ...] = (0.5, 0.8)  # fractions of the steps at which the rate falls to a tenth
    seed: int = 0


class Point(NamedTuple):
    """Measurements after some steps: train metrics, train and test accuracy, loss of the last batch."""

    step: int
    metrics: dict[str, float]


@dataclass
class Run:
    """A trained network with its head and its curve."""

    network: nn.Module
    head: nn.Module
    points: list[Point] = field(default_factory=list)


def make_head(settings: Settings, num_features: int, num_classes: int) -> nn.Module:
    """Make a plain linear head, or a normalized one for the methods on the sphere."""
    if settings.method in ON_THE_SPHERE:
        return NormalizedClassifier(num_features, num_classes, settings.scale)
    return nn.Linear(num_features, num_classes)


def batch_loss(settings: Settings, head: nn.Module, features: Tensor, labels: Tensor) -> Tensor:
    """Compute the loss of one batch by the method's formula."""
    if settings.method in ("ntce", "nonl"):
        loss = ntce_loss if settings.method == "ntce" else nonl_loss
        return loss(features, labels, head.weight, head.scale)  # type: ignore[arg-type]
    logits = head(features)
    if settings.method == "regularized":
        weight: Any = head.weight
        return regularized_cross_entropy(logits, labels, features, weight, settings.strength)
    return functional.cross_entropy(logits, labels)


@torch.no_grad()
def measure(network: nn.Module, head: nn.Module, train: Images, test: Images) -> dict[str, float]:
    """Measure NC1 to NC4 and accuracy on the training images, and accuracy on the test images."""
    network.eval()
    rows = torch.cat([network(pixels) for pixels in train.pixels.split(500)])
    test_rows = torch.cat([network(pixels) for pixels in test.pixels.split(500)])
    network.train()
    predictions, weight = head(rows).argmax(1), head.weight
    if isinstance(head, NormalizedClassifier):
        rows, weight = unit_rows(rows), head.class_vectors()
    statistics = ClassStatistics(len(weight), rows.shape[1])  # type: ignore[arg-type]
    statistics.update(rows, train.labels)
    metrics = neural_collapse(statistics, weight=weight)  # type: ignore[arg-type]
    metrics["nc4"] = nearest_center_agreement(rows, predictions, statistics)
    metrics["train_accuracy"] = (predictions == train.labels).double().mean().item()
    metrics["test_accuracy"] = (head(test_rows).argmax(1) == test.labels).double().mean().item()
    return metrics


def batches(train: Images, batch_size: int, steps: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Draw shuffled batches of full size, the same for every method with this seed."""
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < steps:
        for index in torch.randperm(len(train.labels), generator=generator).split(batch_size):
            if len(index) < min(batch_size, len(train.labels)) or done == steps:
                break
            done += 1
            yield train.pixels[index], train.labels[index]


def train_network(
    settings: Settings,
    build: Callable[[], nn.Module],
    train: Images,
    test: Images,
) -> Run:
    """Train with SGD and a stepped rate; class vectors on the sphere are retracted after each step.

    The network starts the same for every method with a seed, and sees the same batches.
    """
    torch.manual_seed(settings.seed)
    network = build()
    num_features = network(train.pixels[:2]).shape[1]
    run = Run(network, make_head(settings, num_features, int(train.labels.max()) + 1))
    parameters = [*network.parameters(), *run.head.parameters()]
    # The regularized model replaces weight decay on the head by its own penalty; the body keeps it everywhere.
    decay = 0.0 if settings.method == "regularized" else settings.weight_decay
    groups = [
        {"params": list(network.parameters()), "weight_decay": settings.weight_decay},
        {"params": list(run.head.parameters()), "weight_decay": decay},
    ]
    optimizer = torch.optim.SGD(groups, lr=settings.learning_rate, momentum=settings.momentum)
    milestones = [round(fraction * settings.steps) for fraction in settings.decay_at]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, milestones)
    for step, (pixels, labels) in enumerate(
        batches(train, settings.batch_size, settings.steps, settings.seed), start=1
    ):
        loss = batch_loss(settings, run.head, network(pixels), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        retract_(run.head)
        if step % settings.measure_every == 0 or step == settings.steps:
            if not all(p.isfinite().all() for p in parameters):
                break
            run.points.append(Point(step, {"loss": loss.item()} | measure(network, run.head, train, test)))
    return run
