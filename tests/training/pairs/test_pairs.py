"""`deep-lora contrastive` end to end: images with texts, texts with texts, one model or two towers."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModel, CLIPModel

import deep_lora  # noqa: F401
from tests.training import tiny
from training.pairs import load_contrastive
from training.trainer import checkpoints

GAP_METRICS = {"gap", "paired_distance", "uniformity", "distribution_gap", "linear_separability"}


def batch(rows: int = 3) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    words = torch.randint(5, 20, (rows, 4), generator=generator)
    ends = torch.full((rows, 1), 3)
    ids = torch.cat([torch.full((rows, 1), 2), words, ends], dim=1)
    return {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "pixel_values": torch.randn(rows, 3, 16, 16, generator=generator),
    }


@pytest.fixture
def answers(tmp_path):
    """Pairs of texts in two columns."""
    texts = [f"the {word} film number" for word in [*tiny.GOOD, *tiny.BAD] * 2]
    return tiny.save_csv(tmp_path / "answers.csv", rows=20, header="question,answer", answer=texts)


def arrange_as_earlier_versions_did(run: Path) -> None:
    """Two folders: `adapter` with Deep LoRA, `lora_export` with the plain LoRA, and the same heads in both."""
    shutil.copytree(run / "adapter", run / "lora_export")
    for tower in ("x_tower", "y_tower"):
        shutil.rmtree(run / "lora_export" / tower / "deep_lora")
        for path in (run / "adapter" / tower / "deep_lora").iterdir():
            path.rename(run / "adapter" / tower / path.name)
        (run / "adapter" / tower / "deep_lora").rmdir()


def test_a_clip_model_becomes_an_adapter_an_export_and_results(clip, pictures, contrastive, tmp_path) -> None:
    words = ["--model", clip, "--schedule", "linear", "--swap", "soft", "--eval_strategy", "steps", "--eval_steps", "1"]
    status, printed = contrastive(pictures, *words, picture=True)
    assert status == 0, printed
    run = tmp_path / "run"
    found = tiny.results(run)
    metrics = found["metrics"]["validation"]
    assert found["samples"] == {"train": 18, "validation": 6} and found["files"] == ["adapter"]
    assert metrics["image_to_text_pool"] == metrics["text_to_image_pool"] == 6 and GAP_METRICS <= set(metrics)
    both = [metrics[f"{way}_recall@1"] for way in ("image_to_text", "text_to_image")]
    assert metrics["recall@1"] == pytest.approx(sum(both) / 2)
    assert (run / "training.png").stat().st_size > 10_000
    outputs = []
    for name in ("adapter", "adapter/deep_lora"):
        model = PeftModel.from_pretrained(CLIPModel.from_pretrained(clip), run / name).eval()
        outputs.append(model(**batch()).image_embeds)
    outputs.append(load_contrastive(run / "adapter")(**batch(), return_loss=False).x_embeds)
    for other in outputs[1:]:
        assert torch.allclose(outputs[0], other, atol=1e-6)


def test_a_schedule_sets_the_temperature_of_every_step(clip, pictures, contrastive, tmp_path) -> None:
    words = ["--schedule", "linear", "--schedule_start", "0.02", "--schedule_end", "0.08"]
    assert contrastive(pictures, "--model", clip, *words)[0] == 0
    taus = [entry["tau"] for entry in tiny.results(tmp_path / "run")["log"] if "loss" in entry]
    assert taus == pytest.approx([0.02 + 0.06 * step / 3 for step in range(3)])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--schedule", "constant", "--temperature", "0.3"], 0.3),
        (["--schedule", "cosine", "--schedule_start", "0.1", "--schedule_end", "0.2", "--schedule_periods", "3"], 0.1),
        (["--schedule", "piecewise", "--schedule_points", "0:0.1", "0.5:0.2"], 0.2),
        (["--temperature", "0.4", "--temperature_mode", "fixed"], 0.4),
    ],
)
def test_temperatures_that_are_not_learned_end_where_they_should(
    words, expected, clip, pictures, contrastive, tmp_path
):
    assert contrastive(pictures, "--model", clip, *words)[0] == 0
    assert tiny.results(tmp_path / "run")["metrics"]["validation"]["tau"] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("mode", ["learnable", "softplus", "exp"])
def test_a_learned_temperature_starts_at_the_models_own_and_moves_at_its_own_rate(
    mode, clip, pictures, contrastive, tmp_path
) -> None:
    own = math.exp(-CLIPModel.from_pretrained(clip).logit_scale.item())
    rate = 0.5 if mode == "exp" else 0.0
    scale = ["--temperature_scale", "2"] if mode == "exp" else []
    words = ["--temperature_mode", mode, *scale, "--weight_decay", "0.5"]
    assert contrastive(pictures, "--model", clip, *words, "--temperature_rate", rate)[0] == 0
    tau = tiny.results(tmp_path / "run")["metrics"]["validation"]["tau"]
    assert (tau == pytest.approx(own, rel=1e-6)) == (rate == 0)  # at no rate it stays, whatever the weight decay


def test_two_towers_get_projections_and_a_folder_each(bert, vit, pictures, contrastive, tmp_path) -> None:
    words = ["--text_model", bert, "--image_model", vit, "--embedding_width", "8", "--swap", "hard"]
    status, printed = contrastive(pictures, *words, "--image_pooling", "first")
    assert status == 0, printed
    assert "x_projection, y_projection, temperature" in printed
    run = tmp_path / "run"
    inputs = batch()
    pair = {"x": {"pixel_values": inputs.pop("pixel_values")}, "y": inputs}
    plain = load_contrastive(run / "adapter")(**pair, return_loss=False)
    arrange_as_earlier_versions_did(run)
    outputs = [load_contrastive(run / name)(**pair, return_loss=False) for name in ("adapter", "lora_export")]
    assert outputs[0].x_embeds.shape == (3, 8) and torch.equal(plain.logits, outputs[1].logits)
    assert torch.allclose(outputs[0].logits, outputs[1].logits, atol=1e-4)
    alone = PeftModel.from_pretrained(AutoModel.from_pretrained(vit), run / "adapter" / "x_tower").eval()
    heads = load_file(run / "adapter" / "contrastive.safetensors")
    first = alone(**pair["x"]).last_hidden_state[:, 0] @ heads["x_projection.weight"].mT
    assert torch.allclose(torch.nn.functional.normalize(first, dim=1), outputs[0].x_embeds, atol=1e-5)
    moved = {"x_tower": str(vit), "y_tower": str(bert)}
    assert torch.equal(load_contrastive(run / "adapter", moved)(**pair, return_loss=False).logits, outputs[0].logits)


def test_texts_with_texts(bert, answers, contrastive, tmp_path) -> None:
    words = ["--text_model", bert, "--text_column", "question", "--second_text_column", "answer", "--adapter", "lora"]
    status, printed = contrastive(answers, *words)
    assert status == 0, printed
    found = tiny.results(tmp_path / "run")
    assert found["task"] == "text_pairs" and "text_to_second_text_recall@5" in found["metrics"]["validation"]
    assert found["files"] == ["adapter"]


def test_a_frozen_side_gets_no_adapter(clip, bert, vit, pictures, contrastive, tmp_path) -> None:
    status, printed = contrastive(pictures, "--model", clip, "--freeze_image")
    assert status == 0, printed
    names = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert names and all(".text_" in name for name in names)
    towers = ["--image_model", vit, "--text_model", bert, "--freeze_text", "--freeze_image", "--overwrite"]
    status, printed = contrastive(pictures, *towers)
    assert status == 0 and "none, 8,193 trained parameters" in printed, printed
    assert not list((tmp_path / "run" / "adapter").rglob("adapter_model.safetensors"))
    assert load_contrastive(tmp_path / "run" / "adapter").temperature.tau > 0


def test_an_adapter_file_of_another_method_respects_the_frozen_side(clip, pictures, contrastive, tmp_path) -> None:
    path = tmp_path / "ia3.json"
    fields = {"peft_type": "IA3", "target_modules": ["k_proj", "fc2"], "feedforward_modules": ["fc2"]}
    path.write_text(json.dumps(fields))
    status, printed = contrastive(pictures, "--model", clip, "--freeze_text", "--adapter_config", path)
    assert status == 0, printed
    names = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert names and all(".vision_model." in name for name in names)
    path.write_text(json.dumps(fields | {"exclude_modules": ["fc1"]}))
    status, printed = contrastive(pictures, "--model", clip, "--freeze_text", "--adapter_config", path, "--overwrite")
    assert status == 2 and "its exclude_modules would have to name text_model" in printed


def test_the_model_that_is_put_together_trains_in_half_precision(bert, vit, pictures, contrastive) -> None:
    words = ["--text_model", bert, "--image_model", vit, "--dtype", "bfloat16", "--gradient_checkpointing", "true"]
    assert contrastive(pictures, *words)[0] == 0


def test_chunks_give_the_same_run(clip, pictures, contrastive, tmp_path) -> None:
    for name, words in (("whole", []), ("chunks", ["--chunk_size", "3"])):
        assert contrastive(pictures, "--model", clip, *words, output=tmp_path / name)[0] == 0
    logs = [[e["loss"] for e in tiny.results(tmp_path / name)["log"] if "loss" in e] for name in ("whole", "chunks")]
    assert logs[0] == pytest.approx(logs[1], abs=1e-5)


def test_the_sigmoid_loss_learns_its_bias(clip, pictures, contrastive, tmp_path) -> None:
    status, printed = contrastive(pictures, "--model", clip, "--loss", "sigmoid")
    assert status == 0, printed
    heads = load_file(tmp_path / "run" / "adapter" / "contrastive.safetensors")
    assert heads["logit_bias"].item() != -10


def test_siglip_trains_with_its_own_bias(pictures, contrastive, tmp_path) -> None:
    tiny.save_siglip(tmp_path / "siglip")
    status, printed = contrastive(pictures, "--model", tmp_path / "siglip", "--loss", "sigmoid")
    assert status == 0, printed
    heads = load_file(tmp_path / "run" / "adapter" / "contrastive.safetensors")
    (bias,) = [value for name, value in heads.items() if name.endswith("logit_bias")]
    assert bias.item() != -10
    adapted = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert not any("head.attention" in name for name in adapted)


def test_a_folder_of_images_with_metadata_and_two_captions_each(clip, pictures, contrastive, tmp_path) -> None:
    rows = [line.split(",") for line in pictures.read_text().splitlines()[1:]]
    lines = [json.dumps({"file_name": path.removeprefix("images/"), "text": [text, path]}) for path, text in rows]
    (pictures.parent / "images" / "metadata.jsonl").write_text("\n".join(lines) + "\n")
    status, printed = contrastive(pictures.parent / "images", "--model", clip)
    assert status == 0 and tiny.results(tmp_path / "run")["samples"] == {"train": 36, "validation": 12}, printed
    metrics = tiny.results(tmp_path / "run")["metrics"]["validation"]
    assert metrics["text_to_image_pool"] == 6, "each picture once"
    assert metrics["image_to_text_pool"] > 6 and metrics["text_to_image_recall@5"] >= metrics["text_to_image_recall@1"]


def test_a_dry_run_shows_and_writes_nothing(clip, pictures, contrastive, tmp_path) -> None:
    status, printed = contrastive(pictures, "--model", clip, "--dry_run")
    assert status == 0 and "image_text_pairs" in printed and "deep_lora" in printed and "temperature" in printed
    assert not (tmp_path / "run").exists()


def test_the_best_model_is_loaded_at_the_end(clip, pictures, contrastive, tmp_path) -> None:
    words = ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    best = ["--load_best_model_at_end", "--metric_for_best_model", "tau", "--greater_is_better", "false"]
    status, printed = contrastive(
        pictures, "--model", clip, "--schedule", "linear", *words, *best, "--save_total_limit", "3"
    )
    assert status == 0, printed
    found = tiny.results(tmp_path / "run")
    assert found["metrics"]["validation"]["tau"] == pytest.approx(0.01)
    first = load_file(tmp_path / "run" / "checkpoint-1" / "adapter_model.safetensors")
    last = load_file(tmp_path / "run" / "adapter" / "deep_lora" / "adapter_model.safetensors")
    assert first and all(torch.equal(last[name], value) for name, value in first.items())
    assert [path.name for path in checkpoints.all_checkpoints(tmp_path / "run")][-1] == "checkpoint-3"
