"""The example of the package's documentation trains a tiny CLIP with plain Trainer, in under twenty lines of code."""

from __future__ import annotations

import inspect
import textwrap

import pytest
import torch

import modality
from modality import ContrastiveModel, DualEncoder, ModalityGapCallback, ModalitySwapCollator
from modality.losses import duplicate_mask
from tests.modality.trainers import WIDTH, Convolution, Pairs, bert, clip, logged, trainer


def documented_block():
    lines = inspect.cleandoc(modality.__doc__).split("\n")
    return textwrap.dedent("\n".join(line for line in lines if line.startswith("    ") or not line).strip("\n"))


def test_the_block_of_the_documentation_runs_as_it_is_written(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DISABLE_MLFLOW_INTEGRATION", "true")
    clip().save_pretrained("tiny")
    block = documented_block()
    code = [line for line in block.split("\n") if line and not line.startswith(("from ", " " * 26))]
    assert len(code) < 20
    settings = 'use_cpu=True, report_to="none", disable_tqdm=True, logging_steps=1, per_device_train_batch_size=8, '
    block = block.replace("openai/clip-vit-base-patch32", "tiny").replace("num_train", settings + "num_train")
    names = {"train": Pairs(16, 1), "test": Pairs(9, 2)}
    exec(compile(block, "the documentation", "exec"), names)
    trainer = names["trainer"]
    assert logged(trainer, "tau") == pytest.approx([0.01 + 0.04 * step / 6 for step in range(6)], rel=1e-6)
    assert len(logged(trainer, "eval_gap")) == 3 and len(set(logged(trainer, "loss"))) == 6
    trained = [name for name, p in names["model"].named_parameters() if p.requires_grad]
    assert trained and all("deep_lora_" in name for name in trained)
    again = ContrastiveModel.from_pretrained("clip-small-gap")
    batch = Pairs(9, 2).batch()
    assert torch.equal(again(**batch).logits, names["model"].eval()(**batch).logits)


def test_the_block_imports_only_what_there_is() -> None:
    assert {"ContrastiveModel", "ModalityGapCallback"} <= set(modality.__all__)
    assert "from modality import" in documented_block()


def nested(samples):
    """A batch of a DualEncoder, of samples that belong together where their first tokens agree."""
    tokens = torch.stack([sample["input_ids"] for sample in samples])
    images = torch.stack([sample["pixel_values"] for sample in samples])
    return {"x": images, "y": {"input_ids": tokens}, "ids": tokens[:, 0]}


def dual_run(folder, chunk_size, **settings):
    torch.manual_seed(5)
    model = DualEncoder(
        Convolution(), bert(dropout=0.1), x_width=WIDTH, y_width=WIDTH, width=5, chunk_size=chunk_size
    )  # fmt: skip
    collator = ModalitySwapCollator(nested, "soft", 0.5)
    return trainer(folder, model, data_collator=collator, remove_unused_columns=False, **settings)


def test_a_dual_encoder_trains_on_nested_batches_and_evaluates_on_embeddings_of_all(tmp_path) -> None:
    seen = {}

    def compute_metrics(prediction):
        seen["logits"], seen["x"], seen["y"] = prediction.predictions
        return {"pairs": len(seen["x"])}

    run = dual_run(tmp_path, chunk_size=None, eval_strategy="steps", eval_steps=3)
    run.compute_metrics = compute_metrics
    run.add_callback(ModalityGapCallback(run))
    run.train()
    assert logged(run, "eval_pairs") == [10, 10] and len(logged(run, "eval_loss")) == 2
    assert seen["x"].shape == seen["y"].shape == (10, 5)
    tokens = run.eval_dataset.tokens
    assert duplicate_mask(tokens[:, 0]).sum() >= len(tokens) and logged(run, "eval_x_to_y_pool") == [10, 10]


def test_chunked_training_takes_the_steps_of_unchunked_training(tmp_path) -> None:
    """Without dropout, whose random numbers are drawn chunk by chunk."""
    losses = []
    for chunk_size in (None, 3):
        run = dual_run(tmp_path / str(chunk_size), chunk_size, gradient_accumulation_steps=2, max_steps=4)
        run.model.y_tower = bert()
        run.train()
        losses.append(logged(run, "loss"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and len(set(losses[0])) == 4


def recomputes(model) -> bool:
    """Whether activations are checkpointed; the name changed within transformers 5."""
    name = "is_activation_checkpointing"
    return getattr(model, name if hasattr(model, name) else "is_gradient_checkpointing")


@pytest.mark.parametrize("chunk_size", [None, 3])
def test_gradient_checkpointing_reaches_the_towers_and_changes_nothing(chunk_size, tmp_path) -> None:
    losses = []
    for enabled in (False, True):
        run = dual_run(tmp_path / str(enabled), chunk_size, gradient_checkpointing=enabled, max_steps=2)
        run.train()
        assert recomputes(run.model.y_tower) is enabled
        losses.append(logged(run, "loss"))
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


def test_gradient_checkpointing_is_switched_on_under_its_old_name(recwarn) -> None:
    model = ContrastiveModel(clip())
    model.gradient_checkpointing_enable()
    assert recomputes(model.model)
