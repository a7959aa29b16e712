"""`DriftCallback`: how far fine-tuning takes a language model from its base, on a text that it is not trained on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from peft import PeftModel
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from deep_lora.sharded import gathered
from evaluation_hooks import evaluation_prefix, random_states_kept

_ROWS = 1  # of the text at a time


class DriftCallback(TrainerCallback):
    """Log at each evaluation what a language model has forgotten, of whatever PEFT method.

    Measured on the same text are `general_perplexity`, that of the base model (`general_perplexity_of_base`), and
    `general_kl`: the mean over tokens of `KL(p || q) = sum_v p(v) log(p(v) / q(v))`, of the predictions p of the model
    and q of the base, which is the model with its adapter disabled. `update_share` is `|dW| / |W|` over all adapted
    weights. All are logged by the Trainer, in the metrics of the evaluation, and once more before the first step. The
    random states stay as they were. Weights that FSDP 1 or DeepSpeed shard are not gathered.

    Args:
        trainer: whose model is a `PeftModel` that predicts tokens.
        tokens: of a general text, (blocks, length), with at least 2 in a block.

    Attributes:
        latest: the last values, by name.

    Raises:
        TypeError: the Trainer's model is not a `PeftModel`.
        ValueError: there is nothing to predict.

    >>> ids = tokenizer(text, return_tensors="pt")["input_ids"]  # doctest: +SKIP
    >>> trainer.add_callback(DriftCallback(trainer, ids))  # doctest: +SKIP
    """

    def __init__(self, trainer: Trainer, tokens: Int[Tensor, "blocks length"]) -> None:
        if not isinstance(trainer.model, PeftModel):
            raise TypeError(
                f"the base is the model with its adapter disabled, so the Trainer needs a PeftModel, but it has a "
                f"{type(trainer.model).__name__}; wrap the model with `get_peft_model`"
            )
        if tokens.ndim != 2 or tokens.shape[1] < 2 or not len(tokens):
            raise ValueError(
                "`tokens` must have the shape (blocks, length), with at least 2 tokens in a block, got "
                f"{tuple(tokens.shape)}"
            )
        self.trainer, self.tokens = trainer, tokens
        self.latest: dict[str, float] = {}
        self._step: int | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Log the values before the first step."""
        self._step = None
        if state.global_step == 0:
            self._report("eval", state, None)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Measure, unless nothing has been trained since, and add the values to the log and the metrics."""
        self._report(evaluation_prefix(metrics or {}), state, metrics)

    def _report(self, prefix: str, state: TrainerState, metrics: dict[str, float] | None) -> None:
        if self._step != state.global_step:
            model: Any = self.trainer.model
            with random_states_kept(), self.trainer.accelerator.autocast():
                self.latest = drift(model, self.tokens.to(model.device))
            self._step = state.global_step
        found = {f"{prefix}_{name}": value for name, value in self.latest.items()}
        if metrics is not None:
            metrics.update(found)
        self.trainer.log(dict(found))


@torch.no_grad()
def drift(model: PeftModel, tokens: Int[Tensor, "blocks length"]) -> dict[str, float]:
    """Return the values of `DriftCallback`, by name; the model stays as it is."""
    sums = torch.zeros(3, dtype=torch.float64)
    with _undisturbed(model):
        for rows in tokens.split(_ROWS):
            own = _log_probabilities(model, rows)
            with model.disable_adapter():
                base = _log_probabilities(model, rows)
            sums += token_sums(own, base, rows[:, 1:])
        share = update_share(model)
    own_loss, base_loss, divergence = (sums / tokens[:, 1:].numel()).tolist()
    found = {
        "general_perplexity": math.exp(min(own_loss, 700.0)),
        "general_perplexity_of_base": math.exp(min(base_loss, 700.0)),
        "general_kl": divergence,
    }
    return found if share is None else found | {"update_share": share}


def token_sums(
    own: Float[Tensor, "rows tokens vocabulary"],
    base: Float[Tensor, "rows tokens vocabulary"],
    targets: Int[Tensor, "rows tokens"],
) -> Float[Tensor, " 3"]:
    """Return the sums over tokens of both cross entropies and of `KL(own || base)`, in float64.

    Args:
        own, base: log-probabilities.
        targets: the tokens that follow.

    >>> certain, even = torch.tensor([[[0.0, -1e30]]]), torch.full((1, 1, 2), 0.5).log()
    >>> token_sums(certain, even, torch.tensor([[0]]))[1:]  # log 2 for the even one, and as divergence
    tensor([0.6931, 0.6931], dtype=torch.float64)
    """
    places = targets[..., None].to(own.device)
    losses = [-one.gather(-1, places).double().sum().cpu() for one in (own, base)]
    return torch.stack([*losses, (own.exp() * (own - base)).sum(-1).double().sum().cpu()])


@torch.no_grad()
def update_share(model: nn.Module) -> float | None:
    """Return `|dW| / |W|`, Frobenius norms over all adapted weights; None if the method has no such update.

    >>> from peft import LoraConfig, get_peft_model
    >>> layer = nn.Linear(2, 2, bias=False)
    >>> _ = nn.init.eye_(layer.weight)
    >>> model = get_peft_model(nn.Sequential(layer), LoraConfig(r=2, lora_alpha=2, target_modules=["0"]))
    >>> _ = [nn.init.eye_(parameter) for name, parameter in model.named_parameters() if "lora_" in name]
    >>> update_share(model)
    1.0
    """
    updates, weights = 0.0, 0.0
    seen: set[int] = set()
    for layer in model.modules():
        if not isinstance(layer, BaseTunerLayer) or not hasattr(layer, "get_delta_weight"):
            continue
        base: Any = layer.get_base_layer()
        weight = getattr(base, "weight", None)
        if weight is None or id(weight) in seen:  # a tied head has the update of its embedding
            continue
        seen.add(id(weight))
        weights += gathered(dequantize_module_weight(base)).detach().float().square().sum().item()
        held = layer._get_available_adapters()
        changes = [gathered(layer.get_delta_weight(name)).float() for name in layer.active_adapters if name in held]
        updates += torch.stack(changes).sum(0).square().sum().item() if changes else 0.0
    return math.sqrt(updates / weights) if weights else None


def _log_probabilities(model: Any, rows: Int[Tensor, "rows length"]) -> Float[Tensor, "rows tokens vocabulary"]:
    logits = model(input_ids=rows, attention_mask=torch.ones_like(rows), use_cache=False).logits
    logits = logits.cpu() if logits.device.type == "mps" else logits  # which has no float64
    return torch.log_softmax(logits[:, :-1].double(), dim=-1)  # in float32 a small divergence drowns in rounding


@contextmanager
def _undisturbed(model: nn.Module) -> Iterator[None]:
    """Evaluate, and leave mode and trained parameters as they were: PEFT switches them with the adapter."""
    training, trained = model.training, [(p, p.requires_grad) for p in model.parameters()]
    model.eval()
    try:
        yield
    finally:
        model.train(training)
        for parameter, wanted in trained:
            parameter.requires_grad_(wanted)
