"""Base layers with their own forward pass, a computed weight, or several places: the right number, or a sentence."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import transformers as hf
from torch import nn
from torch.nn.utils import parametrizations, prune
from transformers.models.idefics.modeling_idefics import IdeficsDecoupledLinear
from transformers.models.llama4.modeling_llama4 import Llama4Router
from transformers.models.opt.modeling_opt import OPTLearnedPositionalEmbedding
from transformers.models.whisper.modeling_whisper import WhisperPositionalEmbedding

from deep_lora import to_lora
from tests.models import adapt, disturb_

SIZE = 6
X = torch.linspace(-1, 1, 3 * SIZE).reshape(1, 3, SIZE)
IDS = torch.tensor([[3, 1, 3]])
ROUTING = SimpleNamespace(hidden_size=SIZE, num_local_experts=4, num_experts_per_tok=1)


class Tuple(nn.Module):
    """The first of several outputs of a module."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x)[0]


class Doubled(nn.Linear):
    """As Bloom's and others' scaled layers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(x)


class Rounded(nn.Linear):
    """As in training for quantization."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, (4 * self.weight).round() / 4, self.bias)


class Written(nn.Linear):
    """The product in other words, as Falcon's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.weight.mT + self.bias


class Renamed(nn.Embedding):
    """An ordinary embedding that somebody has made a class of."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return super().forward(ids)


class Normed(nn.Embedding):
    """As Inkling's, rows of one length."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return F.normalize(super().forward(ids), dim=-1)


def adapted(layer: nn.Module):
    torch.manual_seed(0)
    model = adapt(nn.Sequential(OrderedDict(layer=layer)), r=2, target_modules=["layer"])
    disturb_(model)
    return model


def merged_changes(model, x: torch.Tensor) -> float:
    with torch.no_grad():
        before = model(x)
        return float((model.merge_and_unload()(x) - before).norm() / before.norm())


@pytest.mark.parametrize(
    ("layer", "x"), [(Written(SIZE, SIZE), X), (Written(SIZE, 5).bfloat16(), X.bfloat16()), (Renamed(7, SIZE), IDS)]
)
def test_a_product_or_a_lookup_in_other_words_is_adapted_and_merged(layer, x) -> None:
    assert merged_changes(adapted(layer), x) < (2e-2 if layer.weight.dtype == torch.bfloat16 else 1e-5)


@pytest.mark.parametrize("layer", [Doubled(SIZE, SIZE), Rounded(SIZE, SIZE), Rounded(SIZE, 5).bfloat16()])
def test_a_layer_that_computes_more_than_a_product_is_adapted_and_cannot_be_merged(layer) -> None:
    model, x = adapted(layer), X.to(layer.weight.dtype)
    update = model.base_model.model[0].get_delta_weight("default")
    torch.testing.assert_close(model(x), layer(x) + F.linear(x.to(update), update).to(x.dtype), rtol=2e-2, atol=2e-2)
    for merge in (model.merge_and_unload, model.merge_adapter, model.base_model.model[0].merge):
        with pytest.raises(ValueError, match=f"a {type(layer).__name__} computes more than a product with its weight"):
            merge()


@pytest.mark.parametrize(
    "layer",
    [Llama4Router(ROUTING), IdeficsDecoupledLinear(SIZE, 4, out_additional_features=2)],
    ids=lambda x: type(x).__name__,
)
def test_a_layer_that_returns_something_else_is_refused_and_adapted_by_its_parameter(layer) -> None:
    with pytest.raises(ValueError, match="does not return one vector of its 4 `out_features` for each input vector"):
        adapted(layer)
    x = X[0] if isinstance(layer, Llama4Router) else X
    model = adapt(nn.Sequential(Tuple(layer)), r=2, target_modules=[], target_parameters=["inner.weight"])
    disturb_(model)
    assert merged_changes(model, x) < 1e-5


def test_all_linear_leaves_such_a_layer_out_and_warns() -> None:
    inner = nn.ModuleDict({"router": Llama4Router(ROUTING), "up": nn.Linear(SIZE, 4)})
    with pytest.warns(
        UserWarning, match="'all-linear' leaves out router: no update can be added to what these modules"
    ):
        model = adapt(inner, r=2, target_modules="all-linear")
    assert model.base_model.targeted_module_names == ["up"]


@pytest.mark.parametrize(
    "layer",
    [Normed(7, SIZE), OPTLearnedPositionalEmbedding(7, SIZE), WhisperPositionalEmbedding(7, SIZE)],
    ids=lambda x: type(x).__name__,
)
def test_an_embedding_that_does_not_look_up_its_input_is_refused_and_adapted_by_its_parameter(layer) -> None:
    with pytest.raises(ValueError, match=f"got a {type(layer).__name__}, whose forward pass does more than look up"):
        adapted(layer)
    model = adapt(nn.Sequential(nn.Sequential(layer)), r=2, target_modules=[], target_parameters=["0.weight"])
    disturb_(model)
    assert merged_changes(model, torch.ones(1, 3).long()) < 1e-5


def test_embeddings_of_positions_in_a_whole_model_are_refused() -> None:
    sizes = {"hidden_size": 16, "ffn_dim": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = hf.OPTForCausalLM(hf.OPTConfig(vocab_size=41, max_position_embeddings=32, word_embed_proj_dim=16, **sizes))
    with pytest.raises(ValueError, match="OPTLearnedPositionalEmbedding, whose forward pass .* `target_parameters`"):
        adapt(model, r=2, target_modules=["embed_positions"])


def test_an_embedding_with_max_norm_cannot_be_merged() -> None:
    model = adapted(nn.Embedding(7, SIZE, max_norm=0.5))
    with pytest.raises(ValueError, match="an embedding with `max_norm` shortens its rows at every call"):
        model.merge_and_unload()


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "computed",
    [
        parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm, nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    ],
    ids=["weight norm", "spectral norm", "old weight norm", "old spectral norm", "pruned"],
)  # fmt: skip
@pytest.mark.parametrize(("layer", "x"), [(lambda: nn.Linear(SIZE, 4), X), (lambda: nn.Conv1d(3, 4, 3), X)])
def test_a_weight_that_is_computed_takes_no_merged_update(layer, x, computed) -> None:
    base = computed(layer()).eval()
    model = adapted(base).eval()
    plain = base(x)
    assert not torch.allclose(model(x), plain)
    with pytest.raises(ValueError, match=r"`weight` of a .* is computed at every call, by weight .* keep the adapter"):
        model.merge_and_unload()
    assert torch.equal(base(x), plain)


class Siamese(nn.Module):
    """One layer in two places."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.second = nn.ModuleDict({"layer": layer}), nn.ModuleDict({"layer": layer})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second["layer"](torch.tanh(self.first["layer"](x)))


@pytest.mark.parametrize(
    "targets", [{"target_modules": ["layer"]}, {"target_modules": [], "target_parameters": ["layer.weight"]}]
)
def test_a_layer_in_two_places_is_adapted_in_both_and_not_exported(targets) -> None:
    torch.manual_seed(0)
    own = nn.Linear(SIZE, SIZE)
    base = Siamese(own)
    model = adapt(base, r=2, **targets)
    disturb_(model)
    assert base.first["layer"] is base.second["layer"] and base.first["layer"] is not own
    with pytest.raises(ValueError, match="with several places in the model, which PEFT's LoRA computes differently"):
        to_lora(model)
    assert merged_changes(model, X) < 1e-5
    assert base.first["layer"] is base.second["layer"]
