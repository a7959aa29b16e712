"""Leaving as a plain LoRA adapter: the same outputs, in a process that never imports deep_lora."""

import copy

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from peft.tuners.lora.conversion import convert_to_lora
from torch import Tensor, nn

import deep_lora.export.folders
from deep_lora import kept_ranks, save_as_lora, to_lora
from tests.deep_lora.export.export_cases import CASES, LINEAR, out, relative, trained
from tests.fresh_process import run_python
from tests.models import Mixed, Pixels, adapt, disturb_, ids, layers_of, llama

FLOAT32 = torch.finfo(torch.float32).eps


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_the_export_gives_the_same_logits(case: str, tmp_path) -> None:
    base, x, model = trained(case)
    wanted = out(model, x)
    assert relative(out(base, x), wanted) > 1e-3  # the adapter matters
    save_as_lora(tmp_path, model)
    exported = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    assert isinstance(exported.peft_config["default"], LoraConfig)
    assert relative(out(exported, x), wanted) <= 1e-6  # the promise of the project: about 8 eps of float32
    if not case.startswith("tied"):  # PEFT's LoRA adds both updates to the one weight of a tied embedding and head
        assert relative(out(exported.merge_and_unload(), x), wanted) <= 1e-6


@pytest.mark.parametrize("case", ["linear", "saved modules", "embedding", "patterns"])
def test_the_state_dict_loads_through_peft_without_a_file(case: str) -> None:
    base, x, model = trained(case)
    config, tensors = to_lora(model)
    exported = get_peft_model(copy.deepcopy(base), config).eval()
    result = set_peft_model_state_dict(exported, tensors)
    assert not result.unexpected_keys
    assert relative(out(exported, x), out(model, x)) <= 1e-6


def test_a_process_without_the_package_gets_the_same_logits(tmp_path) -> None:
    base, x, model = trained("classifier")
    base.save_pretrained(str(tmp_path / "base"))
    save_as_lora(tmp_path / "lora", model)
    torch.save({"x": x, "wanted": out(model, x)}, tmp_path / "io.pt")
    printed = run_python(
        """
        import sys, torch
        from peft import PeftModel
        from transformers import BertForSequenceClassification
        folder = sys.argv[1]
        io = torch.load(folder + "/io.pt")
        base = BertForSequenceClassification.from_pretrained(folder + "/base")
        model = PeftModel.from_pretrained(base, folder + "/lora").eval()
        with torch.no_grad():
            error = ((model(io["x"]).logits - io["wanted"]).norm() / io["wanted"].norm()).item()
        assert not [name for name in sys.modules if name.split(".")[0] in ("deep_lora", "dmf")]
        print(error, model.peft_config["default"].task_type)
        """,
        str(tmp_path),
    )
    error, task_type = printed.split()
    assert float(error) <= 1e-6 and task_type in ("SEQ_CLS", "TaskType.SEQ_CLS")


@pytest.mark.parametrize("case", ["linear", "gpt2", "matrix"])
def test_pefts_own_converter_finds_the_same_updates(case: str) -> None:
    _, _, model = trained(case)
    config, ours = to_lora(model)
    _, theirs = convert_to_lora(model, rank=config.r)
    names = [key.removesuffix(".lora_A.weight") for key in ours if key.endswith("lora_A.weight")]
    assert names
    for name in names:
        a = ours[f"{name}.lora_B.weight"] @ ours[f"{name}.lora_A.weight"]
        key = name if f"{name}.lora_B.weight" in theirs else name.removeprefix("base_model.model.")
        b = theirs[f"{key}.lora_B.weight"] @ theirs[f"{key}.lora_A.weight"]
        assert (a - b).norm() <= 100 * FLOAT32 * a.norm()  # a float32 SVD of matrices up to 64 wide


def _spectra(model: nn.Module) -> dict[str, Tensor]:
    """Singular values of each dense update, from its definition-sized matrix."""
    return {
        name: torch.linalg.svdvals(module.get_delta_weight("default").double().flatten(1))
        for name, module in model.named_modules()
        if any(module is layer for layer in layers_of(model))
    }


@pytest.mark.parametrize("tolerance", [0.0, 0.02, 0.2, 0.9])
def test_the_tolerance_keeps_the_values_above_it_and_drops_the_best_possible_rest(tolerance: float) -> None:
    _, _, model = trained("patterns")
    config, tensors = to_lora(model, tolerance=tolerance)
    kept, spectra = kept_ranks(model, tolerance=tolerance), _spectra(model)
    noise = 1e-5  # of a dense float32 update, relative to its largest value
    for name, values in spectra.items():
        wanted = int((values > max(tolerance, noise) * values[0]).sum())
        assert kept[name] == wanted, name
        if f"{name}.lora_A.weight" in tensors:
            update = tensors[f"{name}.lora_B.weight"].double() @ tensors[f"{name}.lora_A.weight"].double()
            dense = model.get_submodule(name).get_delta_weight("default").double()
            error, best = (update - dense).norm(), values[wanted:].square().sum().sqrt()
            assert abs(error - best) <= noise * values[0]  # Eckart and Young: no better approximation of that rank
    assert config.r == config.lora_alpha == max(kept.values()) and not config.rank_pattern
    assert {t.shape[0] for key, t in tensors.items() if "lora_A.weight" in key} == {config.r}


def test_the_config_carries_over_what_both_methods_know() -> None:
    settings = {
        "target_modules": ["q_proj", "v_proj"], "exclude_modules": ["k_proj"], "task_type": "CAUSAL_LM",
        "deep_lora_dropout": 0.1, "layers_to_transform": [1], "layers_pattern": "layers", "bias": "deep_lora_only",
        "modules_to_save": ["norm"],
    }  # fmt: skip
    config, _ = to_lora(adapt(llama(), r=4, **settings))
    assert config.lora_dropout == 0.1 and config.bias == "lora_only" and config.r == config.lora_alpha
    for name in set(settings) - {"deep_lora_dropout", "bias"}:
        value, wanted = getattr(config, name), settings[name]
        assert (sorted(value) if isinstance(value, set) else value) == wanted, name


def test_a_fresh_adapter_exports_as_a_lora_of_rank_one_that_changes_nothing(tmp_path) -> None:
    base = Mixed()
    model = adapt(copy.deepcopy(base), r=4, target_modules=LINEAR)
    assert set(save_as_lora(tmp_path, model).values()) == {0}
    exported = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    assert exported.peft_config["default"].r == 1 and torch.equal(out(exported, ids()), out(base, ids()))


def test_the_scale_of_an_adapter_and_the_chosen_adapter_are_exported() -> None:
    _, x, model = trained("linear")
    model.add_adapter("second", model.peft_config["default"])
    for layer in layers_of(model):
        layer.set_scale("default", 0.5)
    dense = layers_of(model)[0].get_delta_weight("default")
    _, tensors = to_lora(model, "default")
    exported = tensors["base_model.model.square.lora_B.weight"] @ tensors["base_model.model.square.lora_A.weight"]
    assert (exported - dense).norm() <= 100 * FLOAT32 * dense.norm()
    assert set(kept_ranks(model, "second").values()) == {0}


@pytest.mark.parametrize(
    "kind,settings",
    [("2 groups", {"groups": 2, "dilation": 1}), ("dilation", {"groups": 1}), ("padding", {"padding_mode": "reflect"})],
)
def test_convolutions_that_lora_computes_otherwise_are_refused_with_a_way_out(kind: str, settings: dict) -> None:
    targets = ["first"] if kind == "padding" else ["first", "grouped"]
    model = adapt(Pixels(**settings), r=4, target_modules=targets)
    with pytest.raises(ValueError, match=f"(first|grouped) is a Conv2d with .*{kind}.*merge_and_unload"):
        to_lora(model)


def test_a_failed_write_leaves_the_old_file_whole_and_nothing_partial(tmp_path, monkeypatch) -> None:
    _, _, model = trained("linear")
    save_as_lora(tmp_path, model)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full_disk(tensors, path, metadata=None) -> None:
        path.write_bytes(b"half of it")
        raise OSError("No space left on device")

    monkeypatch.setattr(deep_lora.export.folders, "save_file", full_disk)
    disturb_(model, seed=9)
    with pytest.raises(OSError, match="No space left"):
        save_as_lora(tmp_path, model)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before and len(before) == 2


def test_a_path_that_is_a_file_is_refused(tmp_path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(NotADirectoryError, match="taken is a file; save_as_lora needs the name of a directory"):
        save_as_lora(tmp_path / "taken", trained("linear")[2])
    assert (tmp_path / "taken").read_text() == "mine"


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors")
def test_a_layer_without_outputs_is_exported_with_the_others() -> None:
    model = adapt(
        nn.ModuleDict({"empty": nn.Linear(4, 0), "full": nn.Linear(4, 4)}), r=2, target_modules=["empty", "full"]
    )
    disturb_(model)
    config, state_dict = to_lora(model)
    assert config.r == 2 and state_dict["base_model.model.empty.lora_B.weight"].shape == (0, 2)
    assert state_dict["base_model.model.empty.lora_A.weight"].shape == (2, 4)
