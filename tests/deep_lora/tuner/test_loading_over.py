"""An adapter loaded into one of the same name: the same update, or an error that leaves the model as it was."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model_state_dict, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from deep_lora import AdapterFileError, DeepLoraConfig, convert_folder
from deep_lora.weights.saved import SETTINGS
from tests.deep_lora.tuner.settings_cases import OTHERS
from tests.models import LAYER_CASES, adapt, disturb_, layers_of

WAYS = ["load_adapter", "set_peft_model_state_dict", "load_state_dict"]


def adapted(case: str, **settings) -> PeftModel:
    base, _, own = LAYER_CASES[case]
    torch.manual_seed(0)
    model = adapt(base(), r=2, **own, **settings)
    disturb_(model)
    return model


def updates(model: nn.Module) -> list[torch.Tensor]:
    return [layer.get_delta_weight("default").detach().clone() for layer in layers_of(model)]


def load_over(model, source, way: str, folder) -> None:
    """Load the source, which is saved in the folder, over the adapter of the model."""
    if way == "load_adapter":
        model.load_adapter(str(folder), "default")
    elif way == "set_peft_model_state_dict":
        set_peft_model_state_dict(model, get_peft_model_state_dict(source))
    else:
        model.load_state_dict(source.state_dict(), strict=False)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("difference", OTHERS)
@pytest.mark.parametrize("case", ["linear", "embedding", "gpt2", "conv2d", "experts"])
@pytest.mark.filterwarnings("ignore")
def test_another_configuration_is_an_error_that_changes_nothing(case, difference, way, tmp_path) -> None:
    saved, own = OTHERS[difference]
    source, model = adapted(case, **saved), adapted(case, **own)
    source.save_pretrained(str(tmp_path))
    before = updates(model)
    with pytest.raises(AdapterFileError, match="'default' of this model has .*load it under another name"):
        load_over(model, source, way, tmp_path)
    assert all(torch.equal(new, old) for new, old in zip(updates(model), before, strict=True))
    loaded = PeftModel.from_pretrained(LAYER_CASES[case][0](), str(tmp_path))
    assert all(torch.equal(new, old) for new, old in zip(updates(loaded), updates(source), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", LAYER_CASES)
def test_the_same_configuration_loads_in_every_precision_without_a_word(case, dtype, tmp_path) -> None:
    source, model = adapted(case).to(dtype), adapted(case)
    source.save_pretrained(str(tmp_path))
    for layer in layers_of(model):
        nn.init.zeros_(layer.deep_lora_core["default"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = model.load_adapter(str(tmp_path), "default")
    assert not result.unexpected_keys and not result.missing_keys
    assert all(torch.equal(new.to(dtype), old) for new, old in zip(_factors(model), _factors(source), strict=True))


def _factors(model: nn.Module) -> list[torch.Tensor]:
    names = ("deep_lora_U", "deep_lora_core", "deep_lora_V")
    return [getattr(layer, name)["default"].detach() for layer in layers_of(model) for name in names]


@pytest.mark.parametrize("case", LAYER_CASES)
def test_files_of_earlier_versions_and_parameters_alone_are_loaded(case, tmp_path) -> None:
    before = {"deep_lora_version": 2}
    source = adapted(case, **before)
    state = {key: value for key, value in get_peft_model_state_dict(source).items() if SETTINGS not in key}
    model = adapted(case, **before)
    for layer in layers_of(model):
        nn.init.zeros_(layer.deep_lora_core["default"])
    result = set_peft_model_state_dict(model, state)
    assert not [key for key in result.missing_keys if "deep_lora" in key]
    assert all(torch.equal(new, old) for new, old in zip(updates(model), updates(source), strict=True))
    model.load_state_dict({name: p.detach() for name, p in source.named_parameters()}, strict=False)
    with pytest.raises(
        AdapterFileError, match="an earlier version, whose cores include their start; those of .*'default"
    ):
        set_peft_model_state_dict(adapted(case), state)
    bare = adapted(case, subtract_start=False, init_scale=0.3)
    with pytest.raises(AdapterFileError, match="subtracts a start of .* from its cores, but the adapter 'default' of"):
        set_peft_model_state_dict(bare, state)


@pytest.mark.parametrize("with_settings", [True, False])
@pytest.mark.parametrize("case", ["linear", "embedding", "gpt2", "conv2d"])
def test_an_empty_adapter_lies_on_the_meta_device_whole_and_takes_its_values(case, with_settings) -> None:
    source, base = adapted(case, **({} if with_settings else {"deep_lora_version": 2})), LAYER_CASES[case][0]
    state = {key: t for key, t in get_peft_model_state_dict(source).items() if with_settings or SETTINGS not in key}
    torch.manual_seed(0)
    model = inject_adapter_in_model(source.peft_config["default"], base(), low_cpu_mem_usage=True)
    assert {tensor.device.type for tensor in get_peft_model_state_dict(model).values()} == {"meta"}
    prefix = "base_model.model."
    result = set_peft_model_state_dict(
        model, {key.removeprefix(prefix): tensor for key, tensor in state.items()}, low_cpu_mem_usage=True
    )
    assert not result.unexpected_keys
    assert {tensor.device.type for tensor in get_peft_model_state_dict(model).values()} == {"cpu"}
    assert all(torch.equal(new, old) for new, old in zip(updates(model), updates(source), strict=True))
    other = inject_adapter_in_model(
        DeepLoraConfig(**_fields(source) | {"core_scale": 1.0}), base(), low_cpu_mem_usage=True
    )
    if with_settings:
        with pytest.raises(AdapterFileError, match="'default' of this model has .*load it under another name"):
            set_peft_model_state_dict(
                other, {key.removeprefix(prefix): tensor for key, tensor in state.items()}, low_cpu_mem_usage=True
            )


@pytest.mark.parametrize("low_memory", [False, True])
@pytest.mark.parametrize("rows", [50, 30])
def test_a_resized_vocabulary_is_torch_s_error_or_left_out_where_peft_is_asked_to(rows, low_memory, tmp_path) -> None:
    source = adapted("embedding")
    source.save_pretrained(str(tmp_path))
    base = LAYER_CASES["embedding"][0]()
    base.embedding = nn.Embedding(rows, base.embedding.embedding_dim)
    with pytest.raises(RuntimeError, match="size mismatch for .*deep_lora_V"):
        PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path), low_cpu_mem_usage=low_memory)
    if low_memory:
        return
    with pytest.warns(UserWarning, match="deep_lora_V.* found shape"):
        model = PeftModel.from_pretrained(base, str(tmp_path), ignore_mismatched_sizes=True)
    ours, theirs = layers_of(model)[0], layers_of(source)[0]
    for name in ("deep_lora_U", "deep_lora_core"):
        assert torch.equal(getattr(ours, name)["default"], getattr(theirs, name)["default"])
    model.save_pretrained(str(tmp_path / "again"))
    again = LAYER_CASES["embedding"][0]()
    again.embedding = nn.Embedding(rows, base.embedding.base_layer.embedding_dim)
    loaded = PeftModel.from_pretrained(again, str(tmp_path / "again"))
    assert torch.equal(updates(loaded)[0], updates(model)[0])


def _fields(model: PeftModel) -> dict:
    config = model.peft_config["default"]
    return {name: getattr(config, name) for name in ("r", "target_modules", "fan_in_fan_out")}


def _edited(folder, change) -> None:
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    key = next(key for key in tensors if key.endswith(SETTINGS))
    tensors[key] = change(tensors[key])
    save_file(tensors, path)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", LAYER_CASES)
def test_other_values_are_not_loaded_over_a_merged_adapter_and_its_own_are(case, way, tmp_path) -> None:
    source, model = adapted(case), adapted(case)
    for layer in layers_of(source):
        layer.deep_lora_core["default"].data.mul_(1.5)
    source.save_pretrained(str(tmp_path))
    weights = [layer.get_base_weight().clone() for layer in layers_of(model)]
    model.merge_adapter()
    set_peft_model_state_dict(model, get_peft_model_state_dict(model))
    with pytest.raises(ValueError, match="'default' is merged, so what is loaded into it would have no effect"):
        load_over(model, source, way, tmp_path)
    model.unmerge_adapter()
    for layer, weight in zip(layers_of(model), weights, strict=True):
        assert torch.allclose(layer.get_base_weight(), weight, atol=1e-6)
    model.load_adapter(str(tmp_path), "default")
    assert all(torch.equal(new, old) for new, old in zip(updates(model), updates(source), strict=True))


@pytest.mark.parametrize("whole_state", [False, True], ids=["AveragedModel", "averages every tensor of the state"])
@pytest.mark.parametrize("case", ["linear", "embedding", "conv2d", "experts"])
def test_moving_averages_are_saved_and_loaded(case, whole_state, tmp_path) -> None:
    source = adapted(case)
    if whole_state:
        average = copy.deepcopy(source)
        for own, new in zip(average.state_dict().values(), source.state_dict().values(), strict=True):
            own.copy_(0.999 * own + 0.001 * new)
    else:
        moving = AveragedModel(source, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
        for _ in range(3):
            moving.update_parameters(source)
        average = moving.module
    average.save_pretrained(str(tmp_path))
    torch.manual_seed(0)
    loaded = PeftModel.from_pretrained(LAYER_CASES[case][0](), str(tmp_path))
    for new, old in zip(updates(loaded), updates(source), strict=True):
        assert torch.allclose(new, old, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "change",
    [lambda t: t[:2], lambda t: t.double(), lambda t: t.new_tensor([7, 1, 0, 0])],
    ids=["short", "float", "odd"],
)
def test_edited_settings_are_refused_also_by_the_conversion(change, tmp_path) -> None:
    adapted("linear").save_pretrained(str(tmp_path))
    _edited(tmp_path, change)
    with pytest.raises(AdapterFileError, match="integers; the file was edited.* average states|variant number 7"):
        adapted("linear").load_adapter(str(tmp_path), "default")
    with pytest.raises(AdapterFileError, match="integers; the file was edited.* average states|variant number 7"):
        convert_folder(tmp_path, None, assume_linear=True)
