"""What a wrong input gets: an error of the right type whose text says what came, what is needed and what to do."""

from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from torch import nn

from deep_lora import (
    DeepLoraConfig,
    SubspaceInitializationCallback,
    create_optimizer,
    initialize_subspaces_,
    parameter_groups,
    rescale_adapter_scale,
    save_as_lora,
    to_lora,
)
from deep_lora.layers.base import DeepLoraLayer
from deep_lora.layers.linear import Linear
from deep_lora.tuner.weighted import write_update
from dmf.functional import chain_product, orthogonal_chain
from dmf.linalg import FactorSVD
from dmf.subspaces import compressed_subspaces
from tests.models import Mixed, Nest, Pixels, adapt, ids, layers_of

UP = nn.ConvTranspose2d(2, 2, 1)
NAN = float("nan")


def _one(module: nn.Module) -> nn.Sequential:
    return nn.Sequential(module)


def _small(**settings) -> PeftModel:
    return adapt(nn.Sequential(nn.Linear(6, 6)), **({"r": 2, "target_modules": ["0"]} | settings))


def _backward(model: nn.Module, factor: float = 1.0) -> None:
    (model(torch.ones(3, 6)).square().sum() * factor).backward()


def _without_gradients(model: nn.Module) -> None:
    with torch.no_grad():
        model(torch.ones(3, 6))


def _initialize(closure=_backward, adapter_name: str = "default", **settings) -> None:
    model = _small(**settings)
    initialize_subspaces_(model, lambda: closure(model), adapter_name)


def _on_meta() -> None:
    model = _small()
    layers_of(model)[0].deep_lora_U["default"] = nn.Parameter(torch.empty(6, 2, device="meta"))
    initialize_subspaces_(model, lambda: None)


def _train_mode_names() -> None:
    adapt(Mixed(), r=2, target_modules=["square"]).train()(ids(2), adapter_names=["default", "__base__"])


def _names(names: list[str], merged: bool = False) -> None:
    model = adapt(Mixed(), r=2, target_modules=["square"])
    if merged:
        model.merge_adapter()
    model(ids(2), adapter_names=names)


def _beams() -> None:
    model = adapt(Mixed(), r=2, target_modules=["square"])
    with model.base_model._enable_peft_forward_hooks(adapter_names={"default": 1}, num_beams=3):
        pass


def _expert_names() -> None:
    model = adapt(Nest(), r=2, target_modules=[], target_parameters=["moe.matrix"])
    model(torch.ones(1, 8), adapter_names=["default"])


def _parameter(name: str = "moe.matrix", **settings) -> PeftModel:
    nest = Nest()
    nest.moe.vector = nn.Parameter(torch.ones(6))
    return adapt(nest, r=2, target_modules=[], target_parameters=[name], **settings)


def _second_parameters() -> None:
    model = _parameter()
    model.add_adapter("second", DeepLoraConfig(r=2, target_modules=[], target_parameters=["moe.experts"]))


def _mamba() -> None:
    model = nn.Sequential()
    model.config = SimpleNamespace(model_type="mamba", to_dict=lambda: {"model_type": "mamba"})
    model.out_proj = nn.Linear(4, 4)
    adapt(model, r=2, target_modules=["out_proj"])


def _nan_export() -> None:
    model = _small()
    nn.init.constant_(layers_of(model)[0].deep_lora_core["default"], float("nan"))
    to_lora(model)


def _bare_layer() -> DeepLoraLayer:
    return layers_of(_small())[0]


def _shapeless() -> None:
    class Strange(nn.Module):
        pass

    Linear(Strange(), "default", r=2, depth=3, config=DeepLoraConfig())


def _no_trainer() -> None:
    SubspaceInitializationCallback().on_train_begin(None, SimpleNamespace(global_step=0), None)


def _no_loss() -> None:
    arguments, state = SimpleNamespace(device=torch.device("cpu")), SimpleNamespace(global_step=0)
    model = adapt(Mixed(), r=2, target_modules=["square"])
    loader = [{"ids": ids()}]
    SubspaceInitializationCallback().on_train_begin(arguments, state, None, model=model, train_dataloader=loader)


def _stacked_write() -> None:
    svd = FactorSVD(torch.ones(6, 1), torch.ones(1), torch.ones(6, 1))
    write_update(_parameter("moe.experts").base_model.model.moe, "default", svd)


def _quantized_merge() -> None:
    model = _small()
    layers_of(model)[0].quantization_backend = SimpleNamespace(supports_merge=False, backend_name="gptq")
    model.base_model._check_merge_allowed()


def _tokenless(key: None = None) -> None:
    model = _small()
    target = model.base_model.model[0]
    model.base_model._create_and_replace(DeepLoraConfig(), "x", target, "0", model, key)


BAD = [
    ("sides", lambda: initialize_subspaces_(_small(), lambda: None, sides="left"), ValueError,
     "`sides` must be one of 'both', 'right', got 'left'"),
    ("odd rank", lambda: initialize_subspaces_(_small(r=3), lambda: None, sides="both"), ValueError,
     r"`r` must be even, got \[3\]; use an even rank, `sides=\"right\"` \(the default\), or keep the random"),
    ("no call", lambda: _initialize(lambda model: None), RuntimeError, "the closure never ran through the adapted"),
    ("no backward", lambda: _initialize(lambda m: m(torch.ones(3, 6))), RuntimeError, r"never called backward\(\)"),
    ("no_grad", lambda: _initialize(_without_gradients), RuntimeError, r"not under torch.no_grad\(\)"),
    ("NaN loss", lambda: _initialize(lambda m: _backward(m, NAN)), ValueError, "check the batch and the loss, lower"),
    ("unknown adapter", lambda: _initialize(adapter_name="b"), ValueError, r"called 'b' \(adapters: \['default'\]\)"),
    ("narrow", lambda: _initialize(variant="narrow"), ValueError, "is not compressed, so it has no subspaces"),
    ("plain model", lambda: initialize_subspaces_(nn.Linear(2, 2), lambda: None), ValueError, "make one with `get"),
    ("meta device", _on_meta, ValueError, "these adapters are on the meta device: .*load or materialize them first"),
    ("lstm", lambda: adapt(_one(nn.LSTM(4, 4)), target_modules=["0"]), ValueError, "LSTM.* only the following modules"),
    ("transposed convolution", lambda: adapt(_one(UP), target_modules=["0"]), ValueError, "s not supported. Currently"),
    ("mamba", _mamba, ValueError, "'out_proj' is incompatible with Mamba-based models .*Please remove it from"),
    ("absent target", lambda: adapt(Mixed(), r=2, target_modules=["query"]), ValueError, "query.*not found"),
    ("groups", lambda: adapt(Pixels(), r=3, target_modules=["grouped"]), ValueError, "groups=2 and rank 3. Currently"),
    ("no key", _tokenless, ValueError, "Current Key shouldn't be `None`"),
    ("no inputs", lambda: adapt(_one(nn.Linear(0, 5)), target_modules=["0"]), ValueError, "of 0 inputs and 5 outp"),
    ("no rows", lambda: adapt(_one(nn.Embedding(0, 5)), target_modules=["0"]), ValueError, "leave it out .`exclude_m"),
    ("no shape", _shapeless, TypeError, "deep_lora cannot read the shape of a Strange"),
    ("zero rank", lambda: _bare_layer().update_layer("b", 0, 3, DeepLoraConfig()), ValueError, "value passed is 0"),
    ("no operator", lambda: DeepLoraLayer.gradient_operator(_bare_layer(), ids(), ids()), NotImplementedError,
     "deep_lora.Linear has no gradient operator"),
    ("1-d parameter", lambda: _parameter("moe.vector"), ValueError, r"2 or 3 dimensions, `vector` has shape \(6,\)"),
    ("parameter fan-in", lambda: _parameter(fan_in_fan_out=True), ValueError, "not support `fan_in_fan_out=True`"),
    ("parameter dropout", lambda: _parameter(deep_lora_dropout=0.1), ValueError,
     "ParamWrapper does not support `deep_lora_dropout`, got 0.1; set it to 0 or do not target this module"),
    ("other parameters", _second_parameters, ValueError, "must target the same set of parameters, but got"),
    ("expert names", _expert_names, ValueError, "does not support mixed adapter batches yet"),
    ("training mode", _train_mode_names, ValueError, "Cannot pass `adapter_names` when the model is in training mode"),
    ("name count", lambda: _names(["default"]), ValueError, "number of inputs, but got 1 and 2 respectively"),
    ("strange name", lambda: _names(["x", "default"]), ValueError, r"infer with non-existing adapter\(s\): x"),
    ("merged names", lambda: _names(["default"] * 2, merged=True), ValueError, "there are merged adapters, please"),
    ("beam names", _beams, TypeError, "Got adapter names of type <class 'dict'>, expected a list of str"),
    ("lr", lambda: parameter_groups(_small(), lr=0.0), ValueError, "`lr` must be positive, got 0.0"),
    ("nan lr", lambda: create_optimizer(_small(), lr=float("nan")), ValueError, "`lr` must be positive, got nan"),
    ("gamma", lambda: parameter_groups(_small(), lr=1e-3, gamma=-1), ValueError, "to keep U and V fixed"),
    ("decay", lambda: parameter_groups(_small(), 1e-3, weight_decay=-1), ValueError, "`weight_decay` must not be neg"),
    ("no adapter", lambda: parameter_groups(nn.Linear(2, 2), 1e-3), ValueError, "has no trainable Deep LoRA parameter"),
    ("batches", lambda: SubspaceInitializationCallback(0), ValueError, "`num_batches` must be a positive int.*got 0"),
    ("no trainer", _no_trainer, ValueError, "needs the model and the dataloader of a Trainer; add it to"),
    ("no loss", _no_loss, ValueError, r"the model returned no loss for a batch with \['ids'\]"),
    ("tolerance", lambda: to_lora(_small(), tolerance=1.0), ValueError, r"singular value, in \[0, 1\), got 1.0"),
    ("export name", lambda: to_lora(_small(), "b"), ValueError, "called 'b'.*make one with `get_peft_model"),
    ("export NaN", _nan_export, ValueError, "the adapter 'default' is not finite in module .*; nothing was exported"),
    ("export file", lambda: save_as_lora(__file__, _small()), NotADirectoryError, "save_as_lora needs the name of"),
    ("merge gptq", _quantized_merge, ValueError, "gptq: its weights cannot be rewritten. Keep"),
    ("write experts", _stacked_write, ValueError, "an update can only be written to a compressed adapter of a matrix"),
    ("multiplier", lambda: rescale_adapter_scale(_small(), "2").__enter__(), TypeError, "must be a number, got"),
    ("rescale none", lambda: rescale_adapter_scale(nn.Linear(2, 2), 2).__enter__(), ValueError, "no Deep LoRA layers"),
    ("empty chain", lambda: chain_product([]), ValueError, "a chain needs at least one factor, got none"),
    ("one width", lambda: orthogonal_chain([3]), ValueError, r"at least two widths \(input and output\), got \[3\]"),
    ("too wide", lambda: compressed_subspaces(torch.eye(3), torch.eye(3), lambda m: m, lambda m: m), ValueError,
     "rank 6 does not fit a matrix of shape 3 x 3; use a rank of at most 3"),
]  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call,error,text", [pytest.param(*row[1:], id=row[0]) for row in BAD])
def test_a_wrong_input_is_refused_with_a_helpful_text(call, error, text: str) -> None:
    with pytest.raises(error, match=text):
        call()


def test_the_table_is_long_enough_and_its_names_are_unique() -> None:
    assert len(BAD) >= 30 and len({row[0] for row in BAD}) == len(BAD)
