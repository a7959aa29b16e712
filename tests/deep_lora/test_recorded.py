"""Bar: the authors' own run, step by step (see tests/reference/recorded/README.md)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deep_lora import create_optimizer, initialize_subspaces_
from dmf.linalg import leading_subspaces
from dmf.subspaces import compressed_subspaces
from tests.models import adapt, layers_of
from tests.reference import recorded_bert

TARGETS = ["query", "key", "value", "attention.output.dense", "intermediate.dense", "output.dense"]
EPS, RANK, DEPTH, STEPS = 1e-3, 8, 3, 40


def adapted(**settings):
    model = adapt(
        recorded_bert.model(),
        modules_to_save=[],
        target_modules=TARGETS,
        core_scale=1.0,
        r=RANK,
        depth=DEPTH,
        init_scale=EPS,
        **settings,
    )
    assert len(layers_of(model)) == 12
    return model


def layers_by_name(model):
    return {name: model.get_submodule(f"base_model.model.{name}") for name in recorded_bert.modules("compressed0")}


def as_adapter(recorded: dict[str, Tensor], variant: str) -> dict[str, Tensor]:
    """`dW_flax = left W3 W2 W1 right^T` is (in, out), so `dW = right W1^T W2^T W3^T left^T`: core[0] = W3^T."""
    transposed = [recorded[name].T for name in ("W3", "W2", "W1")]  # in the order in which they act
    if variant == "narrow":
        return {"V": transposed[0].T, "core": transposed[1][None], "U": transposed[2]}
    return {"U": recorded["right"], "V": recorded["left"], "core": torch.stack(transposed)}


@torch.no_grad()
def load(model, section: str, variant: str) -> None:
    factors = recorded_bert.modules(section)
    for name, layer in layers_by_name(model).items():
        for kind, value in as_adapter(factors[name], variant).items():
            parameter = getattr(layer, f"deep_lora_{kind}")["default"]
            assert parameter.shape == value.shape
            parameter.copy_(value)
            if kind == "core" and layer.differences["default"]:  # what was recorded holds the start
                parameter.diagonal(dim1=-2, dim2=-1).sub_(layer.deep_lora_start["default"])


def train(model, optimizer) -> list[float]:
    losses = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = recorded_bert.loss(model)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def largest_update_error(model, section: str, variant: str) -> float:
    """Largest relative distance of an update dW to the recorded one, over the modules."""
    factors = recorded_bert.modules(section)
    errors = []
    for name, layer in layers_by_name(model).items():
        end = as_adapter(factors[name], variant)
        chain = end["U"]
        for core in reversed(end["core"]):
            chain = chain @ core
        expected = chain @ end["V"].T
        errors.append(((layer.get_delta_weight("default") - expected).norm() / expected.norm()).item())
    return max(errors)


def test_the_recorded_model_is_the_model_here():
    inputs, _ = recorded_bert.batch()
    with torch.no_grad():
        logits = recorded_bert.model()(**inputs).logits
    recorded = torch.from_numpy(recorded_bert.arrays()["base_logits"])
    # float32, another order of summation: eps times some hundred terms of size one.
    assert (logits - recorded).abs().max().item() <= 2e-5


@pytest.mark.parametrize("subtract_start", [True, False])
def test_compressed_training_reproduces_the_recorded_losses(subtract_start):
    model = adapted(subtract_start=subtract_start)
    load(model, "compressed0", "compressed")
    losses = train(model, create_optimizer(model, lr=1e-2, gamma=1e-2))
    recorded = recorded_bert.arrays()["compressed_losses"].tolist()
    assert len(recorded) == STEPS and recorded[-1] < 0.5 * recorded[0], "the recorded run must learn something"
    assert max(abs(a - b) for a, b in zip(losses, recorded, strict=True)) <= 1e-4
    # Rounding in entries with tiny gradients is amplified by Adam; 40 steps of float32 stay within 1e-4 of the update.
    assert largest_update_error(model, "compressedT", "compressed") <= 1e-4


def test_narrow_training_reproduces_the_recorded_losses():
    model = adapted(variant="narrow")
    load(model, "narrow0", "narrow")
    losses = train(model, create_optimizer(model, lr=1e-4))
    recorded = recorded_bert.arrays()["narrow_losses"].tolist()
    assert max(abs(a - b) for a, b in zip(losses, recorded, strict=True)) <= 1e-4
    assert largest_update_error(model, "narrowT", "narrow") <= 1e-4


def observed_gradients(model) -> dict[str, Tensor]:
    """G of every layer on the batch, out of the layers' own gradient operators applied to an identity."""
    seen: dict[str, Tensor] = {}
    handles = []
    for name, layer in layers_by_name(model).items():

        def watch(module, args, output, name=name):
            def record(grad_output):
                operator = module.gradient_operator(args[0], grad_output)
                seen[name] = operator.apply(torch.eye(operator.columns))

            output.register_hook(record)

        handles.append(layer.register_forward_hook(watch))
    recorded_bert.loss(model).backward()
    for handle in handles:
        handle.remove()
    assert len(seen) == 12
    return {name: gradient.detach() for name, gradient in seen.items()}


def wide_start(factors: dict[str, Tensor]) -> Tensor:
    """`Q = W_{3:1}(0) / eps^3` of the recorded wide adapter, (out, in)."""
    return (factors["W3"] @ factors["W2"] @ factors["W1"]).T / EPS**3


def projector(basis: Tensor) -> Tensor:
    return basis @ torch.linalg.pinv(basis)


def test_the_closed_form_on_the_first_gradient_gives_the_recorded_subspaces():
    gradients = observed_gradients(adapted())
    start, recorded = recorded_bert.modules("uncompressed"), recorded_bert.modules("compressed0")
    for name, gradient in gradients.items():
        q = wide_start(start[name])
        svd = leading_subspaces(gradient, RANK // 2)
        u, v = compressed_subspaces(svd.left, svd.right, lambda m, q=q: q @ m, lambda m, q=q: q.mT @ m)
        assert u.dtype == torch.float32
        assert (projector(u) - projector(recorded[name]["right"])).norm().item() <= 1e-4, name
        assert (projector(v) - projector(recorded[name]["left"])).norm().item() <= 1e-4, name
        # Same subspaces and the same pairing of them: the product that the cores sit in.
        assert (u @ v.mT - recorded[name]["right"] @ recorded[name]["left"].mT).norm().item() <= 1e-4, name


class RecordedStart:
    """Stands in for the implicit orthogonal map: the recorded `Q` of the layer that has this seed."""

    matrices: list[Tensor] = []

    def __init__(self, rows: int, columns: int, seed: int) -> None:
        self.matrix = self.matrices[seed]
        assert self.matrix.shape == (rows, columns)

    def __call__(self, block: Tensor) -> Tensor:
        return self.matrix @ block

    def transpose(self, block: Tensor) -> Tensor:
        return self.matrix.mT @ block


def test_initialize_subspaces_with_the_recorded_start_writes_the_recorded_subspaces(monkeypatch):
    model = adapted()
    names = {layer: name for name, layer in layers_by_name(model).items()}
    order = [names[module] for module in model.modules() if module in names]
    start, recorded = recorded_bert.modules("uncompressed"), recorded_bert.modules("compressed0")
    monkeypatch.setattr(RecordedStart, "matrices", [wide_start(start[name]) for name in order])
    monkeypatch.setattr("deep_lora.subspaces.initialize.OrthogonalMap", RecordedStart)
    report = initialize_subspaces_(model, lambda: recorded_bert.loss(model).backward(), seed=0, sides="both")
    assert len(report.initialized) == 12
    for name, layer in layers_by_name(model).items():
        u, v = layer.deep_lora_U["default"].detach(), layer.deep_lora_V["default"].detach()
        assert (projector(u) - projector(recorded[name]["right"])).norm().item() <= 1e-4, name
        assert (projector(v) - projector(recorded[name]["left"])).norm().item() <= 1e-4, name
        assert (u @ v.mT - recorded[name]["right"] @ recorded[name]["left"].mT).norm().item() <= 1e-4, name
