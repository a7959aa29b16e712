"""Trains the language model of `causal_lm.py` with transformers' Trainer, lets it write, and exports its adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from causal_lm_data import Pair, encode
from peft import PeftModel
from processes import on_cpu, own_share
from torch import Tensor
from transformers import DataCollatorForSeq2Seq, PrinterCallback, Trainer, TrainingArguments

from deep_lora import SubspaceInitializationCallback, save_as_lora
from training.tasks.language import score_tokens, token_sums

# Both sides compute in float32, through the same layers but with W + dW in another order; a wrong factor, rank or
# scale would change the logits by orders of magnitude more.
TOLERANCE = 1e-3


@dataclass
class Settings:
    """One run of plain AdamW; batch sizes are of all processes together."""

    learning_rate: float = 1e-3
    steps: int = 30
    batch_size: int = 4
    max_length: int = 64
    init_batches: int = 4
    max_new_tokens: int = 24
    seed: int = 0


def make_trainer(
    model: PeftModel,
    tokenizer: Any,
    train: Sequence[Pair],
    heldout: Sequence[Pair],
    settings: Settings,
    folder: str,
    progress: bool,
) -> Trainer:
    """Trainer with Deep LoRA's callback. Metrics are sums over tokens, so they do not depend on how rows are batched.

    Llama and its like divide a sum over tokens by `num_items_in_batch`, as Trainer takes for granted, so several
    processes and accumulated batches have the loss of one batch. Of a model that ignores that argument the loss would
    be multiplied; `training.trainer.trainer.AdapterTrainer` finds out.
    """
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=settings.steps,
        learning_rate=settings.learning_rate,
        per_device_train_batch_size=own_share(settings.batch_size),
        per_device_eval_batch_size=own_share(8),
        logging_steps=max(settings.steps // 6, 1),
        save_strategy="no",
        report_to="none",
        disable_tqdm=not progress,
        seed=settings.seed,
        use_cpu=on_cpu(),
        dataloader_pin_memory=not on_cpu(),
        ddp_find_unused_parameters=False,
    )
    trainer = Trainer(
        model=model,
        args=arguments,
        train_dataset=encode(train, tokenizer, settings.max_length),
        eval_dataset=encode(heldout, tokenizer, settings.max_length),
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        callbacks=[SubspaceInitializationCallback(num_batches=settings.init_batches, seed=settings.seed)],
        compute_metrics=score_tokens,
        preprocess_logits_for_metrics=sums_of_next_tokens,
    )
    if not progress:
        trainer.remove_callback(PrinterCallback)
    return trainer


def sums_of_next_tokens(logits: Any, labels: Tensor) -> Tensor:
    """Loss, hits and number of the labelled tokens of each row; some models return more beside the logits."""
    first = logits[0] if isinstance(logits, tuple) else logits
    return token_sums(first[:, :-1], labels[:, 1:])


def heldout_metrics(trainer: Trainer) -> dict[str, float]:
    """Mean loss of a held-out token, perplexity, and share of tokens predicted right. Every process must call it."""
    metrics = trainer.evaluate()
    return {name: metrics[f"eval_{name}"] for name in ("token_loss", "perplexity", "token_accuracy")}


@torch.inference_mode()
def write_on(model: PeftModel, tokenizer: Any, pairs: Sequence[Pair], max_new_tokens: int) -> list[str]:
    """What the model writes after each prompt, by always taking the likeliest token."""
    model.eval()
    inputs = tokenizer([pair.prompt for pair in pairs], padding=True, padding_side="left", return_tensors="pt")
    inputs = inputs.to(next(model.parameters()).device)
    written = model.generate(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        max_new_tokens=max_new_tokens,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    return [text.strip() for text in tokenizer.batch_decode(written[:, inputs["input_ids"].shape[1] :], True)]


@dataclass(frozen=True)
class ExportCheck:
    """How far the logits of the exported adapter lie from the trained model's, relative to the largest of them."""

    max_relative_logit_difference: float
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        return self.max_relative_logit_difference <= self.tolerance

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"agrees": self.agrees}


@torch.inference_mode()
def export_and_check(model: PeftModel, base: Any, tokenizer: Any, pairs: Sequence[Pair], folder: Path) -> ExportCheck:
    """Saves the adapter and its LoRA export, loads the export onto a fresh base with PEFT, and compares the two."""
    model.save_pretrained(str(folder / "deep_lora_adapter"))
    save_as_lora(folder / "lora_export", model)
    tokenizer.save_pretrained(str(folder / "lora_export"))
    device = next(model.parameters()).device
    exported = PeftModel.from_pretrained(base.to(device), str(folder / "lora_export")).eval()
    inputs = tokenizer([f"{pair.prompt} {pair.target}" for pair in pairs], padding=True, return_tensors="pt").to(device)
    kept = inputs["attention_mask"].bool()
    expected, found = (
        one(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits[kept].float()
        for one in (model.eval(), exported)
    )
    return ExportCheck(float((found - expected).abs().max() / expected.abs().max()))
