"""The Trainer of contrastive models: embeddings are gathered and measured together, temperatures learn slower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import EvalPrediction, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from modality.losses import ContrastiveObjective
from modality.temperature import find_temperature, learned_temperatures
from training.pairs.files import load_learned_, save_learned
from training.pairs.processor import ENTRIES, IDS
from training.trainer.trainer import AdapterTrainer


class ContrastiveTrainer(AdapterTrainer):
    """`AdapterTrainer` for a `ContrastiveModel` or `DualEncoder`.

    Evaluation gathers the embeddings of all pairs, without the rows that even out the last batch, and measures them as
    one process would: the loss over consecutive blocks of as many pairs as a training step has, the rest over all.

    Args:
        temperature_rate: rate of a learned temperature relative to that of the other parameters; it never decays.
    """

    def __init__(self, *args: Any, temperature_rate: float = 1.0, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.temperature_rate = temperature_rate
        self._score_pairs: Callable[[EvalPrediction], dict[str, float]] | None = kwargs.get("compute_metrics")
        self.compute_metrics = self.score

    def score(self, prediction: EvalPrediction) -> dict[str, float]:
        """Return loss, temperature and the metrics of the task."""
        model = self.accelerator.unwrap_model(self.model)
        x, y = (torch.as_tensor(rows) for rows in prediction.predictions)
        loss = self._mean_loss(model, x, y, torch.as_tensor(prediction.label_ids)[:, 0])
        found = {"loss": loss, "tau": find_temperature(model, "temperature").tau()}
        return found | (self._score_pairs(prediction) if self._score_pairs else {})

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Create `AdapterTrainer`'s optimizer, with the temperature in a group of its own."""
        existing: Any = getattr(self, "optimizer", None)
        optimizer = super().create_optimizer(*args, **kwargs)
        temperatures = learned_temperatures(self.model)
        if existing is None and temperatures:
            _set_apart(optimizer, temperatures, self.temperature_rate)
        return optimizer

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: Any = None
    ) -> tuple[None, tuple[Tensor, Tensor], Tensor]:
        """Return the embeddings of both modalities; and of each pair its id, and the numbers of what it consists of."""
        inputs = self._prepare_inputs(inputs)
        entries = inputs.pop(ENTRIES)
        with torch.no_grad(), self.compute_loss_context_manager():
            output = model(**inputs, return_loss=False)
        return None, (output.x_embeds, output.y_embeds), torch.cat([inputs[IDS][:, None], entries], 1)

    def _mean_loss(self, model: Any, x: Tensor, y: Tensor, ids: Tensor) -> float:
        """Return the mean over pairs of the loss in blocks as large as a training step."""
        settings = model.objective.settings() | {"gather": False}
        objective = ContrastiveObjective(**settings, normalize=model.objective.normalize).eval()
        scale, bias = model.inverse_temperature(), torch.as_tensor(model.bias())
        size = self.args.per_device_train_batch_size * self.args.world_size
        total = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():
            for rows in zip(x.split(size), y.split(size), ids.split(size), strict=True):
                output = objective(*rows[:2], scale.cpu(), bias.cpu(), ids=rows[2], with_logits=False)
                total += len(rows[0]) * output.loss.double().squeeze()
        return (total / len(x)).item()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Tensor] | None = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        save_learned(self.accelerator.unwrap_model(self.model), folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(str(folder))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        load_learned_(self.accelerator.unwrap_model(model or self.model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


class SwapCountCallback(TrainerCallback):
    """Let a new run count its swap decisions from its first step, not from the batches that set the subspaces."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: Any = None, **kwargs: Any
    ) -> None:
        if state.global_step == 0:
            model.objective.swap_steps = 0


def _set_apart(optimizer: torch.optim.Optimizer, parameters: list[nn.Parameter], rate: float) -> None:
    """Move parameters of an optimizer that has not stepped into a group without decay, at their own rate."""
    chosen = {id(parameter) for parameter in parameters}
    rates = []
    for group in optimizer.param_groups:
        kept = [parameter for parameter in group["params"] if id(parameter) not in chosen]
        if len(kept) < len(group["params"]):
            rates.append(group["lr"])
        group["params"] = kept
    optimizer.param_groups[:] = [group for group in optimizer.param_groups if group["params"]]
    optimizer.add_param_group({"params": parameters, "lr": rate * rates[0], "weight_decay": 0.0})
