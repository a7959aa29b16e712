"""What `initialize_subspaces_` leaves as it was, and how it meets dropout, checkpoints, modules used twice or never."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import OPTConfig, OPTForCausalLM

from deep_lora import DeepLoraConfig, initialize_subspaces_
from tests.models import Mixed, adapt, adapter_tensors, bases_of, bert_classifier, ids, layers_of, llama
from tests.reference.first_gradient import product_of_bases, weight_gradient

TARGETS = ["embedding", "square", "tall", "wide"]


def mixed(**settings):
    return adapt(Mixed(), target_modules=TARGETS, r=4, **settings)


def backward(model, batch=None):
    output = model(ids() if batch is None else batch)
    loss = getattr(output, "logits", output).sin().square().sum()
    loss.backward()


def snapshot(model):
    """Everything that must survive: flags, hooks, gradients, what is trainable, and all tensors but U and V."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_always_called")
    state = {}
    for name, module in model.named_modules():
        state[name] = (module.training, [list(getattr(module, hook)) for hook in hooks])
    for name, parameter in model.named_parameters():
        moves = "deep_lora_U" in name or "deep_lora_V" in name
        state[f"{name} (parameter)"] = (
            id(parameter),
            parameter.requires_grad,
            id(parameter.grad),
            None if parameter.grad is None else parameter.grad.tolist(),
            None if moves else parameter.tolist(),
        )
    return state


def prepared():
    """A model in a state that has something to lose."""
    model = mixed()
    model.train()
    model.base_model.model.tall.eval()
    for index, parameter in enumerate(model.parameters()):
        if index % 3 == 0:
            parameter.grad = torch.full_like(parameter, float(index))
    model.base_model.model.square.register_forward_hook(lambda *args: None)
    model.base_model.model.head.weight.requires_grad_(True)
    return model


def test_everything_but_the_bases_is_as_before():
    model = prepared()
    before, grad_mode = snapshot(model), torch.is_grad_enabled()
    report = initialize_subspaces_(model, lambda: backward(model))
    assert len(report.initialized) == len(TARGETS) and report.kept_random == []
    assert snapshot(model) == before and torch.is_grad_enabled() == grad_mode


def test_an_error_in_the_closure_changes_nothing_at_all():
    model = prepared()
    before, tensors = snapshot(model), {name: t.clone() for name, t in adapter_tensors(model).items()}

    def closure():
        backward(model)
        raise KeyError("the user's own error")

    with pytest.raises(KeyError, match="the user's own error"):
        initialize_subspaces_(model, closure)
    assert snapshot(model) == before
    for name, tensor in adapter_tensors(model).items():
        assert torch.equal(tensor, tensors[name])


def test_an_error_inside_a_layer_changes_nothing_at_all():
    model = bert_classifier().train()
    model.gradient_checkpointing_enable()
    model = adapt(model, target_modules=["query"], r=4).train()
    before = snapshot(model)
    with pytest.raises(IndexError):
        initialize_subspaces_(model, lambda: backward(model, torch.full((2, 3), 10**6)))
    assert snapshot(model) == before


def test_it_works_under_no_grad():
    model = mixed()
    with torch.no_grad():
        assert len(initialize_subspaces_(model, lambda: backward(model)).initialized) == len(TARGETS)


def test_it_works_when_no_parameter_is_trainable():
    reference, frozen = mixed(), mixed()
    frozen.load_state_dict(reference.state_dict())
    frozen.requires_grad_(False)
    for model in (reference, frozen):
        initialize_subspaces_(model, lambda model=model: backward(model))
    for a, b in zip(adapter_tensors(reference).values(), adapter_tensors(frozen).values(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("sides", ["both", "right"])
def test_the_gradient_is_taken_without_dropout(sides):
    base = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 6), nn.Dropout(0.5), nn.Tanh())
    inputs = torch.randn(10, 8)

    def loss(output):
        return (output * torch.linspace(-1, 2, 6)).sin().sum()

    expected, tolerance = product_of_bases(weight_gradient(base.eval(), "1.weight", inputs, loss), 4, 0, sides)
    model = adapt(base, target_modules=["1"], r=4, deep_lora_dropout=0.5).train()
    seen = []
    model.base_model.model[0].register_forward_hook(lambda m, args, out: seen.append(m.training))
    initialize_subspaces_(model, lambda: loss(model(inputs)).backward(), sides=sides)
    (layer,) = layers_of(model)
    U, V = bases_of(layer)
    product = U.double() @ V.double().mT
    assert (product - expected).norm().item() <= tolerance
    assert seen == [False] and model.base_model.model[0].training


def opt():
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=41,
            hidden_size=16,
            ffn_dim=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            dropout=0.5,
            max_position_embeddings=32,
            word_embed_proj_dim=16,
        )  # fmt: skip
    )


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("family", ["llama", "bert", "opt"])
def test_gradient_checkpointing_stays_active_and_gives_the_same_subspaces(family, reentrant):
    base, targets = {
        "llama": (llama(), ["q_proj", "v_proj", "down_proj"]),
        "bert": (bert_classifier(), ["query", "value", "output.dense"]),
        "opt": (opt(), ["q_proj", "fc1"]),  # its layers apply dropout themselves, by their own training flag
    }[family]
    plain = adapt(copy.deepcopy(base), target_modules=targets, r=4).train()
    checkpointed = adapt(copy.deepcopy(base), target_modules=targets, r=4).train()
    checkpointed.load_state_dict(plain.state_dict())
    checkpointed.enable_input_require_grads()
    checkpointed.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    calls = {"plain": 0, "checkpointed": 0}
    for name, model in (("plain", plain), ("checkpointed", checkpointed)):

        def count(module, args, name=name):
            calls[name] += 1

        layers_of(model)[0].register_forward_pre_hook(count)
        report = initialize_subspaces_(model, lambda model=model: backward(model))
        assert report.kept_random == []
    assert calls == {"plain": 1, "checkpointed": 2}, "a checkpointed layer is computed again in the backward pass"
    assert all(module.training for module in checkpointed.modules())
    # The recomputed activations are the same numbers, but kernels may sum in another order.
    for a, b in zip(adapter_tensors(plain).values(), adapter_tensors(checkpointed).values(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(8, 8)
        self.unused = nn.Linear(8, 8)

    def forward(self, x):
        return self.shared(torch.tanh(self.shared(x)))


@pytest.mark.parametrize("sides", ["both", "right"])
def test_a_module_that_is_used_twice_gets_the_sum_of_both_gradients(sides):
    base, inputs = Twice(), torch.randn(6, 8)

    def loss(output):
        return (output * torch.linspace(-1, 2, 8)).sin().sum()

    expected, tolerance = product_of_bases(weight_gradient(base, "shared.weight", inputs, loss), 4, 0, sides)
    model = adapt(base, target_modules=["shared"], r=4)
    initialize_subspaces_(model, lambda: loss(model(inputs)).backward(), seed=0, sides=sides)
    (layer,) = layers_of(model)
    U, V = bases_of(layer)
    product = U.double() @ V.double().mT
    assert (product - expected).norm().item() <= tolerance


def test_the_output_of_an_adapted_module_may_be_overwritten_in_place():
    bases = []
    for inplace in (True, False):
        torch.manual_seed(0)
        base = nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(inplace=inplace), nn.Flatten(), nn.Linear(8 * 16, 3))
        model = adapt(base, target_modules=["0"], r=4)
        initialize_subspaces_(model, lambda model=model: backward(model, torch.ones(2, 2, 6, 6)))
        bases.append(adapter_tensors(model))
    assert all(torch.equal(tensor, bases[1][name]) for name, tensor in bases[0].items())


def test_a_module_that_is_never_reached_keeps_its_start_and_is_named():
    model = adapt(Twice(), target_modules=["shared", "unused"], r=4)
    unused = model.base_model.model.unused
    before = {name: t.clone() for name, t in adapter_tensors(unused).items()}
    with pytest.warns(UserWarning, match=r"no gradient reached 1 of 2 .*: base_model.model.unused$"):
        report = initialize_subspaces_(model, lambda: backward(model, torch.randn(3, 8)))
    assert report.kept_random == ["base_model.model.unused"]
    assert report.initialized == ["base_model.model.shared"]
    for name, tensor in adapter_tensors(unused).items():
        assert torch.equal(tensor, before[name])


def test_a_module_with_zero_gradient_keeps_its_start_and_is_named():
    model = adapt(Twice(), target_modules=["shared"], r=4)
    with pytest.warns(UserWarning, match="no gradient reached 1 of 1"):
        report = initialize_subspaces_(model, lambda: (0.0 * model(torch.randn(3, 8))).sum().backward())
    assert report.initialized == []


@pytest.mark.parametrize("active", ["first", "second"])
def test_only_the_named_adapter_changes(active):
    model = adapt(Mixed(), "first", target_modules=TARGETS, r=4)
    model.add_adapter("second", DeepLoraConfig(target_modules=["square"], r=2))
    model.set_adapter(active)
    before = {name: t.clone() for name, t in adapter_tensors(model).items()}
    report = initialize_subspaces_(model, lambda: backward(model), adapter_name="second")
    assert report.initialized == ["base_model.model.square"]
    changed = {name for name, t in adapter_tensors(model).items() if not torch.equal(t, before[name])}
    assert changed == {f"base_model.model.square.deep_lora_{kind}.second" for kind in "UV"}
    assert model.active_adapter == active
