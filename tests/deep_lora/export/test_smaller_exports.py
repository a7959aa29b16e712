"""Plain names of targets, ranks of their own, and a tolerance that is found on data."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from deep_lora import convert_folder, kept_ranks, save_as_lora, to_lora
from tests.deep_lora.export.export_cases import CASES, out, relative, trained
from tests.models import Mixed, adapt, disturb_, ids, llama

GROWN = [case for case in CASES if not case.startswith("tied")]


class Towers(nn.Module):
    """The name of one layer is the end of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])
        self.tower = nn.ModuleDict({"layer": nn.ModuleList([nn.Linear(6, 6), nn.Linear(6, 6)])})

    def forward(self, x):
        for one in (*self.layer, *self.tower["layer"]):
            x = one(x).tanh()
        return x


def loaded(base, folder) -> PeftModel:
    return PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        (r".*self_attn\.(q|v)_proj", {"q_proj", "v_proj"}),
        (r"model\.layers\.1\.self_attn\.q_proj", {"model.layers.1.self_attn.q_proj"}),
        (r".*(layers\.0\.self_attn\.k|layers\.\d\.mlp\.up)_proj", {"model.layers.0.self_attn.k_proj", "up_proj"}),
    ],
)
def test_a_pattern_is_exported_as_the_names_that_it_found(pattern, names, tmp_path) -> None:
    base = llama()
    model = adapt(copy.deepcopy(base), r=4, target_modules=pattern)
    disturb_(model)
    assert to_lora(model)[0].target_modules == names
    save_as_lora(tmp_path, model)
    assert relative(out(loaded(base, tmp_path), ids()), out(model, ids())) <= 1e-6


def test_a_name_that_another_ends_with_adapts_no_other(tmp_path) -> None:
    base, x = Towers().eval(), torch.randn(3, 6)
    model = adapt(copy.deepcopy(base), r=4, target_modules=r"layer\.0")
    disturb_(model)
    config, _ = to_lora(model)
    assert config.target_modules == {"layer.0"} and config.exclude_modules == {"tower.layer.0"}
    save_as_lora(tmp_path, model)
    found = loaded(base, tmp_path)
    assert [name for name, _ in found.named_parameters() if "lora_A" in name] == [
        "base_model.model.layer.0.lora_A.default.weight"
    ]
    assert relative(out(found, x), out(model, x)) <= 1e-6


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", GROWN)
def test_ranks_of_their_own_give_the_same_logits_in_a_smaller_file(case, tmp_path) -> None:
    base, x, model = trained(case)
    kept = save_as_lora(tmp_path, model, ranks="per_module")
    found = loaded(base, tmp_path)
    assert relative(out(found, x), out(model, x)) <= 1e-6
    config = found.peft_config["default"]
    assert config.rank_pattern == config.alpha_pattern and config.r == config.lora_alpha == max(kept.values())
    saved = load_file(tmp_path / "adapter_model.safetensors")
    if case == "patterns":
        sizes = {name.split(".")[-3]: len(t) for name, t in saved.items() if name.endswith("lora_A.weight")}
        assert sizes == {"square": 4, "tall": 2, "wide": 6}
        whole = sum(tensor.numel() for tensor in to_lora(model)[1].values())
        assert sum(tensor.numel() for tensor in saved.values()) < whole


def test_ranks_of_names_that_others_end_with_are_told_apart(tmp_path) -> None:
    base, x = Towers().eval(), torch.randn(3, 6)
    pattern = {"^layer.0": 1, "tower.layer.0": 2}
    model = adapt(copy.deepcopy(base), r=4, target_modules=["0", "1"], rank_pattern=pattern)
    disturb_(model)
    kept = save_as_lora(tmp_path, model, ranks="per_module")
    assert sorted(kept.values()) == [1, 2, 4, 4]
    assert relative(out(loaded(base, tmp_path), x), out(model, x)) <= 1e-6


def test_a_folder_is_converted_with_ranks_of_their_own(tmp_path) -> None:
    base = Mixed().eval()
    model = adapt(copy.deepcopy(base), r=4, target_modules=["square", "tall"], rank_pattern={"tall": 2})
    disturb_(model)
    model.save_pretrained(str(tmp_path / "ours"))
    with pytest.raises(ValueError, match="`base_model`"):
        convert_folder(tmp_path / "ours", tmp_path / "lora")
    with pytest.raises(ValueError, match="the adapter cannot be converted: `ranks` must be 'uniform'"):
        convert_folder(tmp_path / "ours", tmp_path / "lora", ranks="own", assume_linear=True)
    convert_folder(tmp_path / "ours", tmp_path / "lora", ranks="per_module", assume_linear=True)
    found = loaded(base, tmp_path / "lora")
    assert found.peft_config["default"].rank_pattern == {"tall": 2}
    assert relative(out(found, ids()), out(model, ids())) <= 1e-6


@pytest.mark.parametrize("ranks", ["own", None, 4])
def test_other_ranks_are_refused(ranks) -> None:
    with pytest.raises(ValueError, match="`ranks` must be 'uniform' or 'per_module', got"):
        to_lora(trained("linear")[2], ranks=ranks)


# ---- the tolerance ---------------------------------------------------------------------------------------------------


def loss_of(model, x, truncated, base) -> float:
    """What the outputs lose, as a share of what the adapter changes in them."""
    wanted = out(model, x)
    return ((out(truncated, x) - wanted).norm() / (wanted - out(base, x)).norm()).item()


@pytest.mark.parametrize("case", ["patterns", "gpt2", "experts and matrix", "conv2d and linear"])
@pytest.mark.parametrize("bound", [0.05, 0.5])
@pytest.mark.filterwarnings("ignore")
def test_the_automatic_tolerance_keeps_the_bound_and_is_the_largest_that_does(case, bound, tmp_path) -> None:
    base, x, model = trained(case)
    kept = save_as_lora(tmp_path, model, tolerance="auto", data=[x], bound=bound)
    assert loss_of(model, x, loaded(base, tmp_path), base) <= bound * (1 + 1e-4)
    count = sum(kept.values())
    totals = {t: sum(kept_ranks(model, tolerance=t).values()) for t in torch.linspace(0, 0.99, 200).tolist()}
    smaller = [tolerance for tolerance, total in totals.items() if total < count]
    if smaller:  # the next smaller export of a grid loses too much
        save_as_lora(tmp_path, model, tolerance=smaller[0])
        assert loss_of(model, x, loaded(base, tmp_path), base) > bound


def test_the_search_leaves_the_model_as_it_was() -> None:
    _, x, model = trained("linear")
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    to_lora(model, tolerance="auto", data=[x], bound=0.3)
    assert model.training and all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert not any("update" in vars(module) for module in model.modules())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "`tolerance='auto'` needs `data`, a list of batches .*; got none"),
        ({"data": []}, "got no batch"),
        ({"data": 3}, "a list of batches .*; got int"),
        ({"data": [3]}, "each must be a dictionary or a tensor, got int"),
        ({"data": [ids()], "bound": 0}, r"`bound` must be in \(0, 1\), a share .*, got 0"),
        ({"data": [ids()], "bound": True}, "got True"),
    ],
)
def test_what_the_search_needs_is_said(settings, message) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        to_lora(trained("linear")[2], tolerance="auto", **settings)


def test_an_adapter_without_an_effect_has_no_automatic_tolerance() -> None:
    model = adapt(Mixed(), r=4, target_modules=["square"])
    with pytest.raises(ValueError, match="the adapter changes no output on `data`"):
        to_lora(model, tolerance="auto", data=[ids()])
