"""Class predictions from a saved LoRA adapter with transformers and PEFT alone, as any server would make them.

    python predict_with_peft.py --model MODEL --adapter FOLDER --texts texts.json --output logits.npy

`few_shot_text.py` runs it in a second process to check that an exported Deep LoRA adapter predicts the same without
`deep_lora`: this script never imports it, and refuses to give a result if anything else did.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging


def predict(
    model: str, adapter: str, texts: list[str], num_labels: int, max_length: int, batch_size: int
) -> np.ndarray:
    """Logits (texts x classes) of the base model with the adapter on it."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(model)
    base = AutoModelForSequenceClassification.from_pretrained(model, num_labels=num_labels, dtype=torch.float32)
    adapted = PeftModel.from_pretrained(base, adapter).to(device).eval()
    logits = []
    with torch.inference_mode():
        for start in range(0, len(texts), batch_size):
            batch = tokenizer(
                texts[start : start + batch_size],
                truncation=True,
                max_length=max_length,
                padding=True,
                return_tensors="pt",
            )
            logits.append(adapted(**batch.to(device)).logits.cpu())
    return torch.cat(logits).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="base model: a name on the Hub or a folder")
    parser.add_argument("--adapter", required=True, help="folder of the saved LoRA adapter")
    parser.add_argument("--texts", required=True, type=Path, help="JSON file with a list of sentences")
    parser.add_argument("--output", required=True, type=Path, help="where to write the logits, a .npy file")
    parser.add_argument("--num_labels", type=int, default=2, help="number of classes (default: %(default)s)")
    parser.add_argument("--max_length", type=int, default=48, help="tokens of a sentence (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="sentences at a time (default: %(default)s)")
    arguments = parser.parse_args()
    logging.set_verbosity_error()  # the adapter brings the classifier head that the base model lacks
    logging.disable_progress_bar()

    texts = json.loads(arguments.texts.read_text(encoding="utf-8"))
    logits = predict(
        arguments.model, arguments.adapter, texts, arguments.num_labels, arguments.max_length, arguments.batch_size
    )
    if "deep_lora" in sys.modules:
        raise RuntimeError("deep_lora was imported in this process; the prediction must not depend on it")
    np.save(arguments.output, logits)
    print(f"{len(texts)} sentences predicted without deep_lora")


if __name__ == "__main__":
    main()
