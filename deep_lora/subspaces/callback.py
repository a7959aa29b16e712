"""`SubspaceInitializationCallback`: subspaces from the Trainer's own first batches."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from deep_lora.subspaces.compressed_layers import trained_modules
from deep_lora.subspaces.initialize import EXACT_BYTES, InitializationReport, Sides, set_subspaces_
from deep_lora.subspaces.replay import replay_
from evaluation_hooks import random_states_kept

OTHER_LOSSES = (
    "if the trainer computes the loss itself, as those of TRL and sentence-transformers do, say `trainer.add_callback("
    "SubspaceInitializationCallback(trainer=trainer))`; or call `initialize_subspaces_(model, closure)` with your loss"
)


class SubspaceInitializationCallback(TrainerCallback):
    """Calls `initialize_subspaces_` in `on_train_begin` with batches of the Trainer's dataloader.

    The data order, the random states and the optimizer are as if it had not run: training sees the same first batches
    again, also those of a stream that can be read only once. On resume (global_step > 0) it does nothing; an adapter
    that was trained before, by an earlier `train()` or before it was loaded, keeps its subspaces, with a warning. Under
    several processes each rank takes its own share of the batches and all end with the same subspaces.

    The loss is that of the model, `model(**batch).loss`. Where the trainer computes its own (DPO and others of TRL,
    sentence-transformers, a subclass or a `compute_loss_func` of your own), hand it over once it exists:
    `trainer.add_callback(SubspaceInitializationCallback(trainer=trainer))`.

    Args:
        num_batches: batches whose gradients are summed on each process.
        adapter_name: the adapter to initialize.
        seed, exact_bytes, sides: see `initialize_subspaces_`.
        trainer: whose `compute_loss` is the loss; None for the model's.

    Attributes:
        report: what was initialized, and what kept its random start; None until then.

    >>> SubspaceInitializationCallback(num_batches=4).report is None
    True
    """

    def __init__(
        self,
        num_batches: int = 4,
        adapter_name: str = "default",
        seed: int = 0,
        *,
        exact_bytes: int = EXACT_BYTES,
        sides: Sides = "right",
        trainer: Trainer | None = None,
    ) -> None:
        if isinstance(num_batches, bool) or not isinstance(num_batches, int) or num_batches < 1:
            raise ValueError(f"`num_batches` must be a positive integer, got {num_batches!r}")
        self.num_batches, self.adapter_name, self.seed = num_batches, adapter_name, seed
        self.exact_bytes = exact_bytes
        self.sides = sides
        self.trainer = trainer
        self.report: InitializationReport | None = None

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        train_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:
        if state.global_step > 0:
            return
        if model is None or train_dataloader is None:
            raise ValueError(
                "the callback needs the model and the dataloader of a Trainer; add it to `Trainer(callbacks=)`"
            )
        trained = trained_modules(model, self.adapter_name)
        if trained:
            warnings.warn(
                f"adapter {self.adapter_name!r} was trained before ({trained}), so its subspaces stay as they are: new "
                "ones would destroy what it has learned. Leave the callback out to train on, or take a fresh adapter",
                stacklevel=2,
            )
            return

        def closure() -> None:
            for batch in _first_batches(train_dataloader, self.num_batches):
                self._loss(model, batch, args.device).backward()

        with random_states_kept():
            self.report = set_subspaces_(
                model, closure, self.adapter_name, self.seed, exact_bytes=self.exact_bytes, sides=self.sides
            )

    def _loss(self, model: nn.Module, batch: Any, device: torch.device) -> Tensor:
        if self.trainer is None:
            return _loss_of_model(model, batch, device)
        inputs = self.trainer._prepare_inputs(batch)
        with self.trainer.compute_loss_context_manager():
            loss: Tensor = self.trainer.compute_loss(model, inputs)
        return loss.mean()


def _first_batches(dataloader: Any, count: int) -> Iterator[Any]:
    """Yield the first batches, and leave an accelerate dataloader as if it had not been iterated."""
    replay_(dataloader)
    generators = _own_generators(dataloader)
    states = [generator.get_state() for generator in generators]
    iterator = iter(dataloader)
    try:
        yield from itertools.islice(iterator, count)
    finally:
        if hasattr(iterator, "close"):
            iterator.close()
        if hasattr(dataloader, "end") and hasattr(dataloader, "gradient_state"):
            dataloader.end()
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


def _own_generators(dataloader: Any) -> list[torch.Generator]:
    """Return the generators that the loader or its samplers hold (the global ones are kept elsewhere)."""
    sampler = getattr(dataloader, "sampler", None)
    inner = getattr(getattr(dataloader, "batch_sampler", None), "sampler", None)
    found = (getattr(holder, "generator", None) for holder in (dataloader, sampler, inner))
    return list({id(generator): generator for generator in found if isinstance(generator, torch.Generator)}.values())


def _loss_of_model(model: nn.Module, batch: Any, device: torch.device) -> Tensor:
    if not isinstance(batch, Mapping):
        raise ValueError(
            f"the model's own loss needs batches that are mappings, got a {type(batch).__name__}; {OTHER_LOSSES}"
        )
    inputs = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    try:
        output = model(**inputs)
    except TypeError as error:
        raise ValueError(f"the model does not take a batch with {sorted(inputs)} ({error}); {OTHER_LOSSES}") from error
    loss = output.get("loss") if hasattr(output, "get") else getattr(output, "loss", None)
    if loss is None:
        raise ValueError(
            f"the model returned no loss for a batch with {sorted(inputs)}; the batches need labels, or {OTHER_LOSSES}"
        )
    return loss.mean()
