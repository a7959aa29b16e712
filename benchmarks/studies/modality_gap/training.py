"""Train two towers on image-text pairs by one of the methods with transformers' Trainer, and measure the gap."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel, get_peft_model
from torch import Tensor, nn
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from benchmarks.studies.modality_gap.emoji_pairs import TEST_VENDOR, TRAIN_VENDORS, Pairs, Split
from benchmarks.studies.modality_gap.methods import Method
from deep_lora import DeepLoraConfig, SubspaceInitializationCallback
from modality import (
    ContrastiveOutput,
    DualEncoder,
    ModalitySwapCollator,
    PairStatistics,
    Temperature,
    TemperatureScheduleCallback,
    modality_gap,
    recall_at_k,
    temperature_parameter_groups,
)
from modality.metrics import mean_shift

ADAM_EPSILON = 1e-6  # the gradients of a Deep LoRA adapter start small


@dataclass
class Settings:
    """One run, the same for every method but for the rate."""

    learning_rate: float = 3e-3
    steps: int = 400
    concepts_per_batch: int = 128  # each drawn by both training vendors: twice as many pairs
    width: int = 256
    rank: int = 8  # of the Deep LoRA adapter on the text tower; 0 leaves the tower as it is
    warmup: float = 0.1  # share of the steps; the rate falls along a cosine after them
    text_dtype: str = "bfloat16"
    seed: int = 0


class Task(NamedTuple):
    """What is trained on; `text_features` is what the last layers make of the captions before any training."""

    pairs: Pairs
    split: Split
    text_layers: nn.ModuleList
    text_features: Float[Tensor, "concepts hidden"]


class LastLayers(nn.Module):
    """The layers of a BERT-like encoder that come after the stored hidden states, and the mean over tokens.

    Captions that occur several times in a batch are encoded once: `rows` says which caption each row has.
    """

    def __init__(self, layers: nn.ModuleList, dtype: torch.dtype) -> None:
        super().__init__()
        self.layers, self.dtype = layers.to(dtype), dtype

    def forward(
        self,
        hidden_states: Float[Tensor, "captions tokens hidden"],
        attention_mask: Bool[Tensor, "captions tokens"],
        rows: Int[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "n hidden"]:
        hidden = hidden_states.to(self.dtype)
        lowest = torch.finfo(self.dtype).min
        bias = torch.zeros_like(attention_mask, dtype=self.dtype).masked_fill_(~attention_mask, lowest)[:, None, None]
        for layer in self.layers:
            output = layer(hidden, bias)
            hidden = output[0] if isinstance(output, tuple) else output
        weights = attention_mask[:, :, None].float()
        pooled = (hidden.float() * weights).sum(1) / weights.sum(1)
        return pooled if rows is None else pooled[rows]


class AlignedDualEncoder(DualEncoder):
    """A dual encoder whose loss also has `alignment * mean |x_i - y_i|^2`."""

    alignment: float = 0.0

    def forward(self, *args: Any, **kwargs: Any) -> ContrastiveOutput:
        output = super().forward(*args, **kwargs)
        x, y = output.x_embeds, output.y_embeds
        if self.alignment and output.loss is not None and x is not None and y is not None:
            output.loss = output.loss + self.alignment * (x - y).square().sum(1).mean()
        return output


@torch.no_grad()
def make_task(pairs: Pairs, split: Split, text_layers: nn.ModuleList) -> Task:
    """Make the task, with the features of a frozen text tower."""
    chunks = zip(pairs.states.split(256), pairs.mask.split(256), strict=True)
    tower = LastLayers(text_layers, torch.float32).eval()
    return Task(pairs, split, text_layers, torch.cat([tower(*chunk) for chunk in chunks]))


def make_model(method: Method, settings: Settings, task: Task) -> AlignedDualEncoder:
    """Make frozen image features and a text tower, adapted or frozen, each with a trained linear projection."""
    torch.manual_seed(settings.seed)
    x_width, y_width = next(iter(task.pairs.images.values())).shape[1], task.pairs.states.shape[2]
    model = AlignedDualEncoder(
        nn.Identity(), nn.Identity(), x_width=x_width, y_width=y_width, width=settings.width,
        temperature=Temperature(method.initial, method.temperature, method.scale),
    )  # fmt: skip
    if settings.rank:
        layers = LastLayers(copy.deepcopy(task.text_layers), getattr(torch, settings.text_dtype))
        adapter = DeepLoraConfig(r=settings.rank, target_modules=["query", "value"])
        model.y_tower = get_peft_model(layers, adapter)
    if method.batch_norm:
        for name in ("x_projection", "y_projection"):
            centered = nn.Sequential(getattr(model, name), nn.BatchNorm1d(settings.width, affine=False))
            setattr(model, name, centered)
    model.alignment = method.alignment
    return model


class PairCollator:
    """Concepts -> a batch of pairs: every concept as each of the vendors draws it, with its one caption.

    Args:
        task: where the features are.
        vendors: whose images to take.
        adapted: captions as hidden states for an adapted tower, else as features of the frozen one.
    """

    def __init__(self, task: Task, vendors: Sequence[str], adapted: bool) -> None:
        self.task, self.vendors, self.adapted = task, vendors, adapted

    def __call__(self, samples: Sequence[dict[str, int]]) -> dict[str, Any]:
        concepts, pairs = torch.tensor([sample["concept"] for sample in samples]), self.task.pairs
        rows = torch.arange(len(concepts)).repeat(len(self.vendors))
        captions: Any = self.task.text_features[concepts][rows]
        if self.adapted:
            captions = {"hidden_states": pairs.states[concepts], "attention_mask": pairs.mask[concepts], "rows": rows}
        images = torch.cat([pairs.images[vendor][concepts] for vendor in self.vendors])
        return {"x": images, "y": captions, "ids": pairs.ids[concepts][rows]}


def train(method: Method, settings: Settings, task: Task) -> DualEncoder:
    """Train; every method with a seed has the same initial model and the same batches."""
    model = make_model(method, settings, task)
    collator: Any = PairCollator(task, TRAIN_VENDORS, adapted=settings.rank > 0)
    if method.swap is not None:
        collator = ModalitySwapCollator(collator, method.swap, method.probability, seed=settings.seed)
    callbacks: list[TrainerCallback] = (
        [SubspaceInitializationCallback(num_batches=2, exact_bytes=0)] if settings.rank else []
    )
    if method.schedule is not None:
        callbacks.append(TemperatureScheduleCallback(method.schedule))
    optimizer = None
    if method.temperature_rate != 1:
        groups = temperature_parameter_groups(model, settings.learning_rate, method.temperature_rate)
        optimizer = torch.optim.AdamW(groups, eps=ADAM_EPSILON)
    arguments = TrainingArguments(
        "runs/modality_gap/trainer", max_steps=settings.steps, learning_rate=settings.learning_rate,
        per_device_train_batch_size=settings.concepts_per_batch, lr_scheduler_type="cosine",
        warmup_steps=round(settings.warmup * settings.steps), adam_epsilon=ADAM_EPSILON, max_grad_norm=0.0,
        seed=settings.seed, data_seed=settings.seed, dataloader_drop_last=True, remove_unused_columns=False,
        save_strategy="no", logging_strategy="no", report_to="none", use_cpu=True,
        disable_tqdm=True,
    )  # fmt: skip
    data = [{"concept": concept} for concept in task.split.train.tolist()]
    trainer = Trainer(
        model, arguments, train_dataset=data, data_collator=collator, callbacks=callbacks,
        optimizers=(optimizer, None),
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    trainer.train()
    return model.eval()


@torch.no_grad()
def embed(model: DualEncoder, task: Task, concepts: Tensor, vendor: str) -> tuple[Tensor, Tensor]:
    """Embed one vendor's images of some concepts and their captions, on the sphere."""
    collate = PairCollator(task, [vendor], adapted=isinstance(model.y_tower, PeftModel))
    output = model(**collate([{"concept": concept} for concept in concepts.tolist()]), return_loss=False)
    return output.x_embeds, output.y_embeds


def measured(x: Tensor, y: Tensor, ids: Tensor) -> dict[str, float]:
    """Measure the gap with every metric, and recall at 1 and 5 in both directions; the pool is the pairs themselves.

    `gap_beyond_sampling` is `sqrt(|m_x - m_y|^2 - tr cov(x_i - y_i) / n)`: centroids of a finite pool lie apart even
    where those of all pairs coincide, by as much as is taken off (0 where nothing is left).
    """
    statistics = PairStatistics(x.shape[1])
    statistics.update(x, y)
    metrics = modality_gap(statistics)
    squared = metrics["gap"] ** 2
    beyond = squared - (metrics["alignment"] - squared) / (len(x) - 1)
    metrics |= {"gap_beyond_sampling": max(beyond, 0.0) ** 0.5} | recall_at_k(x, y, x_ids=ids, y_ids=ids)
    for k in (1, 5):
        metrics[f"recall@{k}"] = (metrics[f"x_to_y_recall@{k}"] + metrics[f"y_to_x_recall@{k}"]) / 2
    return metrics


def evaluate(model: DualEncoder, task: Task) -> dict[str, dict[str, float]]:
    """Measure on each evaluation set.

    - validation: concepts that were not trained on, as the training vendors draw them (mean over the vendors);
    - test: other such concepts, drawn by the vendor that was not trained on;
    - seen: as many training concepts, drawn by that vendor;
    - test, shifted: the test embeddings with each modality's mean taken off (`modality.metrics.mean_shift`).
    """
    pairs, split = task.pairs, task.split
    validation = [
        measured(*embed(model, task, split.validation, vendor), pairs.ids[split.validation]) for vendor in TRAIN_VENDORS
    ]
    test = embed(model, task, split.test, TEST_VENDOR)
    return {
        "validation": {name: sum(m[name] for m in validation) / len(validation) for name in validation[0]},
        "test": measured(*test, pairs.ids[split.test]),
        "test, shifted": measured(*mean_shift(*test), pairs.ids[split.test]),
        "seen": measured(*embed(model, task, split.seen, TEST_VENDOR), pairs.ids[split.seen]),
    }
