"""Embed texts with a saved LoRA adapter, with transformers and PEFT alone, as any server does.

    python examples/embed_with_peft.py MODEL ADAPTER texts.json embeddings.json

`nothing_to_tune.py` runs it in a second process to check that the export of a Deep LoRA adapter computes what the
trained model does. This script never imports `deep_lora`, and refuses to give a result if anything else did. For the
two reviews of examples/README.md and MiniLM it takes seconds, and prints

    2 texts, 384 numbers each: embeddings.json
"""

import argparse
import json
import sys
import warnings
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModel, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

TOLERANCE = 1e-5  # both sides compute in float64, but the exported factors are stored in float32


@torch.inference_mode()
def embed(model: str, adapter: str, texts: list[str], max_length: int = 48) -> torch.Tensor:
    """Load the base model with the adapter; return the mean of each text's last hidden states, in float64."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    encoder = PeftModel.from_pretrained(AutoModel.from_pretrained(model, dtype=torch.float32), adapter).double().eval()
    inputs = tokenizer(texts, padding=True, truncation=True, max_length=max_length, return_tensors="pt")
    mask = inputs["attention_mask"][..., None]
    return (encoder(**inputs).last_hidden_state * mask).sum(1) / mask.sum(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="base model: a name on the Hub or a folder")
    parser.add_argument("adapter", help="folder of the saved LoRA adapter")
    parser.add_argument("texts", type=Path, help='JSON file: {"texts": [...]}, and "expected" to compare with')
    parser.add_argument("output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    disable_progress_bar()  # of loading weights
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")
    given = json.loads(args.texts.read_text(encoding="utf8"))
    found = embed(args.model, args.adapter, given["texts"])
    if "deep_lora" in sys.modules:
        raise RuntimeError("deep_lora was imported in this process; the embeddings must not depend on it")
    result: dict = {"embeddings": found.tolist()}
    if "expected" in given:
        expected = torch.tensor(given["expected"], dtype=found.dtype)
        difference = ((found - expected).abs().max() / expected.abs().max()).item()
        result = {"texts": len(found), "largest_relative_difference": difference, "agrees": difference <= TOLERANCE}
        verdict = "agrees with" if result["agrees"] else "DIFFERS FROM"
        print(f"Loaded by PEFT alone, the export {verdict} the trained model on {len(found)} texts ({difference:.0e}).")
    else:
        print(f"{len(found)} texts, {found.shape[1]} numbers each: {args.output}")
    args.output.write_text(json.dumps(result), encoding="utf8")


if __name__ == "__main__":
    main()
