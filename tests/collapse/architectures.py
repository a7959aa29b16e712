"""Tiny random classifiers of many architectures, with their inputs and the layers that adapters may target."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import transformers as hf
from torch import Tensor

from tests.models import VOCABULARY, ids

LABELS = 3
TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 40, "pad_token_id": 0}
ENCODER = TEXT | {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
DECODER = ENCODER | {"bos_token_id": 1, "eos_token_id": 2, "num_key_value_heads": 2}
IMAGE = {"image_size": 8, "patch_size": 4, "num_channels": 3}
VISION = IMAGE | {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
PYRAMID = {"num_channels": 3, "hidden_sizes": [4, 8], "depths": [1, 1]}
SWIN = IMAGE | {"patch_size": 2, "embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2}
XLNET = {"vocab_size": VOCABULARY, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 12, "pad_token_id": 0}
DISTIL = TEXT | {"dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 12}
GPT2 = {"vocab_size": VOCABULARY, "n_positions": 40, "n_embd": 8, "n_layer": 1, "n_head": 2, "pad_token_id": 0}
BART = {"vocab_size": VOCABULARY, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
        "decoder_attention_heads": 2, "encoder_ffn_dim": 12, "decoder_ffn_dim": 12, "max_position_embeddings": 40,
        "eos_token_id": 2, "pad_token_id": 0, "forced_eos_token_id": None}  # fmt: skip


class Architecture(NamedTuple):
    """A model class, its configuration, where its head is, and layers to adapt."""

    model: str
    config: str
    sizes: dict[str, Any]
    head: str
    targets: list[str]

    def build(self, seed: int = 0, **settings: Any) -> hf.PreTrainedModel:
        """The model with random weights, in evaluation mode."""
        torch.manual_seed(seed)
        config = getattr(hf, self.config)(**(self.sizes | {"num_labels": LABELS} | settings))
        return getattr(hf, self.model)(config).eval()

    def batch(self) -> dict[str, Tensor]:
        """Four inputs with their labels."""
        labels = torch.tensor([0, 1, 2, 1])
        if "Image" in self.model:
            size = self.sizes.get("image_size", 32)
            pixels = torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(2))
            return {"pixel_values": pixels, "labels": labels}
        tokens = ids(4, 6) + 2 * (ids(4, 6) < 3)
        if self.config == "BartConfig":
            tokens[:, -1] = 2
        if "Token" in self.model:
            labels = labels[:, None].repeat(1, 6)
            labels[:, 0] = -100
        return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "labels": labels}


ARCHITECTURES = [
    Architecture("BertForSequenceClassification", "BertConfig", ENCODER, "classifier", ["query", "dense"]),
    Architecture("BertForTokenClassification", "BertConfig", ENCODER, "classifier", ["query", "value"]),
    Architecture("RobertaForSequenceClassification", "RobertaConfig", ENCODER | {"pad_token_id": 1},
                 "classifier.out_proj", ["query", "value"]),
    Architecture("ElectraForSequenceClassification", "ElectraConfig", ENCODER | {"embedding_size": 8},
                 "classifier.out_proj", ["query", "value"]),
    Architecture("DebertaV2ForSequenceClassification", "DebertaV2Config", ENCODER | {"pooler_hidden_size": 8},
                 "classifier", ["query_proj"]),
    Architecture("AlbertForSequenceClassification", "AlbertConfig", ENCODER | {"embedding_size": 8}, "classifier",
                 ["query", "value"]),
    Architecture("ModernBertForSequenceClassification", "ModernBertConfig",
                 ENCODER | {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}, "classifier",
                 ["Wqkv"]),
    Architecture("DistilBertForSequenceClassification", "DistilBertConfig", DISTIL, "classifier", ["q_lin", "v_lin"]),
    Architecture("XLNetForSequenceClassification", "XLNetConfig", XLNET, "logits_proj", ["layer_1", "layer_2"]),
    Architecture("BartForSequenceClassification", "BartConfig", BART, "classification_head.out_proj",
                 ["q_proj", "v_proj"]),
    Architecture("GPT2ForSequenceClassification", "GPT2Config", GPT2, "score", ["c_attn"]),
    Architecture("LlamaForSequenceClassification", "LlamaConfig", DECODER, "score", ["q_proj", "v_proj"]),
    Architecture("Qwen2ForTokenClassification", "Qwen2Config", DECODER, "score", ["q_proj", "v_proj"]),
    Architecture("ViTForImageClassification", "ViTConfig", VISION, "classifier", ["q_proj", "v_proj", "query"]),
    Architecture("SwinForImageClassification", "SwinConfig", SWIN, "classifier", ["query", "value", "q_proj"]),
    Architecture("ResNetForImageClassification", "ResNetConfig", PYRAMID | {"embedding_size": 4}, "classifier.1",
                 ["convolution"]),
    Architecture("ConvNextForImageClassification", "ConvNextConfig", PYRAMID | {"num_stages": 2}, "classifier",
                 ["pwconv1", "pwconv2"]),
]  # fmt: skip
