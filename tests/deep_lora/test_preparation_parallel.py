"""`prepare(trainer)` and a loop of accelerate on two processes, under DDP and FSDP 2, and resuming there.

accelerate opens FSDP on accelerators only, so these processes call their CPUs one. Everything behind that gate is real.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import accelerate.state
import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

import deep_lora
from deep_lora import create_optimizer
from deep_lora.optimizer.schedules import schedule_sum
from tests.models import adapt, ids, llama
from tests.processes import results_of_two

pytestmark = pytest.mark.slow
STEPS, ROWS = 12, 8
FSDP = {
    "ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "LlamaDecoderLayer", "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
}  # fmt: skip


def open_gate() -> None:
    os.environ.update(FSDP)
    original = accelerate.state.PartialState.__init__

    def opened(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    accelerate.state.PartialState.__init__ = opened


def model() -> nn.Module:
    torch.manual_seed(0)
    return adapt(llama(), r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM").train()


def whole(net: nn.Module) -> dict[str, Tensor]:
    held = {name: p for name, p in net.named_parameters() if p.requires_grad}
    gathered = {name: p.full_tensor() if hasattr(p, "full_tensor") else p for name, p in held.items()}
    return {name.removeprefix("module."): p.detach().clone() for name, p in gathered.items()}


def trained(folder: str | Path, batch: int, resume: str | None = None) -> dict[str, Any]:
    arguments = TrainingArguments(
        str(folder), max_steps=STEPS, per_device_train_batch_size=batch, save_strategy="steps", save_steps=5,
        report_to=[], disable_tqdm=True, use_cpu=True, seed=3,
    )  # fmt: skip
    data = [{"input_ids": row, "labels": row} for row in ids(16)]
    trainer = Trainer(model(), arguments, train_dataset=data)
    rule = deep_lora.prepare(trainer)
    trainer.train(resume_from_checkpoint=resume)
    assert rule.rule is not None
    return {"adapter": whole(trainer.model), "guard": rule.rule.guard, "steps": rule.rule.group["step_rule_steps"]}


def looped(accelerator: Accelerator, batch: int) -> dict[str, Any]:
    """A loop whose optimizer is made before accelerate has sharded the model."""
    net = model()
    optimizer = create_optimizer(net, num_steps=STEPS, max_grad_norm=1.0)
    loader = torch.utils.data.DataLoader([{"input_ids": row, "labels": row} for row in ids(32)], batch_size=batch)
    net, optimizer, loader = accelerator.prepare(net, optimizer, loader)
    steps = 0
    while steps < STEPS:
        for rows in loader:
            with accelerator.accumulate(net):
                accelerator.backward(net(**rows).loss)
                optimizer.step()
                optimizer.zero_grad()
            steps += accelerator.sync_gradients
    group = optimizer.optimizer.param_groups[0]
    return {"adapter": whole(accelerator.unwrap_model(net)), "steps": group["step_rule_steps"]}


def sums(accelerator: Accelerator) -> list[float]:
    """What a wrapped scheduler, which makes a step for each process, leaves of the rate: as told, and as it was."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=1.0)
    length = STEPS * accelerator.num_processes
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: max(0.0, 1 - step / length))
    optimizer, scheduler = accelerator.prepare(optimizer, scheduler)
    told, was = schedule_sum(scheduler, STEPS), 0.0
    for _ in range(STEPS):
        was += optimizer.param_groups[0]["lr"]
        optimizer.step()
        scheduler.step()
    return [told, was]


def under_ddp(rank: int, folder: str) -> dict[str, Any]:
    run, accelerator = trained(f"{folder}/ddp", ROWS // 2), Accelerator(cpu=True)
    return {"trainer": run, "loop": looped(accelerator, ROWS // 2), "sums": sums(accelerator)}


def under_fsdp(rank: int, folder: str) -> dict[str, Any]:
    open_gate()
    run = trained(f"{folder}/fsdp", ROWS // 2)
    resumed = trained(f"{folder}/fsdp", ROWS // 2, f"{folder}/fsdp/checkpoint-5")
    return {"trainer": run, "resumed": resumed, "loop": looped(Accelerator(cpu=True), ROWS // 2)}


def under_fsdp_in_shards(rank: int, folder: str) -> dict[str, Any]:
    """As by default in accelerate, whose checkpoints then hold each process's part."""
    FSDP["FSDP_STATE_DICT_TYPE"] = "SHARDED_STATE_DICT"
    return under_fsdp(rank, folder)


@pytest.fixture(scope="module", params=[under_ddp, under_fsdp, under_fsdp_in_shards])
def ranks(request: Any, tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    return results_of_two(request.param, tmp_path_factory.mktemp("prepared"))


def assert_same(found: dict[str, Any], expected: dict[str, Any], tolerance: float) -> None:
    assert found["steps"] == expected["steps"] == STEPS
    assert found["adapter"].keys() == expected["adapter"].keys() and len(expected["adapter"]) > 10
    for name, tensor in expected["adapter"].items():
        torch.testing.assert_close(found["adapter"][name], tensor, rtol=0, atol=tolerance, msg=name)


def test_a_trainer_on_two_processes_trains_as_one_does(ranks: list[Any], tmp_path: Path) -> None:
    alone = trained(tmp_path, ROWS)
    for found in ranks:
        assert found["trainer"]["guard"] == pytest.approx(alone["guard"], rel=0.01)
        assert_same(found["trainer"], alone, 1e-3)


def test_a_resumed_run_goes_on_where_it_was(ranks: list[Any]) -> None:
    for found in ranks:
        if "resumed" in found:
            assert_same(found["resumed"], found["trainer"], 1e-6)


def test_a_loop_of_accelerate_on_two_processes_trains_as_one_does(ranks: list[Any]) -> None:
    alone = looped(Accelerator(cpu=True), ROWS)
    for found in ranks:
        assert_same(found["loop"], alone, 1e-3)


def test_the_sum_of_a_scheduler_that_accelerate_has_wrapped_is_what_it_leaves(ranks: list[Any]) -> None:
    alone = sums(Accelerator(cpu=True))
    assert alone == pytest.approx([(STEPS + 1) / 2] * 2)
    assert [rank["sums"] for rank in ranks if "sums" in rank] in ([], [pytest.approx(alone)] * 2)


def test_accumulated_gradients_make_the_steps_of_whole_batches() -> None:
    whole_batches = looped(Accelerator(cpu=True), ROWS)
    assert_same(looped(Accelerator(cpu=True, gradient_accumulation_steps=4), ROWS // 4), whole_batches, 1e-3)
