"""The methods of the few-shot study, as data: an adapter, its configuration, its initialization and its training."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import torch
from peft import LoraConfig, LoraGAConfig, get_peft_model
from peft.tuners.lora.loraga import preprocess_loraga
from torch import nn
from torch.optim import AdamW, Optimizer

from benchmarks.few_shot.starts import STARTS
from benchmarks.few_shot.tasks.base import Adaptable, Task
from benchmarks.step_guards import PathRule, RuledSteps
from deep_lora import DeepLoraConfig, StepRule, create_optimizer, initialize_subspaces_


@dataclass(frozen=True)
class Method:
    """What is trained.

    Attributes:
        adapter: "lora", "deep_lora", or "full" (every parameter of the encoder but the embeddings).
        config: fields of `LoraConfig` or `DeepLoraConfig`, as in `DeepLoraConfig(**config)`.
        batches: number of first batches whose gradient initializes the adapter (Deep LoRA's subspaces, LoRA-GA).
        sides: of the gradient that Deep LoRA's subspaces come from.
        gamma: rate of Deep LoRA's U and V relative to that of the cores.
        adam_eps: of AdamW; None takes what the documentation advises, 1e-6 for Deep LoRA and PyTorch's 1e-8 otherwise.
        start: another initialization than the library's, one of `starts.STARTS`.
        restart: after so many steps the update is merged, and the next batches' gradient initializes a new adapter.
        embeddings: also adapts the word embedding.
        path: trains by the step rule, whose path it is: 0 for no rule, None for the library's path.
        rule: trains by the step rule with this path and guard, fields of `PathRule`, instead of the library's.
        batch_size: samples a step, in so many steps that as many samples are seen; 0 takes the task's.
    """

    adapter: str
    config: dict[str, Any] = field(default_factory=dict)
    batches: int = 0
    adam_eps: float | None = None
    start: str = field(default="", metadata={"unnamed": True})
    restart: int = field(default=0, metadata={"unnamed": True})
    embeddings: bool = field(default=False, metadata={"unnamed": True})
    sides: Literal["both", "right"] = field(default="right", metadata={"unnamed": True})
    gamma: float = field(default=1.0, metadata={"unnamed": True})
    path: float | None = field(default=0.0, metadata={"unnamed": True})
    rule: dict[str, Any] | None = field(default=None, metadata={"unnamed": True})
    batch_size: int = field(default=0, metadata={"unnamed": True})

    def changed(self, change: dict[str, Any]) -> Method:
        """Change the configuration.

        >>> Method("deep_lora", {"r": 8}).changed({"depth": 5}).config
        {'r': 8, 'depth': 5}
        """
        return replace(self, config=self.config | change)

    def key(self) -> str:
        """Name a kept run; fields that were added later appear only when they are used."""
        unused = [f.name for f in fields(self) if f.metadata and getattr(self, f.name) == f.default]
        return json.dumps({name: value for name, value in asdict(self).items() if name not in unused}, sort_keys=True)


def adapted(method: Method, model: Adaptable, task: Task, gradients: Callable[[], None], seed: int) -> None:
    """Wrap the model's encoder in place; `gradients` runs forward and backward on the first batches."""
    torch.manual_seed(seed)
    encoder = model.encoder
    if method.adapter == "full":
        for name, parameter in encoder.named_parameters():
            parameter.requires_grad_("embed" not in name)
        return
    adapted_layers = f"{task.adapted_layers}|{task.word_embedding}" if method.embeddings else task.adapted_layers
    if method.adapter == "deep_lora":
        model.encoder = get_peft_model(encoder, DeepLoraConfig(target_modules=adapted_layers, **method.config))
        if method.batches:
            initialize_subspaces_(model.encoder, gradients, seed=seed, exact_bytes=0, sides=method.sides)
    elif method.adapter == "lora":
        model.encoder = _with_lora(method, encoder, adapted_layers, gradients)
    else:
        raise ValueError(f"`adapter` must be 'lora', 'deep_lora' or 'full', got {method.adapter!r}")
    if method.start:
        STARTS[method.start](model.encoder, gradients, seed)


def _with_lora(method: Method, encoder: nn.Module, adapted_layers: str, gradients: Callable[[], None]) -> nn.Module:
    gradient_start = method.config.get("init_lora_weights") == "lora_ga"
    more = {"lora_ga_config": LoraGAConfig()} if gradient_start else {}
    config = LoraConfig(target_modules=adapted_layers, **method.config, **more)
    if gradient_start:
        preprocess_loraga(encoder, config, gradients)
    return get_peft_model(encoder, config)


def optimizer_of(method: Method, model: Adaptable, rate: float, task: Task) -> Optimizer:
    """Make AdamW without weight decay; the head has a rate of its own, whatever `rate` is."""
    eps = {} if method.adam_eps is None else {"eps": method.adam_eps}
    if method.adapter == "deep_lora":
        optimizer = create_optimizer(model.encoder, AdamW, lr=rate, gamma=method.gamma, weight_decay=0.0, **eps)
    else:
        trained = [parameter for parameter in model.encoder.parameters() if parameter.requires_grad]
        optimizer = AdamW(trained, lr=rate, weight_decay=0.0, **eps)
    if isinstance(model.head, nn.Linear):
        optimizer.add_param_group({"params": list(model.head.parameters()), "lr": task.settings.head_rate, "eps": 1e-8})
    return optimizer


def train_by_rule(
    method: Method, model: Adaptable, task: Task, optimizer: Optimizer, schedule: Any, num_steps: int
) -> None:
    """Set the lengths of the optimizer's steps, if the method asks for it."""
    if method.rule is not None:
        RuledSteps(optimizer, model.encoder, num_steps, PathRule(**method.rule), schedule)
    elif method.path != 0.0:
        likelihood = task.likelihood
        StepRule(optimizer, model.encoder, num_steps, path=method.path, likelihood=likelihood, scheduler=schedule)
