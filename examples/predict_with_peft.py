"""Predict classes with a saved LoRA adapter, with transformers and PEFT alone, as any server does.

    python examples/predict_with_peft.py --model MODEL --adapter FOLDER --texts texts.json --output predictions.json

`few_shot_text.py` runs it in a second process to check that the export of a Deep LoRA adapter predicts what the trained
model does. This script never imports `deep_lora`, and refuses to give a result if anything else did.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer

TOLERANCE = 1e-5  # both sides compute in float64, but the exported factors are stored in float32


@torch.inference_mode()
def compute_logits(args: argparse.Namespace, texts: list[str]) -> torch.Tensor:
    """Load the base model in float32 with the adapter and its classifier head, and return logits (texts, classes)."""
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    base = AutoModelForSequenceClassification.from_pretrained(
        args.model, num_labels=args.num_labels, dtype=torch.float32
    )
    model = PeftModel.from_pretrained(base, args.adapter).to("cuda" if torch.cuda.is_available() else "cpu").eval()
    model = model.double() if args.double else model
    logits = []
    for start in range(0, len(texts), args.batch_size):
        batch = texts[start : start + args.batch_size]
        inputs = tokenizer(batch, truncation=True, max_length=args.max_length, padding=True, return_tensors="pt")
        logits.append(model(**inputs.to(model.device)).logits.cpu())
    return torch.cat(logits)


def agreement(logits: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    """Compare two sets of logits for the same sentences; differences are relative to the largest logit."""
    difference = ((logits - expected).abs().max() / expected.abs().max()).item()
    same = int((logits.argmax(-1) == expected.argmax(-1)).sum())
    return {
        "max_relative_logit_difference": difference,
        "sentences": len(expected),
        "same_class": same,
        "tolerance": TOLERANCE,
        "agrees": difference <= TOLERANCE and same == len(expected),
    }


def parse_arguments(words: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="base model: a name on the Hub or a folder")
    parser.add_argument("--adapter", required=True, help="folder of the saved LoRA adapter")
    parser.add_argument("--texts", required=True, type=Path, help="JSON file with a list of sentences")
    parser.add_argument("--expected", type=Path, help="JSON file with logits to compare with")
    parser.add_argument("--output", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--num_labels", type=int, default=2, help="number of classes (default: %(default)s)")
    parser.add_argument("--max_length", type=int, default=48, help="tokens of a sentence (default: %(default)s)")
    parser.add_argument("--batch_size", type=int, default=64, help="sentences at a time (default: %(default)s)")
    parser.add_argument("--double", action="store_true", help="compute in float64, for comparisons without rounding")
    return parser.parse_args(words)


def main() -> None:
    args = parse_arguments()
    texts = json.loads(args.texts.read_text(encoding="utf8"))
    logits = compute_logits(args, texts)
    if "deep_lora" in sys.modules:
        raise RuntimeError("deep_lora was imported in this process; the prediction must not depend on it")
    print(f"{len(texts)} sentences predicted without deep_lora: {logits.argmax(-1).bincount().tolist()} of each class")
    result: dict[str, Any] = {"classes": logits.argmax(-1).tolist(), "logits": logits.tolist()}
    if args.expected:
        expected = torch.tensor(json.loads(args.expected.read_text(encoding="utf8")), dtype=logits.dtype)
        result = agreement(logits, expected)
        print(
            "the export {} the trained model: same class for {same_class} of {sentences} sentences, largest relative "
            "logit difference {max_relative_logit_difference:.1e} (tolerance {tolerance:.0e})".format(
                "agrees with" if result["agrees"] else "DIFFERS FROM", **result
            )
        )
    args.output.write_text(json.dumps(result), encoding="utf8")


if __name__ == "__main__":
    main()
