"""Search in a pool of images and texts, before and after the gap is closed: the case of MixBench, on emoji.

    python -m benchmarks.run mixed_pool        # results/mixed_pool.json; data as in modality_gap.comparison

Every test concept is in the pool once, by a coin as its image (of a vendor that was not trained on) or as a text, its
tags ("weapon, fight"); queries are the names of the concepts ("crossed swords"). So queries and half of the pool are
of one modality, and what a model with a gap finds first is text, whatever it shows. The alignments are fitted to
training pairs and applied to queries and pool. The towers are those of `modality_gap`, frozen, with two starts of the
temperature.

Source of the task: Li et al., arXiv:2507.19054 (MixBench, GR-CLIP), there on photographs with trained CLIP models.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from benchmarks.paired import mean_with_interval
from benchmarks.studies.modality_gap.comparison import load_task, six_digits
from benchmarks.studies.modality_gap.emoji_pairs import (
    DEFAULT_CACHE,
    DEFAULT_DATA,
    TEST_VENDOR,
    TRAIN_VENDORS,
    FeatureSettings,
    caption_states,
    read_captions,
)
from benchmarks.studies.modality_gap.methods import METHODS
from benchmarks.studies.modality_gap.training import LastLayers, Settings, Task, embed, train
from modality import Centering, DualEncoder, LinearAlignment, modality_gap, search_metrics

KS = (1, 10)
REPORTED = ("recall@1", "recall@10", "ndcg@10", "gap", "share of texts")
Parts = dict[str, Float[Tensor, "n d"]]


def measure(settings: dict[str, Any], data: str = DEFAULT_DATA, cache: str = DEFAULT_CACHE) -> dict[str, Any]:
    """Train each start on each seed, and search before and after every alignment."""
    task = load_task(settings, data, cache)
    texts = split_texts(task, settings, data)
    table: dict[str, Any] = {}
    for name in settings["methods"]:
        runs = [measure_run(name, seed, settings, task, texts) for seed in settings["seeds"]]
        table[METHODS[name].label] = compared(runs)
    return {"pool": len(task.split.test), "fitted_pairs": len(task.split.train) * len(TRAIN_VENDORS), "starts": table}


def split_texts(task: Task, settings: dict[str, Any], data: str) -> Parts:
    """Encode the names and the tags of the test concepts, each alone, with the frozen text tower."""
    captions = {caption.partition(":")[0]: caption.partition(": ")[2] for caption in read_captions(Path(data)).values()}
    names = [task.pairs.names[row] for row in task.split.test.tolist()]
    tower = LastLayers(task.text_layers, torch.float32).eval()
    found = {}
    for part, sentences in (("names", names), ("tags", [captions[name] or name for name in names])):
        states, mask, _ = caption_states(sentences, FeatureSettings(**settings["features"]))
        with torch.no_grad():
            found[part] = tower(states, mask)
    return found


def measure_run(name: str, seed: int, settings: dict[str, Any], task: Task, texts: Parts) -> dict[str, Any]:
    """Train once, and return the metrics of every alignment."""
    chosen = Settings(
        learning_rate=settings["learning_rate"], steps=settings["steps"], width=settings["width"], rank=0, seed=seed,
        concepts_per_batch=settings["concepts_per_batch"],
    )  # fmt: skip
    model = train(METHODS[name], chosen, task)
    images, captions = zip(*(embed(model, task, task.split.train, vendor) for vendor in TRAIN_VENDORS), strict=True)
    fitted = {"image": torch.cat(images), "text": torch.cat(captions)}
    alignments = {
        "as trained": None, "centered": Centering.fit(fitted), "orthogonal": LinearAlignment.fit(fitted, "text"),
        "ridge": LinearAlignment.fit(fitted, "text", penalty=settings["penalty"]),
    }  # fmt: skip
    embedded = embed_parts(model, task, texts)
    return {label: searched(alignment, embedded, seed) for label, alignment in alignments.items()}


@torch.no_grad()
def embed_parts(model: DualEncoder, task: Task, texts: Parts) -> Parts:
    """Embed the test concepts as images, as tags and as names."""
    images, _ = embed(model, task, task.split.test, TEST_VENDOR)
    return {"image": images} | {part: model.encode_y(rows) for part, rows in texts.items()}


def searched(alignment: Centering | None, parts: Parts, seed: int) -> dict[str, float]:
    """Search for every concept by name in the mixed pool."""
    sources = (("image", "image"), ("text", "tags"), ("text", "names"))
    images, tags, names = (
        parts[part] if alignment is None else alignment.apply(modality, parts[part]) for modality, part in sources
    )
    count = len(names)
    as_image = torch.rand(count, 1, generator=torch.Generator().manual_seed(seed)) < 0.5
    pool, ids = torch.where(as_image, images, tags), torch.arange(count)
    normalized = torch.nn.functional.normalize
    nearest = (normalized(names) @ normalized(pool).mT).topk(10).indices
    found = search_metrics(names, pool, ids, ids, KS)
    return found | {
        "gap": modality_gap(images, tags)["gap"],
        "share of texts": 1 - as_image[nearest].double().mean().item(),
        "recall@10 of images": search_metrics(names[as_image[:, 0]], pool, ids[as_image[:, 0]], ids, KS)["recall@10"],
        "recall@10 of texts": search_metrics(names[~as_image[:, 0]], pool, ids[~as_image[:, 0]], ids, KS)["recall@10"],
    }


def compared(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Summarize every alignment and metric, with differences to the model as trained, seed by seed."""
    table: dict[str, Any] = {}
    for label in runs[0]:
        table[label] = {}
        for metric in (*REPORTED, "recall@10 of images", "recall@10 of texts"):
            values = [run[label][metric] for run in runs]
            before = [run["as trained"][metric] for run in runs]
            table[label][metric] = rounded(values) | {"values": [six_digits(value) for value in values]}
            table[label][metric]["minus as trained"] = rounded([a - b for a, b in zip(values, before, strict=True)])
    return table


def rounded(values: list[float]) -> dict[str, float]:
    return {name: six_digits(value) for name, value in mean_with_interval(values).items()}
