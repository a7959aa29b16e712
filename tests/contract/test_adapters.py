"""Several adapters on one model, and the choices of what is adapted, trained and saved."""

import copy
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from torch import Tensor, nn

from deep_lora import DeepLoraConfig, DeepLoraLayer
from tests.models import Mixed, Nest, Pixels, adapt, adapter_tensors, disturb_, gpt2, ids, layers_of, llama, train

ALL = ["embedding", "square", "tall", "wide"]


def _out(model: nn.Module, x: Tensor, **kwargs) -> Tensor:
    output = model(x, **kwargs)
    return getattr(output, "logits", output).detach()


def _two_adapters(base: nn.Module | None = None, **settings) -> PeftModel:
    model = adapt(base or Mixed(), **({"r": 4, "target_modules": ALL} | settings))
    model.add_adapter("second", DeepLoraConfig(**({"r": 2, "target_modules": ALL} | settings)))
    disturb_(model)
    return model


def test_set_adapter_trains_that_one_only() -> None:
    model = _two_adapters()
    model.set_adapter("second")
    trainable = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {name for name in adapter_tensors(model) if name.endswith(".second")}
    first = {name: p.clone() for name, p in adapter_tensors(model).items() if name.endswith(".default")}
    train(model, [(ids(), torch.ones(4, 3))])
    assert first and all(torch.equal(adapter_tensors(model)[name], value) for name, value in first.items())


def test_switching_adapters_switches_the_outputs() -> None:
    model = _two_adapters()
    first = _out(model, ids())
    model.set_adapter("second")
    second = _out(model, ids())
    model.set_adapter("default")
    assert torch.equal(_out(model, ids()), first) and not torch.equal(first, second)


def test_deleting_an_adapter_removes_every_trace_of_it() -> None:
    model = _two_adapters()
    model.delete_adapter("default")
    model.set_adapter("second")
    for layer in layers_of(model):
        for name in (*layer.adapter_layer_names, *layer.other_param_names):
            assert "default" not in getattr(layer, name), name
        assert set(layer.deep_lora_U) == {"second"} and layer.active_adapters == ["second"]
    assert not [name for name in model.state_dict() if ".default" in name]


def test_two_adapters_can_differ_in_every_shape() -> None:
    model = adapt(Mixed(), r=4, depth=2, target_modules=["square"])
    model.add_adapter("second", DeepLoraConfig(r=2, depth=5, variant="narrow", target_modules=["square", "tall"]))
    square, tall = layers_of(model)
    assert square.deep_lora_core["default"].shape == (2, 4, 4) and square.deep_lora_core["second"].shape == (3, 2, 2)
    assert set(tall.deep_lora_U) == {"second"}
    model.base_model.set_adapter(["default", "second"])
    assert _out(model, ids()).isfinite().all()


@pytest.mark.parametrize(
    "base,targets,x",
    [
        (Mixed, ALL, ids(6)),
        (lambda: Pixels(groups=2), ["first", "grouped"], torch.linspace(-1, 1, 6 * 4 * 81).reshape(6, 4, 9, 9)),
        (llama, ["q_proj", "down_proj", "embed_tokens", "lm_head"], ids(6)),
        (gpt2, ["c_attn", "wte"], ids(6)),
    ],
)
def test_a_mixed_batch_equals_a_run_for_each_sample(base, targets, x) -> None:
    model = _two_adapters(base().double(), target_modules=targets).double()
    names = ["default", "__base__", "second", "second", "__base__", "default"]
    together = _out(model, x.double() if x.is_floating_point() else x, adapter_names=names)
    for row, name in enumerate(names):
        one = x[row : row + 1]
        one = one.double() if x.is_floating_point() else one
        if name == "__base__":
            with model.disable_adapter():
                alone = _out(model, one)
        else:
            model.set_adapter(name)
            alone = _out(model, one)
        assert torch.allclose(together[row], alone[0], rtol=1e-11, atol=1e-11)  # float64, different batch sizes
    assert not torch.allclose(together[0], together[1])


def test_a_mixed_batch_also_picks_the_saved_modules() -> None:
    model = _two_adapters(modules_to_save=["head"], target_modules=["square"])
    with torch.no_grad():
        model.base_model.model.head.modules_to_save["second"].weight.fill_(0)
        model.base_model.model.head.modules_to_save["second"].bias.fill_(7)
    out = _out(model, ids(2), adapter_names=["second", "__base__"])
    assert torch.equal(out[0], torch.full((3,), 7.0)) and not torch.equal(out[1], out[0])


@pytest.mark.parametrize("beams", [1, 3])
def test_generation_takes_adapter_names_with_and_without_beams(beams: int) -> None:
    model = _two_adapters(llama(), target_modules=["q_proj", "v_proj", "gate_proj"])
    settings = {"max_new_tokens": 4, "num_beams": beams, "do_sample": False, "pad_token_id": 0}
    together = model.generate(input_ids=ids(2), adapter_names=["second", "default"], **settings)
    for row, name in enumerate(["second", "default"]):
        model.set_adapter(name)
        alone = model.generate(input_ids=ids(2)[row : row + 1], **settings)[0]
        kept = min(len(alone), together.shape[1])
        assert torch.equal(together[row, :kept], alone[:kept])


def test_rank_and_depth_patterns_override_by_name_and_by_regex() -> None:
    ranks = {"square": 2, "(em|no).*ing": 6}
    model = adapt(Mixed(), r=4, depth=3, target_modules=ALL, rank_pattern=ranks, depth_pattern={"tall": 1})
    shapes = {name: m.deep_lora_core["default"].shape for name, m in _named(model).items()}
    assert shapes == {"square": (3, 2, 2), "embedding": (3, 6, 6), "tall": (1, 4, 4), "wide": (3, 4, 4)}


def _named(model: nn.Module) -> dict[str, DeepLoraLayer]:
    found = {name.split(".")[-1]: m for name, m in model.named_modules() if isinstance(m, DeepLoraLayer)}
    assert found
    return found


def test_modules_are_chosen_by_list_regex_exclusion_and_layer_index() -> None:
    def chosen(**settings) -> set[str]:
        names = [name for name, m in adapt(llama(), r=2, **settings).named_modules() if isinstance(m, DeepLoraLayer)]
        return {name.removeprefix("base_model.model.model.") for name in names}

    queries = {f"layers.{i}.self_attn.q_proj" for i in (0, 1)}
    assert chosen(target_modules=["q_proj"]) == chosen(target_modules=r".*\.q_proj") == queries
    both = ["q_proj", "v_proj"]
    assert chosen(target_modules=both, exclude_modules=["v_proj"]) == queries
    assert chosen(target_modules=both, exclude_modules=r".*(v_proj|layers\.1.*)") == {"layers.0.self_attn.q_proj"}
    assert chosen(target_modules=["q_proj"], layers_to_transform=1) == {"layers.1.self_attn.q_proj"}
    assert chosen(target_modules=["q_proj"], layers_to_transform=[0], layers_pattern="layers") == queries - {
        "layers.1.self_attn.q_proj"
    }


def test_all_linear_adapts_every_linear_layer_but_the_head_also_the_second_time() -> None:
    model = adapt(llama(), r=2, target_modules="all-linear")
    wanted = {name for name, m in llama().named_modules() if type(m) is nn.Linear and name != "lm_head"}
    model.add_adapter("second", DeepLoraConfig(r=2, target_modules="all-linear"))
    for adapter in ("default", "second"):
        adapted = {n for n, m in model.base_model.model.named_modules() if adapter in getattr(m, "deep_lora_U", {})}
        assert adapted == wanted and len(wanted) == 14


@pytest.mark.parametrize("bias", ["none", "all", "deep_lora_only"])
def test_bias_trains_and_saves_exactly_the_biases_asked_for(bias: str, tmp_path) -> None:
    base = Mixed()
    model = adapt(copy.deepcopy(base), r=2, target_modules=["square", "wide"], bias=bias, init_weights=False)
    trained = {name for name, p in model.named_parameters() if p.requires_grad and name.endswith("bias")}
    assert len(trained) == {"none": 0, "all": 4, "deep_lora_only": 1}[bias]
    train(model, [(ids(), torch.ones(4, 3))])
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    assert torch.equal(_out(again, ids()), _out(model, ids()))


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["square"], "modules_to_save": ["head", "norm"]},
        {"target_modules": ["square"], "trainable_token_indices": {"embedding": [1, 5, 9]}},
        {"target_modules": ["square", "tall"], "rank_pattern": {"tall": 2}, "depth_pattern": {"square": 1}},
        {"target_modules": ALL, "variant": "narrow", "init_scale": 0.5, "depth": 4},
        {"target_modules": ALL, "variant": "wide", "init_scale": 0.5},
        {"target_modules": ALL, "freeze_subspaces": True},
    ],
)
def test_what_was_trained_is_saved_and_loaded_exactly(settings: dict, tmp_path) -> None:
    base = Mixed()
    model = adapt(copy.deepcopy(base), r=4, **settings)
    before = _out(model, ids())
    train(model, [(ids(), torch.ones(4, 3))])
    assert not torch.equal(_out(model, ids()), before)
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    assert torch.equal(_out(again, ids()), _out(model, ids()))


@pytest.mark.parametrize("parameters", [["moe.matrix"], ["moe.experts"], ["moe.matrix", "moe.experts"]])
def test_adapted_parameters_train_save_and_load(parameters: list[str], tmp_path) -> None:
    base, x = Nest(), torch.randn(4, 8)
    model = adapt(copy.deepcopy(base), r=2, target_modules=[], target_parameters=parameters)
    train(model, [(x, torch.ones(4, 5))], steps=4)
    assert not torch.equal(_out(model, x), _out(base, x))
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path))
    assert torch.equal(_out(again, x), _out(model, x))
    assert type(base.moe.matrix) is type(model.base_model.model.moe.get_base_layer().matrix)


def test_tied_weights_share_the_very_parameters_and_their_gradients_add(tmp_path) -> None:
    def build() -> PeftModel:
        torch.manual_seed(2)
        settings = {"target_modules": ["embed_tokens", "lm_head"], "init_weights": False}
        return adapt(llama(tie_word_embeddings=True).double(), r=4, ensure_weight_tying=True, **settings).double()

    model = build()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    assert head.deep_lora_U["default"] is embedding.deep_lora_V["default"]
    assert head.deep_lora_V["default"] is embedding.deep_lora_U["default"]
    assert head.deep_lora_core["default"] is embedding.deep_lora_core["default"]
    assert torch.allclose(head.get_delta_weight("default"), embedding.get_delta_weight("default"), rtol=0, atol=1e-12)
    shared = [layer.deep_lora_core["default"] for layer in (embedding, head)][0]
    (total,) = torch.autograd.grad(_loss(model), shared)
    parts = []
    for detached in (embedding, head):  # the gradient through the other one alone
        whole = detached.update
        detached.update = lambda name, f=whole: replace(f(name), core=f(name).core.detach())
        parts.append(torch.autograd.grad(_loss(model), shared)[0])
        del detached.update
    assert torch.allclose(total, sum(parts), rtol=1e-9, atol=1e-12) and all(part.abs().max() > 0 for part in parts)
    model.save_pretrained(str(tmp_path))
    again = PeftModel.from_pretrained(build().unload(), str(tmp_path), autocast_adapter_dtype=False).double()
    assert torch.equal(_out(again, ids()), _out(model, ids()))
    pair = again.get_input_embeddings(), again.get_output_embeddings()
    assert pair[0].deep_lora_core["default"] is pair[1].deep_lora_core["default"]


def _loss(model: nn.Module) -> Tensor:
    return model(ids()).logits.square().mean()


def test_unmerging_twice_and_merging_twice_warn() -> None:
    layer = layers_of(_two_adapters(target_modules=["square"]))[0]
    with pytest.warns(UserWarning, match="Already unmerged. Nothing to do."):
        layer.unmerge()
    layer.merge()
    weight = layer.get_base_weight().clone()
    with pytest.warns(UserWarning, match="already merged, nothing to do"):
        layer.merge()
    assert torch.equal(layer.get_base_weight(), weight) and layer.merged_adapters == ["default"]
