"""Training against the modality gap: towers are whole, every method trains, and the metrics are what they say."""

from __future__ import annotations

import pytest
import torch
from transformers import BertConfig, BertModel

from benchmarks.studies.modality_gap import emoji_pairs as data
from benchmarks.studies.modality_gap import training
from benchmarks.studies.modality_gap.methods import BASELINE, METHODS, Method
from benchmarks.studies.modality_gap.training import LastLayers, Settings, make_model, measured, train
from tests.benchmarks.studies.cases import made_up_task


@pytest.fixture(scope="module")
def task() -> training.Task:
    return made_up_task()


def quick(**others) -> Settings:
    return Settings(**({"steps": 2, "concepts_per_batch": 16, "width": 8, "rank": 0, "text_dtype": "float32"} | others))


@pytest.mark.parametrize("trained", [1, 2, 3])
def test_stored_states_and_the_last_layers_make_the_whole_encoder(trained: int) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
        attn_implementation="eager",
    )  # fmt: skip
    encoder = BertModel(config).eval()
    words = torch.randint(30, (5, 6))
    mask = torch.arange(6) < torch.tensor([6, 2, 3, 1, 5])[:, None]
    with torch.no_grad():
        whole = encoder(words, mask.long(), output_hidden_states=True)
        tower = LastLayers(encoder.encoder.layer[-trained:], torch.float32)
        features = tower(whole.hidden_states[-1 - trained], mask)
        repeated = tower(whole.hidden_states[-1 - trained], mask, rows=torch.tensor([4, 4, 0]))
    expected = [state[kept].mean(0) for state, kept in zip(whole.last_hidden_state, mask, strict=True)]
    torch.testing.assert_close(features, torch.stack(expected))
    assert torch.equal(repeated, features[[4, 4, 0]])


def test_what_a_finite_pool_adds_to_the_gap_is_taken_off() -> None:
    x, y = torch.nn.functional.normalize(torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0)), dim=2)
    x = torch.nn.functional.normalize(x + 0.5, dim=1)
    difference = (x - y).double()
    expected = difference.mean(0).square().sum() - difference.var(0).sum() / len(x)
    metrics = measured(x, y, torch.arange(40))
    assert metrics["gap_beyond_sampling"] == pytest.approx(expected.sqrt().item(), rel=1e-6)
    assert metrics["recall@1"] == (metrics["x_to_y_recall@1"] + metrics["y_to_x_recall@1"]) / 2


@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("fixed") or name == "fixed 1"])
def test_every_method_trains_and_is_measured_on_every_set(name: str, task) -> None:
    start, model = make_model(METHODS[name], quick(), task), train(METHODS[name], quick(), task)
    before, after = (next(iter(trained.x_projection.parameters())) for trained in (start, model))
    assert not torch.equal(before, after)
    metrics = training.evaluate(model, task)
    assert metrics.keys() == {"validation", "test", "test, shifted", "seen"}
    assert all(torch.tensor(list(part.values())).isfinite().all() for part in metrics.values())


def test_a_schedule_sets_the_temperature_and_a_slower_rate_moves_it_a_tenth_as_far(task) -> None:
    rising = METHODS["rising"]
    assert train(rising, quick(steps=4), task).temperature.tau == pytest.approx(rising.schedule(3 / 4))
    moved = {}
    for name in (BASELINE, "slower rate"):
        before = make_model(METHODS[name], quick(), task).temperature.nu.item()
        moved[name] = abs(train(METHODS[name], quick(steps=1), task).temperature.nu.item() - before)
    assert moved["slower rate"] == pytest.approx(0.1 * moved[BASELINE], rel=1e-2) and moved[BASELINE] > 1e-3


def test_all_methods_of_a_seed_see_the_same_batches_from_the_same_start(task, monkeypatch) -> None:
    seen: dict[str, list] = {}
    inner = training.PairCollator.__call__
    for name in (BASELINE, "soft swap 0.05"):
        monkeypatch.setattr(
            training.PairCollator, "__call__",
            lambda self, samples, name=name: seen.setdefault(name, []).append(samples) or inner(self, samples),
        )  # fmt: skip
        train(METHODS[name], quick(steps=6), task)
    assert seen[BASELINE] == seen["soft swap 0.05"] and len(seen[BASELINE]) >= 6
    starts = [make_model(METHODS[name], quick(), task).y_projection.weight for name in (BASELINE, "alignment")]
    assert torch.equal(*starts)


def test_an_adapted_tower_starts_as_the_frozen_one_and_learns(task) -> None:
    method, settings = METHODS[BASELINE], quick(rank=2, steps=3)
    concepts = task.split.test
    frozen, adapted = (make_model(method, quick(rank=rank), task).eval() for rank in (0, 2))
    adapted.y_projection, adapted.x_projection = frozen.y_projection, frozen.x_projection
    for before, after in zip(
        training.embed(frozen, task, concepts, data.TEST_VENDOR),
        training.embed(adapted, task, concepts, data.TEST_VENDOR),
        strict=True,
    ):
        torch.testing.assert_close(before, after)
    states = train(method, settings, task).y_tower.state_dict()
    cores = [value for name, value in states.items() if "deep_lora_core" in name]
    fresh = make_model(method, settings, task).y_tower.state_dict()
    assert cores and not all(torch.equal(states[name], fresh[name]) for name in states if "core" in name)


def test_alignment_is_added_to_the_loss_with_its_weight(task) -> None:
    batch = training.PairCollator(task, data.TRAIN_VENDORS, adapted=False)([{"concept": i} for i in range(6)])
    plain, aligned = (make_model(Method("", alignment=weight), quick(), task)(**batch) for weight in (0.0, 3.0))
    distance = (plain.x_embeds - plain.y_embeds).square().sum(1).mean()
    torch.testing.assert_close(aligned.loss, plain.loss + 3 * distance)
