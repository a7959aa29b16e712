"""Our losses in the Trainer of sentence-transformers: values, hard negatives, learned and scheduled temperatures."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.sentence_transformer.losses import (
    MultipleNegativesRankingLoss,
    MultipleNegativesSymmetricRankingLoss,
)
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import BertConfig, BertModel

from modality import LinearSchedule, Temperature, TemperatureScheduleCallback, contrastive_loss, sigmoid_loss
from modality.sentence_transformers import ContrastivePairsLoss
from tests.models import word_tokenizer

WORDS = "a cat sat on the mat while one dog ran far away from two small birds".split()
COLUMNS = {
    name: [" ".join(WORDS[i + shift : i + shift + 3]) for i in range(12)]
    for shift, name in enumerate(("anchor", "positive", "negative"))
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("encoder")
    word_tokenizer(WORDS).save_pretrained(folder)
    torch.manual_seed(0)
    BertModel(BertConfig(
        vocab_size=len(WORDS) + 3, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8,
        max_position_embeddings=16, initializer_range=0.2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )).save_pretrained(folder)  # fmt: skip
    return str(folder)


def encoder(base: str) -> SentenceTransformer:
    transformer = Transformer(base)
    return SentenceTransformer(modules=[transformer, Pooling(transformer.get_embedding_dimension())], device="cpu")


def value(model: SentenceTransformer, loss: Any, columns: int = 2) -> torch.Tensor:
    features = [model.preprocess(texts) for texts in list(COLUMNS.values())[:columns]]
    return loss(features, torch.zeros(12))


def embeddings(model: SentenceTransformer) -> list[torch.Tensor]:
    return [model.encode(texts, convert_to_tensor=True, show_progress_bar=False) for texts in COLUMNS.values()]


def test_at_a_fixed_temperature_it_is_sentence_transformers_own_loss(base: str) -> None:
    model = encoder(base)
    fixed = Temperature(0.05)
    theirs = value(model, MultipleNegativesSymmetricRankingLoss(model, scale=20.0))
    torch.testing.assert_close(value(model, ContrastivePairsLoss(model, fixed)), theirs)
    one_way = ContrastivePairsLoss(model, fixed, direction="x_to_y")
    for columns in (2, 3):
        theirs = value(model, MultipleNegativesRankingLoss(model, scale=20.0), columns)
        torch.testing.assert_close(value(model, one_way, columns), theirs)


def test_it_is_the_loss_of_the_embeddings_with_either_loss(base: str) -> None:
    model = encoder(base)
    x, y, negatives = embeddings(model)
    both = ContrastivePairsLoss(model, Temperature(0.1), label_smoothing=0.1, block_size=5)
    expected = contrastive_loss(x, y, 10.0, negatives=negatives, label_smoothing=0.1)
    torch.testing.assert_close(value(model, both, 3), expected)
    sigmoid = ContrastivePairsLoss(model, loss="sigmoid")
    torch.testing.assert_close(value(model, sigmoid), sigmoid_loss(x, y, 10.0, -10.0))
    assert both.get_config_dict()["temperature"]["initial"] == 0.1


def trained(base: str, folder: Any, make: Any, schedule: Any = None, columns: int = 2) -> tuple[Any, Any, list[float]]:
    torch.manual_seed(0)
    model = encoder(base)
    loss = make(model)
    callbacks = [] if schedule is None else [TemperatureScheduleCallback(schedule, module=loss)]
    arguments = SentenceTransformerTrainingArguments(
        str(folder), max_steps=6, per_device_train_batch_size=4, save_strategy="no", logging_steps=1, report_to=[],
        use_cpu=True, disable_tqdm=True, learning_rate=1e-2, seed=0,
    )  # fmt: skip
    data = Dataset.from_dict({name: COLUMNS[name] for name in list(COLUMNS)[:columns]})
    trainer = SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss, callbacks=callbacks)
    trainer.train()
    return model, loss, [entry for entry in trainer.state.log_history if "loss" in entry]


def test_in_its_trainer_a_schedule_sets_the_temperature_of_every_step(base: str, tmp_path: Any) -> None:
    schedule = LinearSchedule(0.05, 0.2)

    def make(model: SentenceTransformer) -> ContrastivePairsLoss:
        return ContrastivePairsLoss(model, Temperature(0.05, mode="scheduled"))

    model, loss, log = trained(base, tmp_path, make, schedule, columns=3)
    assert [entry["tau"] for entry in log] == pytest.approx([schedule(step / 6) for step in range(6)])
    assert loss.temperature.tau == pytest.approx(schedule(5 / 6))
    assert not torch.allclose(embeddings(model)[0], embeddings(encoder(base))[0], atol=1e-3)


def test_in_its_trainer_a_learned_temperature_learns_and_a_fixed_one_does_not(base: str, tmp_path: Any) -> None:
    _, learned, _ = trained(base, tmp_path, ContrastivePairsLoss)
    assert learned.temperature.tau != pytest.approx(0.07, rel=1e-4)
    _, fixed, log = trained(base, tmp_path, lambda model: ContrastivePairsLoss(model, Temperature(0.07)))
    assert fixed.temperature.tau == pytest.approx(0.07)
    assert log[0]["loss"] > log[-1]["loss"]
    _, sigmoid, _ = trained(base, tmp_path, lambda model: ContrastivePairsLoss(model, loss="sigmoid"))
    assert sigmoid.logit_bias.item() != -10.0


@pytest.mark.parametrize(
    ("settings", "columns", "text"),
    [
        ({}, 1, "needs the columns anchor and positive, got 1 columns of text or images"),
        ({"loss": "sigmoid"}, 3, "the sigmoid loss takes anchor and positive, got 3 columns; hard negatives need"),
        ({"loss": "sigmoid", "direction": "x_to_y"}, 2, "the sigmoid loss has no directions"),
        ({"loss": "triplet"}, 2, "`loss` must be 'contrastive' or 'sigmoid', got 'triplet'"),
    ],
)
def test_what_does_not_fit_is_refused(base: str, settings: Any, columns: int, text: str) -> None:
    model = encoder(base)
    with pytest.raises(ValueError, match=text):
        value(model, ContrastivePairsLoss(model, **settings), columns)
