"""One line before training: `prepare(trainer)`, and the callback that it adds."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import nn
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from deep_lora.layers.finding import adapted_layers
from deep_lora.optimizer.factored import adapter_parameters
from deep_lora.optimizer.groups import OTHER_RATE
from deep_lora.optimizer.steps import StepRule, no_adapter
from deep_lora.subspaces.callback import SubspaceInitializationCallback
from deep_lora.subspaces.compressed_layers import trained_modules
from deep_lora.subspaces.initialize import InitializationReport

BATCHES = 4
SAVED = "saved_rule"


class DeepLoraCallback(TrainerCallback, ExportableState):
    """Trains the adapter of a Trainer's model by the step rule, starting in subspaces of the first batches' gradient.

    `Trainer(callbacks=[DeepLoraCallback()])` is enough where the model computes the loss; elsewhere (TRL,
    sentence-transformers, a loss of your own) call `deep_lora.prepare(trainer)`. The learning rate then has no
    influence on the adapter, only its schedule does. It is the rate of what is trained beside it, such as a new head:
    1e-3 if the arguments leave it at their default. What the rule does, and which optimizers it takes:
    `deep_lora.optimizer.steps.StepRule`.

    Works for PEFT's LoRA too, whose subspaces stay as they are.

    Args:
        path: how far a weight may go in the whole run, as a share of its own norm; None for the rule's choice.
        num_batches: batches, on each process, whose gradient the subspaces come from; 0 keeps random ones.
        trainer: whose `compute_loss` is the loss; None for the model's.
        likelihood: whether the loss is a cross-entropy, of tokens or of classes; None asks the model. Pass True for a
            head of your own with such a loss.

    Attributes:
        rule: the `StepRule`, from the start of the training on.

    >>> DeepLoraCallback().rule is None
    True
    """

    def __init__(
        self,
        *,
        path: float | None = None,
        num_batches: int = BATCHES,
        trainer: Trainer | None = None,
        likelihood: bool | None = None,
    ) -> None:
        self.path, self.num_batches, self.trainer, self.likelihood = path, num_batches, trainer, likelihood
        self.rule: StepRule | None = None
        self._max_grad_norm = 0.0  # of the arguments, while the rule clips

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps of the rule; under FSDP the optimizer's state does not reach all processes."""
        attributes = {} if self.rule is None else {SAVED: self.rule.saved()}
        settings = {"path": self.path, "num_batches": self.num_batches, "likelihood": self.likelihood}
        return {"args": settings, "attributes": attributes}

    def on_init_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: Any,
    ) -> None:
        """Give what is trained beside the adapter a rate, if nobody has chosen one."""
        if model is not None and args.learning_rate == _default_rate(args) and _others(model):
            args.learning_rate = OTHER_RATE

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        optimizer: Any = None,
        lr_scheduler: Any = None,
        **kwargs: Any,
    ) -> None:
        """Set the subspaces, and the rule on the Trainer's optimizer."""
        if model is None or optimizer is None:
            raise ValueError("the callback needs the model and the optimizer of a Trainer; use `prepare(trainer)`")
        started = self._initialize(args, state, control, model, **kwargs)
        inner = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps it
        kept = state.stateful_callbacks.setdefault(type(self).__name__, self.state())["attributes"]
        resume = state.global_step > 0 and kept.get(SAVED, True)
        settings: dict[str, Any] = {"path": self.path, "likelihood": self.likelihood, "scheduler": lr_scheduler}
        self._let_go(args)  # of a run that broke off, whose optimizer a Trainer keeps
        self.rule = StepRule(inner, model, state.max_steps, resume=resume, **settings)
        if args.max_grad_norm:  # the rule clips, after its guard has listened
            self._max_grad_norm = self.rule.max_grad_norm = args.max_grad_norm
            args.max_grad_norm = 0.0
        if state.is_world_process_zero:
            print(self._described(self.rule.path, args, state, model, started))

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Leave optimizer and arguments as they were."""
        self._let_go(args)

    def _let_go(self, args: TrainingArguments) -> None:
        if self.rule is not None:
            self.rule.remove()
        args.max_grad_norm = args.max_grad_norm or self._max_grad_norm  # a search of hyperparameters sets another
        self._max_grad_norm = 0.0

    def _initialize(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, model: nn.Module, **kwargs: Any
    ) -> InitializationReport:
        """Set the subspaces of the adapters that have some and are as they were drawn."""
        set_, random = [], []
        for name in _fresh_adapters(model) if self.num_batches and state.global_step == 0 else []:
            start = SubspaceInitializationCallback(self.num_batches, name, args.seed, trainer=self.trainer)
            start.on_train_begin(args, state, control, model=model, **kwargs)
            if start.report is not None:
                set_ += start.report.initialized
                random += start.report.kept_random
        return InitializationReport(set_, random)

    def _described(
        self, path: float, args: TrainingArguments, state: TrainerState, model: nn.Module, started: InitializationReport
    ) -> str:
        count = len(started.initialized)
        some = f" of {count} of {count + len(started.kept_random)} modules" if started.kept_random else ""
        subspaces = (
            f"subspaces{some} from the gradient of {self.num_batches} batches" if count else "subspaces as they are"
        )
        beside = f", what is trained beside it at {args.learning_rate:g}" if _others(model) else ""
        return f"Deep LoRA: a path of {path:g} of the weights' norms in {state.max_steps} steps, {subspaces}{beside}"


def prepare(
    trainer: Trainer, *, path: float | None = None, num_batches: int = BATCHES, likelihood: bool | None = None
) -> DeepLoraCallback:
    """Make a Trainer, of whatever kind, train its model's adapter with nothing to tune; call it before `train()`.

    Adds one `DeepLoraCallback` that knows the trainer's own loss, and prints a line with what it chose when the
    training begins. Works with transformers, TRL and sentence-transformers, for Deep LoRA and for PEFT's LoRA.

    Args:
        trainer: its model has an adapter.
        path, num_batches, likelihood: see `DeepLoraCallback`.

    Returns:
        The callback.

    Raises:
        ValueError: the model has no trained adapter, or the trainer has such a callback already.

    >>> prepare(trainer)  # doctest: +SKIP
    >>> trainer.train()  # doctest: +SKIP
    """
    if any(isinstance(known, DeepLoraCallback) for known in trainer.callback_handler.callbacks):
        raise ValueError(
            "the trainer has already been prepared; call `prepare` once, or pass a `DeepLoraCallback`, not both"
        )
    if not adapter_parameters(trainer.model):
        raise ValueError(no_adapter())
    callback = DeepLoraCallback(path=path, num_batches=num_batches, trainer=trainer, likelihood=likelihood)
    callback.on_init_end(trainer.args, trainer.state, trainer.control, model=trainer.model)
    trainer.add_callback(callback)
    return callback


def _fresh_adapters(model: nn.Module) -> list[str]:
    """Return the compressed adapters that are trained and have not left their start."""
    layers = adapted_layers(model).values()
    trained = {
        name
        for layer in layers
        for name, U in layer.deep_lora_U.items()
        if U.requires_grad or layer.deep_lora_core[name].requires_grad
        if layer.variant[name] == "compressed"
    }
    return sorted(name for name in trained if not trained_modules(model, name))


def _others(model: nn.Module) -> bool:
    """Tell whether anything is trained beside the adapter."""
    ours = set(map(id, adapter_parameters(model)))
    return any(parameter.requires_grad and id(parameter) not in ours for parameter in model.parameters())


def _default_rate(args: TrainingArguments) -> Any:
    """Return the learning rate that arguments of this class have if nobody sets one."""
    return next(field.default for field in dataclasses.fields(args) if field.name == "learning_rate")
