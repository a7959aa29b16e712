"""Tiny models for the tests, and the few lines that adapt, disturb and train them."""

from __future__ import annotations

from typing import Any

import torch
from peft import PeftModel, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from deep_lora import DeepLoraConfig, DeepLoraLayer, adapted_layers

VOCABULARY = 41


class Experts(nn.Module):
    """Bare parameters: `y = sum_e x E_e^T M^T` with stacked experts E_e, stored transposed if asked, and a matrix M."""

    def __init__(self, is_transposed: bool = False) -> None:
        super().__init__()
        self.is_transposed = is_transposed
        self.matrix = nn.Parameter(torch.randn(5, 6) / 3)
        self.experts = nn.Parameter(torch.randn(3, 8, 6) / 3 if is_transposed else torch.randn(3, 6, 8) / 3)

    def forward(self, x: Tensor) -> Tensor:
        kernel = "bi,eio->beo" if self.is_transposed else "bi,eoi->beo"
        return torch.einsum(kernel, x, self.experts).sum(1) @ self.matrix.T


class Nest(nn.Module):
    """Something that holds an `Experts`, so that its parameters have a dotted name."""

    def __init__(self, is_transposed: bool = False) -> None:
        super().__init__()
        self.moe = Experts(is_transposed)

    def forward(self, x: Tensor) -> Tensor:
        return self.moe(x)


class Mixed(nn.Module):
    """Embedding, square and rectangular linear layers, a norm and a head; ids (batch, tokens) -> (batch, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8, padding_idx=0)
        self.square = nn.Linear(8, 8)
        self.tall = nn.Linear(8, 12)
        self.wide = nn.Linear(12, 6, bias=False)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        hidden = torch.tanh(self.square(self.embedding(ids)))
        return self.head(self.norm(self.wide(torch.tanh(self.tall(hidden)))).mean(1))


class Pixels(nn.Module):
    """Two convolutions, the second one grouped, with stride, padding and dilation; (batch, 4, 9, 9) -> (batch, 5)."""

    def __init__(self, groups: int = 2, padding_mode: str = "zeros", dilation: int = 2) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 6, 3, padding=1, padding_mode=padding_mode)
        self.grouped = nn.Conv2d(6, 8, (3, 2), stride=2, dilation=(1, dilation), groups=groups)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.grouped(torch.relu(self.first(x))).mean((2, 3)))


class Waves(nn.Module):
    """Two one-dimensional convolutions with padding and stride; (batch, 4, 10) -> (batch, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(4, 5, 3, padding=1), nn.Conv1d(5, 6, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x))).mean(2)


class Voxels(nn.Module):
    """Two three-dimensional convolutions with padding and stride; (batch, 4, 5, 5, 5) -> (batch, 6)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv3d(4, 5, 3, padding=1), nn.Conv3d(5, 6, (1, 2, 3), stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x))).mean((2, 3, 4))


class SamePadding(nn.Conv2d):
    """Pads by itself, at the end only, so that the output has the size of the input over the stride."""

    def forward(self, x: Tensor) -> Tensor:
        sizes = zip(self.kernel_size, x.shape[-2:], self.stride, strict=True)
        pads = [(kernel - 1) - (size - 1) % step for kernel, size, step in sizes]
        x = nn.functional.pad(x, (0, max(0, pads[1]), 0, max(0, pads[0])))
        return nn.functional.conv2d(x, self.weight, self.bias, self.stride)


def llama(**settings: Any) -> LlamaForCausalLM:
    """A two-layer Llama with random weights."""
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=32, pad_token_id=0, **(sizes | settings))
    return LlamaForCausalLM(config).eval()


def gpt2() -> GPT2LMHeadModel:
    """A two-layer GPT-2: Conv1D layers, embedding and head tied."""
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=32, n_embd=16, n_layer=2, n_head=2, pad_token_id=0)
    return GPT2LMHeadModel(config).eval()


def bert_classifier(layers: int = 2, width: int = 32, labels: int = 2) -> BertForSequenceClassification:
    """A small BERT with a classification head and no dropout."""
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=width, num_hidden_layers=layers, num_attention_heads=2,
        intermediate_size=2 * width, max_position_embeddings=32, num_labels=labels,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    return BertForSequenceClassification(config).eval()


def word_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """A token for each word, from 3 on, after padding, the end and the unknown."""
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[EOS]", "[UNK]", *words])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", eos_token="[EOS]", unk_token="[UNK]", model_max_length=32
    )


def ids(batch: int = 4, tokens: int = 7, seed: int = 1) -> Tensor:
    """Random token ids without the padding id 0."""
    return torch.randint(1, VOCABULARY, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def adapt(model: nn.Module, adapter_name: str = "default", **settings: Any) -> PeftModel:
    """`get_peft_model` with a `DeepLoraConfig`, in evaluation mode."""
    autocast = settings.pop("autocast_adapter_dtype", True)
    config = DeepLoraConfig(**settings)
    return get_peft_model(model, config, adapter_name, autocast_adapter_dtype=autocast).eval()


def layers_of(model: nn.Module) -> list[DeepLoraLayer]:
    """All adapted layers; there must be some."""
    found = list(adapted_layers(model).values())
    assert found, "the model has no adapted layer"
    return found


def bases_of(layer: DeepLoraLayer, adapter_name: str = "default") -> tuple[Tensor, Tensor]:
    """U and V of the update, which are stored smaller by `outer_scale`."""
    scale = layer.outer_scale[adapter_name]
    return scale * layer.deep_lora_U[adapter_name].detach(), scale * layer.deep_lora_V[adapter_name].detach()


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Every adapter tensor by its name in the model; there must be some."""
    found = {name: p for name, p in model.named_parameters() if "deep_lora_" in name}
    assert found, "the model has no adapter tensor"
    return found


def cores_of(layer: DeepLoraLayer, adapter_name: str = "default") -> Tensor:
    """The cores of the update over kappa; what is stored of them lacks the start."""
    core = layer.deep_lora_core[adapter_name].detach()
    if not layer.differences[adapter_name]:
        return core
    return core + layer.deep_lora_start[adapter_name].to(core) * torch.eye(core.shape[-1], dtype=core.dtype)


@torch.no_grad()
def disturb_(model: nn.Module, scale: float = 0.3, seed: int = 5) -> None:
    """Random, non-zero updates of moderate size: every kappa * stored core becomes `scale` times a random matrix."""
    generator = torch.Generator().manual_seed(seed)
    for layer in layers_of(model):
        for name, core in layer.deep_lora_core.items():
            if name not in layer.tied_to:
                noise = torch.randn(core.shape, generator=generator) * scale / layer.core_scale[name]
                core.copy_(noise.to(core))


def train(model: nn.Module, batches: list[tuple[Tensor, Tensor]], steps: int = 3, lr: float = 1e-2) -> list[float]:
    """Plain AdamW on everything trainable with the squared error; the losses."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    losses = []
    for step in range(steps):
        x, y = batches[step % len(batches)]
        output = model(x)
        output = getattr(output, "logits", output)
        loss = (output.float() - y.float()).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


PIXELS = torch.linspace(-1, 1, 648).reshape(2, 4, 9, 9)
SIGNALS = torch.linspace(-1, 1, 80).reshape(2, 4, 10).sin()
VOLUMES = torch.linspace(-1, 1, 1000).reshape(2, 4, 5, 5, 5).sin()
VECTORS = torch.linspace(-1, 1, 32).reshape(4, 8)
LINEAR = ["square", "tall", "wide"]
# For each kind of base layer a model, an input, and what of it is adapted. A new kind belongs here.
LAYER_CASES: dict[str, tuple[Any, Tensor, dict[str, Any]]] = {
    "linear": (Mixed, ids(), {"target_modules": LINEAR}),
    "embedding": (Mixed, ids(), {"target_modules": ["embedding"]}),
    "gpt2": (gpt2, ids(), {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True}),
    "conv2d": (lambda: Pixels(groups=1, dilation=1), PIXELS, {"target_modules": ["first", "grouped"]}),
    "conv1d": (Waves, SIGNALS, {"target_modules": ["first", "second"]}),
    "conv3d": (Voxels, VOLUMES, {"target_modules": ["first", "second"]}),
    "conv2d with its own padding": (
        lambda: nn.Sequential(SamePadding(4, 6, 3, stride=2)),
        PIXELS,
        {"target_modules": ["0"]},
    ),
    "matrix": (Nest, VECTORS, {"target_modules": [], "target_parameters": ["moe.matrix"]}),
    "experts": (Nest, VECTORS, {"target_modules": [], "target_parameters": ["moe.experts"]}),
    "experts transposed": (lambda: Nest(True), VECTORS, {"target_modules": [], "target_parameters": ["moe.experts"]}),
}
