"""PEFT knows Deep LoRA: the member of its enum, its mappings, and the configuration on disk."""

import copy
import json
import pickle

import pytest
import torch
from peft import PeftConfig, PeftModel, get_peft_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
from peft.utils.peft_types import PeftType

from deep_lora import DeepLoraConfig, DeepLoraModel
from deep_lora.config import FORMAT_VERSION, PEFT_TYPE
from tests.fresh_process import run_python
from tests.models import Mixed, adapt, ids


def test_the_member_is_one_object_by_every_access() -> None:
    assert PEFT_TYPE is PeftType.DEEP_LORA is PeftType("DEEP_LORA") is PeftType["DEEP_LORA"]
    assert PEFT_TYPE in list(PeftType) and "DEEP_LORA" in list(PeftType)
    assert PEFT_TYPE == "DEEP_LORA" and json.dumps(PEFT_TYPE) == '"DEEP_LORA"'
    assert isinstance(PEFT_TYPE, PeftType) and len(set(PeftType)) == len(list(PeftType))


def test_peft_finds_our_classes_by_member_and_by_string() -> None:
    for key in (PEFT_TYPE, "DEEP_LORA"):
        assert PEFT_TYPE_TO_CONFIG_MAPPING[key] is DeepLoraConfig
        assert PEFT_TYPE_TO_TUNER_MAPPING[key] is DeepLoraModel
        assert PEFT_TYPE_TO_PREFIX_MAPPING[key] == "deep_lora_" == DeepLoraModel.prefix


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle_gives_the_same_member_and_an_equal_config(protocol: int) -> None:
    config = DeepLoraConfig(r=4, depth=2, target_modules=["square"], rank_pattern={"tall": 2})
    assert pickle.loads(pickle.dumps(PEFT_TYPE, protocol)) is PEFT_TYPE
    assert pickle.loads(pickle.dumps(PeftType.LORA, protocol)) is PeftType.LORA
    again = pickle.loads(pickle.dumps({"default": config}, protocol))["default"]
    assert again == config and again.peft_type is PEFT_TYPE


def test_deepcopy_keeps_the_member_and_the_outputs() -> None:
    model = adapt(Mixed(), r=2, target_modules=["square"], init_weights=False)
    twin = copy.deepcopy(model)
    assert copy.copy(PEFT_TYPE) is copy.deepcopy(PEFT_TYPE) is PEFT_TYPE
    assert twin.peft_config["default"].peft_type is PEFT_TYPE
    assert torch.equal(twin(ids()), model(ids()))


def test_a_fresh_process_unpickles_member_and_config_without_importing_the_package() -> None:
    config = DeepLoraConfig(r=6, target_modules=["square"])
    payload = [pickle.dumps(item, protocol).hex() for item in (PEFT_TYPE, config) for protocol in (0, 5)]
    out = run_python(
        """
        import pickle, sys
        assert not any(name.startswith("deep_lora") for name in sys.modules)
        member, member5, config, config5 = [pickle.loads(bytes.fromhex(text)) for text in sys.argv[1:]]
        from peft.utils.peft_types import PeftType
        assert member is member5 is PeftType.DEEP_LORA is config.peft_type is config5.peft_type
        print(config.r, config == config5)
        """,
        *payload,
    )
    assert out.split() == ["6", "True"]


def test_reloading_the_package_keeps_one_member_and_registers_the_new_classes() -> None:
    run_python(
        """
        import importlib, sys
        from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
        from peft.utils.peft_types import PeftType
        import deep_lora
        member, old, count = PeftType.DEEP_LORA, deep_lora.DeepLoraModel, len(list(PeftType))
        importlib.reload(deep_lora)
        assert PEFT_TYPE_TO_TUNER_MAPPING[member] is old
        for name in [n for n in sys.modules if n == "deep_lora" or n.startswith("deep_lora.")]:
            del sys.modules[name]
        import deep_lora
        assert deep_lora.DeepLoraModel is not old
        assert PEFT_TYPE_TO_TUNER_MAPPING[member] is deep_lora.DeepLoraModel
        assert PeftType.DEEP_LORA is member is deep_lora.DeepLoraConfig().peft_type and len(list(PeftType)) == count
        import torch
        from peft import get_peft_model
        config = deep_lora.DeepLoraConfig(r=2, target_modules=["0"])
        model = get_peft_model(torch.nn.Sequential(torch.nn.Linear(4, 4)), config)
        assert type(model.base_model) is deep_lora.DeepLoraModel
        """
    )


def test_if_peft_ships_the_name_itself_ours_steps_aside_with_a_warning(tmp_path) -> None:
    out = run_python(
        """
        import sys, warnings
        from peft import mapping
        from peft.utils.peft_types import PeftType
        theirs = str.__new__(PeftType, "DEEP_LORA")
        theirs._name_ = theirs._value_ = "DEEP_LORA"
        type.__setattr__(PeftType, "DEEP_LORA", theirs)
        PeftType._member_map_["DEEP_LORA"] = PeftType._value2member_map_["DEEP_LORA"] = theirs
        PeftType._member_names_.append("DEEP_LORA")
        for table in (mapping.PEFT_TYPE_TO_CONFIG_MAPPING, mapping.PEFT_TYPE_TO_TUNER_MAPPING):
            table[theirs] = "theirs"
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            import deep_lora
        assert any("already has a method called" in str(w.message) for w in caught), caught
        assert mapping.PEFT_TYPE_TO_CONFIG_MAPPING[theirs] == "theirs" and PeftType.DEEP_LORA is theirs
        import torch
        from peft import PeftModel, get_peft_model
        base = torch.nn.Sequential(torch.nn.Linear(4, 4))
        config = deep_lora.DeepLoraConfig(r=2, target_modules=["0"], init_weights=False)
        model = get_peft_model(base, config)
        x = torch.ones(1, 4)
        before = model(x)
        model.save_pretrained(sys.argv[1])
        again = PeftModel.from_pretrained(model.unload(), sys.argv[1])
        print(config.peft_type.value, torch.equal(again(x), before))
        """,
        str(tmp_path),
    )
    assert out.split() == ["DEEP_LORA_PLUGIN", "True"]


CHANGED = {
    "r": 6, "depth": 4, "variant": "compressed", "init_scale": 0.5, "core_scale": 2.0, "subtract_start": False,
    "deep_lora_dropout": 0.1, "fan_in_fan_out": True, "bias": "deep_lora_only", "modules_to_save": ["head"],
    "init_weights": False, "layers_to_transform": [0, 2], "layers_pattern": "layers", "rank_pattern": {"a": 2},
    "depth_pattern": {"b": 5}, "trainable_token_indices": {"embed": [1, 2]}, "target_parameters": ["moe.w"],
    "ensure_weight_tying": True, "freeze_subspaces": True, "exclude_modules": {"x"}, "target_modules": {"q", "v"},
}  # fmt: skip


def test_every_field_survives_saving_and_loading(tmp_path) -> None:
    unset = set(DeepLoraConfig.__dataclass_fields__) - set(PeftConfig.__dataclass_fields__) - set(CHANGED)
    assert unset == {"deep_lora_version"}
    DeepLoraConfig(**CHANGED, task_type="CAUSAL_LM").save_pretrained(str(tmp_path))
    again = PeftConfig.from_pretrained(str(tmp_path))
    assert isinstance(again, DeepLoraConfig) and again.task_type == "CAUSAL_LM"
    for name, value in CHANGED.items():
        read = getattr(again, name)
        assert (set(read) if isinstance(value, set) else read) == value, name
    assert again.deep_lora_version == FORMAT_VERSION
    DeepLoraConfig(variant="narrow").save_pretrained(str(tmp_path / "narrow"))
    assert PeftConfig.from_pretrained(str(tmp_path / "narrow")).variant == "narrow"


def _edit(folder, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_an_unknown_field_is_dropped_with_a_warning(tmp_path) -> None:
    DeepLoraConfig(r=4).save_pretrained(str(tmp_path))
    _edit(tmp_path, field_of_the_future=3)
    with pytest.warns(UserWarning, match="field_of_the_future"):
        assert PeftConfig.from_pretrained(str(tmp_path)).r == 4


def test_an_adapter_of_a_newer_format_is_refused_and_says_to_upgrade(tmp_path) -> None:
    model = Mixed()
    adapt(model, r=2, target_modules=["square"]).save_pretrained(str(tmp_path))
    _edit(tmp_path, deep_lora_version=FORMAT_VERSION + 1)
    fresh = Mixed()
    with pytest.raises(ValueError, match=f"saved in format {FORMAT_VERSION + 1}.*pip install -U deep-lora"):
        PeftModel.from_pretrained(fresh, str(tmp_path))
    assert not any("deep_lora" in name for name, _ in fresh.named_parameters())


def test_lists_become_sets_and_the_default_config_can_be_made() -> None:
    assert DeepLoraConfig().target_modules == "all-linear"
    assert DeepLoraConfig(target_modules=["a", "b"]).target_modules == {"a", "b"}
    assert DeepLoraConfig(exclude_modules=["a"]).exclude_modules == {"a"}


def test_layers_to_transform_zero_counts_as_set() -> None:
    config = DeepLoraConfig(target_modules=["q"], layers_to_transform=0, layers_pattern="layers")
    assert config.layers_to_transform == 0
    with pytest.raises(ValueError, match="target_modules"):
        DeepLoraConfig(target_modules="q", layers_to_transform=0)


def test_a_saved_adapter_names_its_type_and_reloads_by_from_pretrained(tmp_path) -> None:
    base = Mixed()
    model = adapt(copy.deepcopy(base), r=2, target_modules=["square", "tall"], init_weights=False)
    model.save_pretrained(str(tmp_path))
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "DEEP_LORA"
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors", ".md"}
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    assert again.peft_config["default"].inference_mode
    assert torch.equal(again(ids()), model(ids()))


def test_the_model_card_says_to_import_the_package_and_how_to_export(tmp_path) -> None:
    get_peft_model(Mixed(), DeepLoraConfig(r=2, target_modules=["square"])).save_pretrained(str(tmp_path))
    card = (tmp_path / "README.md").read_text()
    assert "import deep_lora" in card and "save_as_lora" in card
