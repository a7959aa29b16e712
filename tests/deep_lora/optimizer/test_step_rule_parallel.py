"""The step rule on two processes: under DDP and FSDP 2 the adapter goes where that of one process goes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from deep_lora import create_optimizer
from deep_lora.optimizer.lengths import guard
from deep_lora.optimizer.paces import TOKENS
from tests.deep_lora.optimizer.ruled import MOST, dense, norms
from tests.models import adapt, ids, llama
from tests.processes import results_of_two

pytestmark = pytest.mark.slow
STEPS, PATH, ROWS = 12, 0.02, 8


def model() -> nn.Module:
    """A language model in float64, in which sums in another order show late."""
    torch.manual_seed(0)
    return adapt(llama().double(), r=4, target_modules="all-linear", task_type="CAUSAL_LM")


def whole(net: nn.Module) -> dict[str, Tensor]:
    held = {name: p for name, p in net.named_parameters() if p.requires_grad}
    gathered = {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in held.items()}
    return {name.removeprefix("module."): p.detach().clone() for name, p in gathered.items()}


def train(net: nn.Module, rows: slice = slice(None)) -> dict[str, Any]:
    """Train on these rows of every batch; return all states of the adapter, and what the guard left at each step."""
    optimizer = create_optimizer(net, num_steps=STEPS, path=PATH, max_grad_norm=0.5)
    states, guards = [whole(net)], []
    for step in range(STEPS):
        optimizer.zero_grad()
        batch = ids(ROWS, seed=step % 2)[rows]
        net(input_ids=batch, labels=batch).loss.backward()
        optimizer.step()
        states.append(whole(net))
        guards.append(float(guard(optimizer.param_groups[0]["step_rule_state"], TOKENS)))
    return {"states": states, "guards": guards}


def sharded(net: nn.Module) -> nn.Module:
    for layer in net.base_model.model.model.layers:
        fully_shard(layer)
    return fully_shard(net)


def compute(rank: int, folder: str) -> dict[str, Any]:
    share = slice(rank * ROWS // 2, (rank + 1) * ROWS // 2)
    plain = model()
    copied = DistributedDataParallel(copy.deepcopy(plain))
    return {"ddp": train(copied, share), "fsdp": train(sharded(copy.deepcopy(plain)), share)}


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return results_of_two(compute, tmp_path_factory.mktemp("ruled"))


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_the_adapter_of_two_processes_is_that_of_one(kind: str, ranks: list[Any]) -> None:
    alone = train(model())
    for found in (rank[kind] for rank in ranks):
        assert found["guards"] == pytest.approx(alone["guards"], abs=1e-4) and alone["guards"][-1] < 1
        for step, (expected, state) in enumerate(zip(alone["states"], found["states"], strict=True)):
            assert expected.keys() == state.keys() and len(expected) > 10
            for name, tensor in expected.items():
                torch.testing.assert_close(state[name], tensor, rtol=0, atol=1e-5, msg=f"{name} after step {step}")


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_every_step_has_its_length_on_the_gathered_update(kind: str, ranks: list[Any]) -> None:
    found, plain = ranks[0][kind], model()
    updates = []
    for state in found["states"]:
        plain.load_state_dict(state, strict=False)
        updates.append(dense(plain))
    for before, after, left in zip(updates, updates[1:], found["guards"], strict=False):
        for old, new, norm in zip(before, after, norms(plain), strict=True):
            assert (new - old).norm().item() == pytest.approx(PATH / STEPS * left * norm.item(), rel=MOST)
