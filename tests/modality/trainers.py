"""Tiny contrastive models, random pairs for them, and a Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertModel,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    PreTrainedModel,
    SiglipConfig,
    SiglipModel,
    Trainer,
    TrainingArguments,
)

VOCABULARY, TOKENS, WIDTH = 31, 5, 8
SMALL = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 2}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
TEXT = SMALL | SPECIAL | {"vocab_size": VOCABULARY, "max_position_embeddings": TOKENS}
VISION = SMALL | {"image_size": 4, "patch_size": 2}


def clip(dropout: float = 0.0, seed: int = 0) -> PreTrainedModel:
    """Features far enough from each other that the loss is not log n."""
    torch.manual_seed(seed)
    parts = {"attention_dropout": dropout}
    config = CLIPConfig(text_config=TEXT | parts, vision_config=VISION | parts, projection_dim=6)
    return CLIPModel(config)


def siglip() -> PreTrainedModel:
    return SiglipModel(SiglipConfig(text_config=TEXT | {"projection_size": WIDTH}, vision_config=VISION))


def chinese_clip() -> PreTrainedModel:
    return ChineseCLIPModel(ChineseCLIPConfig(text_config=TEXT, vision_config=VISION, projection_dim=6))


def bert(dropout: float = 0.0, seed: int = 0) -> PreTrainedModel:
    torch.manual_seed(seed)
    shares = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    return BertModel(BertConfig(**(TEXT | shares), type_vocab_size=1), add_pooling_layer=False)


class Convolution(nn.Module):
    """A vision tower that no configuration describes; returns feature maps."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, WIDTH, 2, 2)

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.convolution(pixel_values)


class Pairs(Dataset):
    """Random images and sentences; the image is a fixed linear map of the tokens, plus noise."""

    def __init__(self, count: int, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.tokens = torch.randint(3, VOCABULARY, (count, TOKENS), generator=generator)
        self.tokens[:, -1] = 2
        table = torch.randn(VOCABULARY, 48, generator=torch.Generator().manual_seed(99))
        images = table[self.tokens].sum(1) + 0.1 * torch.randn(count, 48, generator=generator)
        self.images = images.reshape(count, 3, 4, 4)

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.tokens[index], "pixel_values": self.images[index]}

    def batch(self) -> dict[str, Tensor]:
        """All of it."""
        return {"input_ids": self.tokens, "pixel_values": self.images}


def trainer(
    folder: Any, model: nn.Module | None = None, *, count: int = 16, eval_count: int = 10, **settings: Any
) -> Trainer:
    """Logs nowhere but in its state."""
    names = ("callbacks", "data_collator", "optimizers", "model_init")
    options = {name: settings.pop(name) for name in names if name in settings}
    defaults = {
        "max_steps": 6, "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "learning_rate": 1e-2,
        "logging_steps": 1, "report_to": "none", "use_cpu": True, "save_strategy": "no", "seed": 1,
        "disable_tqdm": True,
    }  # fmt: skip
    arguments = TrainingArguments(str(folder), **(defaults | settings))
    return Trainer(model, arguments, train_dataset=Pairs(count, 1), eval_dataset=Pairs(eval_count, 2), **options)


def logged(run: Trainer, name: str) -> list[float]:
    """Every value of a metric in the Trainer's log."""
    return [entry[name] for entry in run.state.log_history if name in entry]
