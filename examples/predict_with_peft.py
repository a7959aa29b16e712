"""Class predictions from a saved LoRA adapter with transformers and PEFT alone, as any server would make them.

    python predict_with_peft.py --model MODEL --adapter FOLDER --texts texts.json --output logits.npy

`few_shot_text.py` runs it in a second process to check that an exported Deep LoRA adapter predicts the same without
`deep_lora`: this script never imports it, and refuses to give a result if anything else did.
"""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging


def load_adapted(base_model: str, adapter: str, num_labels: int) -> PeftModel:
    """The base model in float32 with the saved adapter, and the classifier head saved with it."""
    base = AutoModelForSequenceClassification.from_pretrained(base_model, num_labels=num_labels, dtype=torch.float32)
    return PeftModel.from_pretrained(base, adapter).to("cuda" if torch.cuda.is_available() else "cpu")


@torch.inference_mode()
def compute_logits(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, batch_size: int
) -> np.ndarray:
    """Logits (texts x classes) in evaluation mode, on the device and in the precision of the model."""
    model.eval()
    device = next(model.parameters()).device
    logits = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(
            texts[start : start + batch_size],
            truncation=True,
            max_length=max_length,
            padding=True,
            return_tensors="pt",
        )
        logits.append(model(**batch.to(device)).logits.cpu())
    return torch.cat(logits).numpy()


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="base model: a name on the Hub or a folder")
    parser.add_argument("--adapter", required=True, help="folder of the saved LoRA adapter")
    parser.add_argument("--texts", required=True, type=Path, help="JSON file with a list of sentences")
    parser.add_argument("--output", required=True, type=Path, help="where to write the logits, a .npy file")
    parser.add_argument("--num_labels", type=int, default=2, help="number of classes (default: %(default)s)")
    parser.add_argument("--max_length", type=int, default=48, help="tokens of a sentence (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="sentences at a time (default: %(default)s)")
    parser.add_argument("--double", action="store_true", help="compute in float64, for comparisons without rounding")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    logging.set_verbosity_error()  # the adapter brings the classifier head that the base model lacks
    logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    texts = json.loads(arguments.texts.read_text(encoding="utf-8"))
    model = load_adapted(arguments.model, arguments.adapter, arguments.num_labels)
    model = model.double() if arguments.double else model
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    logits = compute_logits(model, tokenizer, texts, arguments.max_length, arguments.batch_size)
    if "deep_lora" in sys.modules:
        raise RuntimeError("deep_lora was imported in this process; the prediction must not depend on it")
    np.save(arguments.output, logits)
    print(
        f"{len(texts)} sentences predicted without deep_lora: {np.bincount(logits.argmax(-1)).tolist()} of each class"
    )


if __name__ == "__main__":
    main()
