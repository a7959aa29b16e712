"""The modality gap's example: its data never leak, and every method trains from one start, on made-up pairs."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from tests.examples import cases

example = cases.load("modality_gap")


@pytest.fixture
def arguments(words, tmp_path):
    """Both kinds of arguments of a run of two steps."""
    found = [*words["modality_gap"], "--max_steps", "2", "--output_dir", str(tmp_path)]
    return lambda *others: example.parse_arguments([*found, *map(str, others)])


def test_no_concept_is_in_both_parts_and_the_test_vendor_draws_what_is_tested(arguments) -> None:
    args, _ = arguments()
    train, test = example.load_pairs(args)
    assert len(test) == 20 and len(train) == 2 * 40
    assert not {pair["ids"].item() for pair in train} & {pair["ids"].item() for pair in test}
    drawn = torch.load(args.features)["fluent"]
    assert all((pair["x"] == drawn).all(1).any() for pair in test)
    assert not any((pair["x"] == drawn).all(1).any() for pair in train)


@pytest.mark.parametrize("name", example.METHODS)
def test_every_method_trains_and_is_measured(name: str, arguments) -> None:
    args, training = arguments()
    train, test = example.load_pairs(args)
    model, batch = example.train(name, train, args, training), example.collate(test)
    with torch.no_grad():
        output = model(batch["x"], batch["y"], return_loss=False)
    metrics = example.measure(output.x_embeds, output.y_embeds, batch["ids"])
    assert metrics.keys() == {"gap", "uniformity", "R@1", "R@1 shifted"}
    assert torch.tensor(list(metrics.values())).isfinite().all()


def test_a_schedule_sets_the_temperature(arguments) -> None:
    args, training = arguments("--max_steps", 4)
    name = "rising, 0.05 to 0.2"
    model = example.train(name, example.load_pairs(args)[0], args, training)
    assert model.temperature.tau == pytest.approx(example.METHODS[name]["schedule"](3 / 4))


def test_all_methods_see_the_same_batches_from_the_same_start(arguments, monkeypatch) -> None:
    args, training = arguments()
    seen, inner, pairs = {}, example.collate, example.load_pairs(args)[0]
    starts = []
    build = example.modality.DualEncoder
    monkeypatch.setattr(
        example.modality, "DualEncoder", lambda *a, **k: starts.append(build(*a, **k).state_dict()) or build(*a, **k)
    )
    for name in ("learned, from 0.07", "soft swap, 0.05"):
        monkeypatch.setattr(
            example, "collate",
            lambda samples, name=name: seen.setdefault(name, []).append([s["ids"].item() for s in samples])
            or inner(samples),
        )  # fmt: skip
        example.train(name, pairs, args, training)
    one, two = seen.values()
    assert one == two and len(one) >= 2
    assert all(torch.equal(starts[0][name], starts[1][name]) for name in starts[0])


def test_deep_lora_is_on_the_last_layer_of_the_text_tower_alone(arguments) -> None:
    args, training = arguments()
    model = example.train("learned, from 0.07", example.load_pairs(args)[0], args, training)
    adapted = {name for name, _ in model.y_tower.named_parameters() if "deep_lora_core" in name}
    assert len(adapted) == 2 and all("layer.1." in name for name in adapted)


def test_a_run_writes_a_table_a_picture_and_the_results(alone, words, tmp_path, monkeypatch, capsys) -> None:
    folder = tmp_path / "out"
    assert cases.run(example, monkeypatch, *words["modality_gap"], "--output_dir", folder) == 0
    assert "recall over a pool of 20" in capsys.readouterr().out
    assert json.loads((folder / "results.json").read_text()).keys() == {"learned, from 0.07", "soft swap, 0.05"}
    with Image.open(folder / "projections.png") as picture:
        assert min(picture.size) > 300
