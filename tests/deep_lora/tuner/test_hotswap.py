"""PEFT's hotswap: a saved adapter takes the place of one in the model, whatever its rank, compiled or not."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import hotswap
from torch import Tensor, nn

from deep_lora import DeepLoraConfig
from tests.models import LAYER_CASES, LINEAR, Mixed, adapt, disturb_, gpt2, ids, layers_of

CASES = {name: LAYER_CASES[name] for name in ("linear", "embedding", "gpt2", "conv2d", "conv1d", "matrix", "experts")}


def saved(base: nn.Module, x: Tensor, folder: Path, **settings: Any) -> Tensor:
    """The output of the base with another, saved adapter."""
    model = adapt(copy.deepcopy(base), **settings)
    disturb_(model, seed=17)
    model.save_pretrained(folder)
    return output(model, x)


@torch.no_grad()
def output(model: nn.Module, x: Tensor) -> Tensor:
    found = model(x)
    return getattr(found, "logits", found)


def swap(model: nn.Module, folder: Path) -> None:
    hotswap.hotswap_adapter(model, str(folder), adapter_name="default", torch_device="cpu")


def close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rank", [2, 4, 6])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore")
def test_the_model_computes_what_the_other_adapter_computed(name: str, rank: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, x, settings = CASES[name]
    base = build().eval()
    wanted = saved(base, x, tmp_path / "other", r=rank, **settings)
    model = adapt(copy.deepcopy(base), r=4, **settings)
    disturb_(model)
    assert not torch.allclose(output(model, x), wanted, atol=1e-4)
    swap(model, tmp_path / "other")
    close(output(model, x), wanted)
    close(output(copy.deepcopy(model).merge_and_unload(), x), wanted)
    if rank <= 4:  # the configuration in the model has its rank still
        model.save_pretrained(tmp_path / "again")
        close(output(PeftModel.from_pretrained(base, tmp_path / "again").eval(), x), wanted)


@pytest.mark.parametrize(
    "other", [{"init_scale": 0.1}, {"core_scale": 1.0}, {"init_scale": 0.5, "core_scale": 2.0}], ids=str
)
def test_adapters_of_other_scales_are_swapped_too(other: dict[str, float], tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = Mixed().eval()
    wanted = saved(base, ids(), tmp_path, r=3, target_modules=LINEAR, **other)
    model = adapt(base, r=4, target_modules=LINEAR)
    swap(model, tmp_path)
    close(output(model, ids()), wanted)


@pytest.mark.parametrize(("here", "there"), [(4, 3), (3, 4), (4, 2), (2, 4), (4, 1)])
@pytest.mark.parametrize("name", ["linear", "experts"])
def test_adapters_of_earlier_formats_are_swapped_too(name: str, here: int, there: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, x, settings = CASES[name]
    base = build().eval()
    wanted = saved(base, x, tmp_path, r=3, deep_lora_version=there, **settings)
    model = adapt(base, r=4, deep_lora_version=here, **settings)
    swap(model, tmp_path)
    close(output(model, x), wanted)


def test_modules_that_the_other_adapter_lacks_are_the_bases(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = Mixed().eval()
    wanted = saved(base, ids(), tmp_path, r=4, target_modules=LINEAR[:1])
    model = adapt(base, r=4, target_modules=LINEAR)
    disturb_(model)
    swap(model, tmp_path)
    close(output(model, ids()), wanted)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rank", [2, 6])
def test_a_tied_head_follows_its_embedding(rank: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, settings = gpt2(), {"target_modules": ["wte"], "ensure_weight_tying": True}
    wanted = saved(base, ids(), tmp_path, r=rank, init_scale=0.25, **settings)
    model = adapt(copy.deepcopy(base), r=4, **settings)
    swap(model, tmp_path)
    close(output(model, ids()), wanted)
    hotswap.prepare_model_for_compiled_hotswap(model, target_rank=8, config=model.peft_config)
    close(output(model, ids()), wanted)


@pytest.mark.parametrize("rank", [2, 6])
def test_a_compiled_model_is_not_compiled_again(rank: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, x = Mixed().eval(), ids()
    wanted = saved(base, x, tmp_path, r=rank, target_modules=LINEAR)
    model = adapt(copy.deepcopy(base), r=4, target_modules=LINEAR)
    disturb_(model)
    before = output(model, x)
    hotswap.prepare_model_for_compiled_hotswap(model, target_rank=6, config=model.peft_config)
    assert model.peft_config["default"].r == 6 and {layer.r["default"] for layer in layers_of(model)} == {6}
    close(output(model, x), before)
    compiled = torch.compile(model, backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        close(output(compiled, x), before)
        swap(compiled, tmp_path)
        close(output(compiled, x), wanted)
    with pytest.raises(ValueError, match=r"\*before\* compiling the model"):
        hotswap.prepare_model_for_compiled_hotswap(compiled, target_rank=8)
    model.save_pretrained(tmp_path / "again")
    close(output(PeftModel.from_pretrained(base, tmp_path / "again").eval(), x), wanted)


def test_what_cannot_be_swapped_is_an_error_and_changes_nothing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base = Mixed().eval()
    settings: dict[str, Any] = {"r": 4, "target_modules": LINEAR}
    model = adapt(copy.deepcopy(base), **settings)
    disturb_(model)
    before = output(model, ids())
    saved(base, ids(), tmp_path / "deep", **settings, depth=2)
    with pytest.raises(ValueError, match="Configs are incompatible: for depth"):
        swap(model, tmp_path / "deep")
    deep = {f"base_model.model.square.deep_lora_core.{'default'}": torch.ones(2, 4, 4)}
    with pytest.raises(
        ValueError, match="square: the new one has 2 cores and no start, .*; load it under another name"
    ):
        hotswap.hotswap_adapter_from_state_dict(model, deep, "default", model.peft_config["default"])
    saved(base, ids(), tmp_path / "more", r=4, target_modules=[*LINEAR, "head"])
    with pytest.raises(RuntimeError, match="Hot swapping the adapter did not succeed, unexpected keys found: .*head"):
        swap(model, tmp_path / "more")
    saved(base, ids(), tmp_path / "large", r=6, target_modules=LINEAR)
    with pytest.raises(
        ValueError,
        match="compiled model 4; call `prepare_model_for_compiled_hotswap` with the largest rank before the model",
    ):
        swap(torch.compile(model, backend="eager"), tmp_path / "large")
    with pytest.raises(
        ValueError, match="`target_rank` 3 is smaller than the rank of .*; pass the largest rank of all adapters"
    ):
        hotswap.prepare_model_for_compiled_hotswap(model, target_rank=3)
    close(output(model, ids()), before)
    model.merge_adapter()
    with pytest.raises(ValueError, match="the adapter 'default' is merged, so it cannot be swapped"):
        swap(model, tmp_path / "large")
    model.unmerge_adapter()
    for layer in layers_of(model):
        layer.deep_lora_core["default"] = nn.Parameter(layer.deep_lora_core["default"].detach().to("meta"))
    with pytest.raises(ValueError, match="the adapter 'default' is offloaded, so it cannot be swapped"):
        swap(model, tmp_path / "large")


def test_adapters_of_lora_are_still_swapped_by_peft(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, config = Mixed().eval(), LoraConfig(r=2, target_modules=LINEAR, init_lora_weights=False)
    other = get_peft_model(copy.deepcopy(base), config).eval()
    other.save_pretrained(tmp_path)
    model = get_peft_model(base, LoraConfig(r=2, target_modules=LINEAR)).eval()
    hotswap.prepare_model_for_compiled_hotswap(model, target_rank=4)
    swap(model, tmp_path)
    close(output(model, ids()), output(other, ids()))
    own = adapt(Mixed(), r=2, target_modules=LINEAR)
    with pytest.raises(ValueError, match="Incompatible PEFT types found: DEEP_LORA and LORA"):
        swap(own, tmp_path)
    assert isinstance(own.peft_config["default"], DeepLoraConfig)
