"""The mixed pool: each concept once, by its image or by a text, before and after the gap is closed."""

from __future__ import annotations

import pytest
import torch

from benchmarks.studies.mixed_pool import compared, searched
from modality import Centering


def parts(offset: float) -> dict[str, torch.Tensor]:
    """Names, tags and images of the same concepts; images lie about a center of their own."""
    generator = torch.Generator().manual_seed(0)
    content = torch.randn(60, 16, generator=generator)
    names, tags, images = content + 0.3 * torch.randn(3, 60, 16, generator=generator)
    center = offset * torch.ones(16)
    return {"names": names + center, "tags": tags + center, "image": images - center}


def test_a_gap_hides_the_images_of_a_pool_and_centering_shows_them_again() -> None:
    apart = parts(3.0)
    found = searched(None, apart, seed=0)
    assert found["gap"] > 1.5 and found["share of texts"] == 1
    assert found["recall@10 of images"] == 0 and found["recall@10 of texts"] > 0.9
    centering = Centering.fit({"image": apart["image"], "text": torch.cat([apart["names"], apart["tags"]])})
    centered = searched(centering, apart, seed=0)
    assert centered["gap"] < 0.3 and centered["recall@10 of images"] > 0.9 and centered["ndcg@10"] > found["ndcg@10"]
    assert 0.3 < centered["share of texts"] < 0.7


def test_recall_of_the_pool_is_the_mean_over_its_images_and_its_texts() -> None:
    found = searched(None, parts(0.2), seed=1)
    images = (torch.rand(60, 1, generator=torch.Generator().manual_seed(1)) < 0.5).double().mean().item()
    both = images * found["recall@10 of images"] + (1 - images) * found["recall@10 of texts"]
    assert found["recall@10"] == pytest.approx(both)


def test_differences_are_taken_seed_by_seed() -> None:
    centering = Centering.fit({"image": parts(1.0)["image"], "text": parts(1.0)["tags"]})
    runs = [
        {"as trained": searched(None, parts(1.0), seed), "centered": searched(centering, parts(1.0), seed)}
        for seed in (0, 1)
    ]
    table = compared(runs)
    gains = [run["centered"]["ndcg@10"] - run["as trained"]["ndcg@10"] for run in runs]
    assert table["centered"]["ndcg@10"]["minus as trained"]["mean"] == pytest.approx(sum(gains) / 2, rel=1e-5)
    assert table["as trained"]["gap"]["minus as trained"]["mean"] == 0
