"""The exact LoRA export of a trained Deep LoRA model, checked in a process that never imports `deep_lora`."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deep_lora import save_as_lora
from few_shot_arguments import FewShotArguments
from few_shot_data import LabelledSentences
from few_shot_training import Trained

# Two float32 routes through the same network: rounding (relative 6e-8 for each operation) grows with its depth, whereas
# a wrong factor, rank or scale in the export would change the logits by far more than this.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class ExportCheck:
    """How the exported adapter's logits, relative to the largest one, differ from those of the trained model."""

    seed: int
    max_relative_logit_difference: float
    sentences: int
    same_class: int
    tolerance: float = TOLERANCE

    @property
    def agrees(self) -> bool:
        return self.max_relative_logit_difference <= self.tolerance and self.same_class == self.sentences

    def __str__(self) -> str:
        return (
            f"the LoRA export {'agrees with' if self.agrees else 'DIFFERS FROM'} the trained Deep LoRA model: "
            f"same class for {self.same_class} of {self.sentences} test sentences, largest relative logit difference "
            f"{self.max_relative_logit_difference:.1e} (tolerance {self.tolerance:.0e})"
        )


def save_and_check(
    base_model: str, trained: Trained, test: LabelledSentences, arguments: FewShotArguments
) -> ExportCheck:
    """Saves the adapter and its LoRA export, and compares the export, in a second process, with the trained model."""
    output = Path(arguments.output_dir)
    trained.model.save_pretrained(str(output / "deep_lora_adapter"))
    save_as_lora(output / "lora_export", trained.model)
    exported = predict_in_second_process(base_model, output / "lora_export", test, arguments)
    return compare_logits(trained.run.seed, trained.test_logits, exported)


def compare_logits(seed: int, trained: np.ndarray, exported: np.ndarray) -> ExportCheck:
    """Two sets of logits (sentences x classes) for the same sentences."""
    return ExportCheck(
        seed=seed,
        max_relative_logit_difference=float(np.abs(exported - trained).max() / np.abs(trained).max()),
        sentences=len(trained),
        same_class=int((exported.argmax(-1) == trained.argmax(-1)).sum()),
    )


def predict_in_second_process(
    base_model: str, adapter: Path, test: LabelledSentences, arguments: FewShotArguments
) -> np.ndarray:
    """Logits (sentences x classes) of `predict_with_peft.py`, with the batches of the evaluation here."""
    with tempfile.TemporaryDirectory() as folder:
        texts, logits = Path(folder, "texts.json"), Path(folder, "logits.npy")
        texts.write_text(json.dumps(test.texts), encoding="utf-8")
        options = {
            "model": base_model,
            "adapter": adapter,
            "texts": texts,
            "output": logits,
            "num_labels": len(test.class_names),
            "max_length": arguments.max_length,
            "batch_size": arguments.eval_batch_size,
        }
        command = [sys.executable, str(Path(__file__).with_name("predict_with_peft.py"))]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        subprocess.run(command, check=True)
        return np.load(logits)
