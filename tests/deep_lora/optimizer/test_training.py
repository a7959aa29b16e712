"""Plain AdamW at LoRA's usual rate on all adapter parameters trains every rank (the fast version of the promise)."""

import math

import pytest
import torch

from benchmarks.studies import plain_rates
from tests.models import adapt, adapter_tensors, bert_classifier, ids

TARGETS = ["query", "key", "value", "dense"]
LABELS = torch.arange(16) % 2


def _losses(steps: int, lr: float, **settings) -> list[float]:
    """Training losses of AdamW(lr) on adapters and head: 16 random sentences with labels that mean nothing."""
    model = adapt(bert_classifier(width=64), target_modules=TARGETS, task_type="SEQ_CLS", **settings).train()
    frozen = {name for name, p in adapter_tensors(model).items() if not p.requires_grad}
    assert bool(frozen) == settings.get("freeze_subspaces", False)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    sentences = ids(16, 12)
    losses = []
    for _ in range(steps):
        loss = model(input_ids=sentences, labels=LABELS).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _trains(losses: list[float]) -> None:
    assert all(math.isfinite(loss) for loss in losses)
    assert min(losses) < 0.1 * losses[0]  # learned by heart
    # no divergence: from its lowest value on the loss stays far below the start
    assert max(losses[losses.index(min(losses)) :]) < 0.5 * losses[0]


@pytest.mark.parametrize("rank", [2, 8, 64])
def test_adamw_at_the_usual_rate_overfits_at_every_rank(rank: int) -> None:
    _trains(_losses(100, lr=2.5e-4, r=rank))


@pytest.mark.parametrize("settings,lr", [({"variant": "narrow", "init_scale": 0.3}, 2e-3), ({"depth": 2}, 2.5e-4)])
def test_other_variants_and_depths_overfit_too(settings: dict, lr: float) -> None:
    _trains(_losses(150, lr=lr, r=8, **settings))


def test_the_cores_alone_learn_too() -> None:
    _trains(_losses(150, lr=7.5e-4, r=16, freeze_subspaces=True))


@pytest.mark.slow
def test_loras_rate_of_2e_4_trains_the_adapter_on_real_data_without_the_step_rule() -> None:
    """By Trainer and nothing else; more seeds, and LoRA's other rates, are in docs/migration.md."""
    task = {"train": 512, "held_out": 20, "steps": 100, "batch": 16, "min_tokens": 17, "max_tokens": 24}
    lora = {"adapter": "lora", "config": {"r": 8, "lora_alpha": 16}}
    ours, theirs = (
        plain_rates.run(task, method, 2e-4, seed=0) for method in ({"adapter": "deep_lora", "config": {}}, lora)
    )
    assert ours["loss"] < theirs["loss"] < math.log(2)
