"""The exact LoRA export of a trained Deep LoRA model, checked in a process that never imports `deep_lora`."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from few_shot_arguments import FewShotArguments
from few_shot_data import LabelledSentences
from few_shot_training import Trained
from predict_with_peft import compute_logits
from transformers import AutoTokenizer

from deep_lora import save_as_lora

# Both sides compute in float64, so what is left is that the exported factors are stored in float32: relative 6e-8 for
# each entry, which a sentence close to the decision boundary multiplies by tens. A wrong factor, rank or scale would
# change the logits by orders of magnitude more.
TOLERANCE = 1e-5


@dataclass(frozen=True)
class ExportCheck:
    """How the exported adapter's logits differ from the trained model's, relative to the largest of them."""

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
    expected = compute_logits(
        copy.deepcopy(trained.model).double(),
        AutoTokenizer.from_pretrained(base_model),
        test.texts,
        arguments.max_length,
        arguments.eval_batch_size,
    )
    return compare_logits(trained.run.seed, expected, exported)


def compare_logits(seed: int, expected: np.ndarray, exported: np.ndarray) -> ExportCheck:
    """Two sets of logits (sentences x classes) for the same sentences."""
    return ExportCheck(
        seed=seed,
        max_relative_logit_difference=float(np.abs(exported - expected).max() / np.abs(expected).max()),
        sentences=len(expected),
        same_class=int((exported.argmax(-1) == expected.argmax(-1)).sum()),
    )


def predict_in_second_process(
    base_model: str, adapter: Path, test: LabelledSentences, arguments: FewShotArguments
) -> np.ndarray:
    """Logits (sentences x classes) of `predict_with_peft.py`, which never imports `deep_lora`."""
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
        command = [sys.executable, str(Path(__file__).with_name("predict_with_peft.py")), "--double"]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        subprocess.run(command, check=True)
        return np.load(logits)
