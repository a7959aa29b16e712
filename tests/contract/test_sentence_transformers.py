"""sentence-transformers with Deep LoRA: what docs/integrations.md says of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from torch import Tensor
from transformers import BertConfig, BertModel, Trainer

import deep_lora
from deep_lora import DeepLoraCallback, DeepLoraConfig, SubspaceInitializationCallback
from tests.models import word_tokenizer
from tests.step_lengths import train_and_check_lengths

WORDS = "a cat sat on the mat while one dog ran far away from two small birds".split()
SENTENCES = ["a cat sat", "two small birds", "the dog ran away"]
TARGETS = {"r": 4, "target_modules": ["query", "value"], "task_type": "FEATURE_EXTRACTION"}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small encoder with its tokenizer."""
    folder = tmp_path_factory.mktemp("encoder")
    word_tokenizer(WORDS).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS) + 3, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        max_position_embeddings=32, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config).save_pretrained(folder)
    return str(folder)


def _encoder(base: str) -> SentenceTransformer:
    transformer = Transformer(base)
    pooling = Pooling(transformer.get_embedding_dimension())
    return SentenceTransformer(modules=[transformer, pooling], device="cpu")


def _trained(
    base: str, folder: Path, config: PeftConfig, check: Callable[[Trainer, DeepLoraCallback], Any] | None = None
) -> tuple[SentenceTransformer, list[float]]:
    model = _encoder(base)
    model[0].model = get_peft_model(model[0].model, config)
    pairs = [(" ".join(WORDS[i : i + 3]), " ".join(WORDS[i + 1 : i + 5])) for i in range(12)]
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(
            str(folder), max_steps=12, per_device_train_batch_size=4, save_strategy="no",
            logging_steps=1, report_to=[], use_cpu=True, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list([{"anchor": one, "positive": other} for one, other in pairs]),
        loss=MultipleNegativesRankingLoss(model),
    )  # fmt: skip
    callback = deep_lora.prepare(trainer, **({} if check is None else {"path": 0.01}))
    if check is None:
        trainer.train()
    else:
        check(trainer, callback)
    return model, [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def _embeddings(model: SentenceTransformer) -> Tensor:
    return model.encode(SENTENCES, convert_to_tensor=True, show_progress_bar=False).cpu()


def test_it_trains_from_the_base_with_subspaces_of_its_own_loss_and_is_saved(base: str, tmp_path: Path, capsys) -> None:
    model, losses = _trained(base, tmp_path, DeepLoraConfig(**TARGETS))
    assert "12 steps, subspaces from the gradient of 4 batches" in capsys.readouterr().out
    _, lora_losses = _trained(base, tmp_path, LoraConfig(**TARGETS))
    assert losses[0] == pytest.approx(lora_losses[0], abs=1e-4)
    assert sum(losses[-3:]) < sum(losses[:3])
    expected = _embeddings(model)
    assert not torch.allclose(expected, _embeddings(_encoder(base)), atol=1e-2)
    model.save_pretrained(str(tmp_path / "saved"))
    loaded = SentenceTransformer(str(tmp_path / "saved"), device="cpu")
    assert torch.allclose(_embeddings(loaded), expected, atol=1e-5)


def test_every_step_has_the_length_that_the_guard_leaves(base: str, tmp_path: Path) -> None:
    guards: list[float] = []
    _trained(base, tmp_path, DeepLoraConfig(**TARGETS), lambda *given: guards.extend(train_and_check_lengths(*given)))
    assert len(guards) == 12 and guards[0] == 1.0 and all(0 < left <= 1 for left in guards)


def test_it_leaves_as_lora_in_a_folder_of_its_own_or_over_the_saved_one(base: str, tmp_path: Path) -> None:
    model, _ = _trained(base, tmp_path, DeepLoraConfig(**TARGETS))
    expected = _embeddings(model)
    model.save_pretrained(str(tmp_path / "saved"))
    for folder in ("lora", "saved"):
        deep_lora.save_as_lora(tmp_path / folder, model[0].model)
    assert PeftConfig.from_pretrained(str(tmp_path / "saved")).peft_type == "LORA"
    assert torch.allclose(_embeddings(SentenceTransformer(str(tmp_path / "saved"), device="cpu")), expected, atol=1e-5)
    plain = _encoder(base)
    plain[0].model = PeftModel.from_pretrained(plain[0].model, str(tmp_path / "lora"))
    assert torch.allclose(_embeddings(plain), expected, atol=1e-5)


def test_without_the_trainer_it_says_what_to_do(base: str, tmp_path: Path) -> None:
    model = _encoder(base)
    model[0].model = get_peft_model(model[0].model, DeepLoraConfig(**TARGETS))
    trainer = SentenceTransformerTrainer(
        model,
        SentenceTransformerTrainingArguments(str(tmp_path), max_steps=1, report_to=[], use_cpu=True),
        train_dataset=Dataset.from_list([{"anchor": "a cat", "positive": "the dog"}] * 4),
        loss=MultipleNegativesRankingLoss(model),
        callbacks=[SubspaceInitializationCallback()],
    )
    with pytest.raises(ValueError, match=r"does not take a batch .*SubspaceInitializationCallback\(trainer=trainer"):
        trainer.train()
