"""TRL's trainer for conversations, with the checkpoints and the care of `AdapterTrainer`; what its trainers share."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch
from jinja2 import TemplateError
from torch import Tensor, nn
from transformers import TrainingArguments
from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled
from transformers.trainer_utils import EvalLoopOutput
from trl import SFTConfig, SFTTrainer
from trl.chat_template_utils import get_training_chat_template, has_generation_markers

from deep_lora import cast_adapter_
from evaluation_hooks import valid_rows
from training.errors import UsageError
from training.job import IGNORED
from training.models.adapters import is_deep_lora
from training.trainer.trainer import AdapterTrainer

_ANSWERS, _TOKENS = 3, 128  # sample answers of a run, and how long they can be


class OfTrl:
    """What differs from TRL, whatever is learned: the held-out loss and TRL's metrics are means over what counts."""

    def __init__(self, *args: Any, model: Any, **kwargs: Any) -> None:
        self._sums, self._counts = [0.0, 0.0], list[int]()
        super().__init__(*args, model=model, **kwargs)  # type: ignore[call-arg]
        if getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False):
            for parameter in model.parameters():  # TRL has cast these to bfloat16, in which small steps are lost
                if parameter.requires_grad:
                    parameter.data = parameter.data.float()
            if is_deep_lora(model):
                cast_adapter_(model)  # a fresh adapter is an exact identity again

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Write nothing: TRL would put a card beside every checkpoint, and the runner writes that of a finished run."""

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate, and give TRL's own metrics the prefix that was asked for, in the log too."""
        log: list[dict[str, float]] = self.state.log_history  # type: ignore[attr-defined]
        before, prefix = len(log), kwargs.get("metric_key_prefix", "eval")
        found = _with_prefix(super().evaluate(*args, **kwargs), prefix)  # type: ignore[misc]
        log[before:] = [_with_prefix(entry, prefix) for entry in log[before:]]
        return {name: value for name, value in found.items() if not name.endswith(("_num_tokens", "_entropy"))}

    def _add(self, loss: Tensor | None, held: int, counted: int) -> None:
        """Add a held-out batch: its mean loss over what this process holds of it, and the weight of TRL's metrics."""
        self._counts.append(counted)
        if loss is not None and held:
            self._sums[0] += float(loss) * held
            self._sums[1] += held

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Run the loop, and let the loss and TRL's metrics be means over what counts, whatever batch it is in."""
        self._sums, self._counts = [0.0, 0.0], []
        output: EvalLoopOutput = super().evaluation_loop(*args, **kwargs)  # type: ignore[misc]
        accelerator: Any = self.accelerator  # type: ignore[attr-defined]
        found = torch.tensor([*self._sums, *self._counts], dtype=torch.float64)
        if accelerator.num_processes > 1:  # Apple's devices, of which there is only one, have no float64
            found = accelerator.reduce(found.to(accelerator.device))
        total, count, *counts = found.tolist()
        weigh(self._metrics["eval"], counts)  # type: ignore[attr-defined]
        name = f"{kwargs.get('metric_key_prefix', 'eval')}_loss"
        if count and name in output.metrics:
            output.metrics[name] = total / count
        return output


def _with_prefix(metrics: dict[str, float], prefix: str) -> dict[str, float]:
    """Return metrics with another prefix than `eval_`, which TRL gives to its own whatever data they are of."""
    return {
        f"{prefix}_{name.removeprefix('eval_')}" if name.startswith("eval_") else name: value
        for name, value in metrics.items()
    }


class ChatTrainer(OfTrl, AdapterTrainer, SFTTrainer):
    """TRL's `SFTTrainer` on encoded conversations.

    The held-out loss is the mean over all tokens that count, whatever batch they are in, and its exponential is the
    perplexity.

    Args:
        max_length: tokens after which a conversation is cut off, and of a packed row.
        packing: whether rows hold several conversations, which do not see each other.
    """

    def __init__(self, *args: Any, max_length: int, packing: bool, **kwargs: Any) -> None:
        kwargs["args"] = as_config(
            SFTConfig, kwargs["args"], max_length=max_length, packing=packing, eval_packing=packing
        )
        super().__init__(*args, **kwargs)

    def _model_divides_by_items(self) -> bool:
        return True  # TRL's loss does

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Run TRL's step without the tokens of rows that a distributed loader repeats, and add up the loss of the rest.

        All processes run batches of their full size, since those of FSDP compute together, and TRL adds up tokens.
        """
        if not self.padding_free:  # a packed batch is one row, whatever it holds, so that repeats cannot be told
            labels = inputs["labels"].clone()
            labels[valid_rows(self.accelerator, len(labels)) :] = IGNORED
            inputs = {**inputs, "labels": labels}
        loss, *others = super(AdapterTrainer, self).prediction_step(model, inputs, prediction_loss_only, ignore_keys)
        count = int((inputs["labels"][:, 1:] != IGNORED).sum())
        self._add(loss, count, count)
        return loss, *others

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Run the loop, and give the perplexity beside the loss."""
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        if (loss := output.metrics.get(f"{prefix}_loss")) is not None:
            output.metrics[f"{prefix}_perplexity"] = math.exp(min(loss, 700.0))
        return output


def weigh(metrics: dict[str, list[float]], counts: Sequence[float]) -> None:
    """Put the weighted mean of each metric in the place of its values for the batches, in place.

    >>> metrics = {"accuracy": [1.0, 0.0], "tokens": [7.0]}
    >>> weigh(metrics, [3, 1])
    >>> metrics
    {'accuracy': [0.75], 'tokens': [7.0]}
    """
    total = sum(counts)
    for values in metrics.values():
        if len(values) == len(counts) and total > 0:
            values[:] = [sum(value * count for value, count in zip(values, counts, strict=True)) / total]


def as_config(kind: type, run: TrainingArguments, **settings: Any) -> Any:
    """Return TRL's arguments with the values of transformers' own, defaults included."""
    shared = {entry.name for entry in dataclasses.fields(kind) if entry.init and hasattr(run, entry.name)}
    return kind(**{name: getattr(run, name) for name in shared} | settings)


class Encoder:
    """Conversations as tokens, and which of them the assistant says.

    Where the template marks its turns, or TRL knows one that does, the marks tell; elsewhere the text that each turn
    adds to that before it, if the template leaves this as it is.

    Args:
        tokenizer: of the model.
        template: a chat template; the tokenizer's own if None.

    Raises:
        UsageError: there is no template.
    """

    def __init__(self, tokenizer: Any, template: str | None) -> None:
        if template is not None:
            tokenizer.chat_template = template
        if not tokenizer.chat_template:
            raise UsageError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template, so the model cannot chat; pass a "
                "model that was trained to, or a template with --chat_template"
            )
        self.tokenizer, self.marked = tokenizer, tokenizer.chat_template
        if not has_generation_markers(tokenizer.chat_template):
            try:
                self.marked = get_training_chat_template(tokenizer)
            except (ValueError, TypeError, TemplateError):  # TRL knows none, or the template fails
                self.marked = None

    def __call__(self, turns: list[dict[str, Any]], tools: list[dict[str, Any]]) -> tuple[list[int], list[int]]:
        """Return tokens and labels of a conversation."""
        if self.marked is None:
            return self._by_prefixes(turns, tools)
        out = self.tokens(turns, tools, chat_template=self.marked, return_assistant_tokens_mask=True)
        ids, said = out["input_ids"], out["assistant_masks"]
        if not any(said):
            raise UsageError(
                "the chat template marks nothing as the assistant's (between generation and endgeneration)"
            )
        return ids, [token if mask else IGNORED for token, mask in zip(ids, said, strict=True)]

    def _by_prefixes(self, turns: list[dict[str, Any]], tools: list[Any]) -> tuple[list[int], list[int]]:
        """Compare texts, since a token may hold the end of one turn and the beginning of the next; it is learned."""
        if not self.tokenizer.is_fast:
            raise UsageError(
                f"{type(self.tokenizer).__name__} does not tell where its tokens lie in a text, so what the assistant "
                "says cannot be found; pass a model with a fast tokenizer (a file tokenizer.json)"
            )
        text = self.text(turns, tools)
        spans = []
        for number, one in enumerate(turns):
            if one["role"] == "assistant":
                start = self.text(turns[:number], tools, add_generation_prompt=True)
                end = self.text(turns[: number + 1], tools)
                self._check_prefixes(text, start, end)
                spans.append((len(start), len(end)))
        out = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        said = [any(first < end and last > start for start, end in spans) for first, last in out["offset_mapping"]]
        ids = out["input_ids"]
        return ids, [token if learned else IGNORED for token, learned in zip(ids, said, strict=True)]

    def _check_prefixes(self, whole: str, *starts: str) -> None:
        if not all(whole.startswith(start) for start in starts):
            raise UsageError(
                "the chat template changes earlier turns once a conversation continues, and does not mark the turns of "
                "the assistant, so these cannot be told from the rest; pass a --chat_template with generation marks"
            )

    def learned_text(self, turns: list[dict[str, Any]], tools: list[Any]) -> str:
        """Return the text of the tokens that a call returns."""
        return self.text(turns, tools, chat_template=self.marked)

    def text(self, turns: list[dict[str, Any]], tools: list[Any], **options: Any) -> str:
        """Return what the template makes of turns, as `tokens` encodes it."""
        return self._made(turns, tools, tokenize=False, **options)

    def tokens(self, turns: list[dict[str, Any]], tools: list[Any], **options: Any) -> Any:
        """Return what the template makes of turns, as tokens.

        Raises:
            UsageError: it refuses them.
        """
        return self._made(turns, tools, return_dict=True, **options)

    def _made(self, turns: list[dict[str, Any]], tools: list[Any], **options: Any) -> Any:
        try:
            return self.tokenizer.apply_chat_template(turns, tools=tools or None, **options)
        except (TemplateError, ValueError, TypeError) as error:
            roles = ", ".join(str(one["role"]) for one in turns)
            raise UsageError(f"the chat template refuses a conversation of {roles}: {error}") from error


@torch.no_grad()
def sample_answers(trainer: Any, model: Any, split: Any, *, template: str | None, conversation: Any) -> list[dict]:
    """Let the model answer the last questions of a few held-out conversations; every process must call this.

    As in training, a conversation has no more than --max_length tokens.

    Returns:
        Turns of the conversation, its own answer and the model's.
    """
    encoder = Encoder(trainer.processing_class, template)
    found = []
    trained, use_cache = model.training, model.config.use_cache
    model.eval()
    for row in split.select(range(min(_ANSWERS, len(split)))):
        turns, tools = conversation(row)
        start = encoder.tokens(turns[:-1], tools, add_generation_prompt=True, return_tensors="pt").to(model.device)
        room = min(_TOKENS, trainer.args.max_length - start["input_ids"].shape[1])
        if room < 1:
            continue
        sharded = is_deepspeed_zero3_enabled() or trainer.is_fsdp_enabled
        written = model.generate(**start, max_new_tokens=room, do_sample=False, synced_gpus=sharded, use_cache=True)
        answer = trainer.processing_class.decode(written[0, start["input_ids"].shape[1] :], skip_special_tokens=True)
        found.append({"turns": turns[:-1], "answer": turns[-1]["content"], "generated": answer.strip()})
    model.train(trained)
    model.config.use_cache = use_cache
    return found
