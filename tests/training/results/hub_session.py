"""What a user does with the Hub, in a process whose HF_ENDPOINT is the stand-in; prints one JSON line.

python -m tests.training.results.hub_session FOLDER    (HF_ENDPOINT, HF_HOME and HF_TOKEN are set)
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from peft import PeftConfig, PeftModel
from transformers import AutoModelForSequenceClassification

from tests.training import tiny
from tests.training.tiny import QUICK
from training.cli import main
from training.pairs import load_contrastive

INPUT = torch.tensor([[2, 7, 9, 12, 3]])


def command(*words: object) -> tuple[int, str]:
    """Exit status, and everything that was printed."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        status = main([str(word) for word in words])
    return status, printed.getvalue()


def logits(base: Path, *source: str, **options: str) -> torch.Tensor:
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
    model = PeftModel.from_pretrained(model, *source, **options).eval()
    return model(INPUT).logits


def session(folder: Path) -> dict:
    run = folder / "reviews"
    data = tiny.save_csv(folder / "reviews.csv")
    train = ["finetune", "--model", tiny.save_bert(folder / "bert"), "--dataset", data, "--output_dir", run, *QUICK]
    outcomes = {"train": command(*train, "--push_to_hub", "--license", "mit", "--hub_private_repo", "true")}
    push = ["push", "--run", run, "--hub_model_id"]
    names = {
        "again": "me/reviews", "forbidden": "stranger/reviews", "conflict": "me/conflict", "broken": "me/slow",
        "bad name": "me/a b", "public": "me/open",
    }  # fmt: skip
    outcomes |= {what: command(*push, name) for what, name in names.items()}
    outcomes["bad token"] = command(*push, "me/reviews", "--hub_token", "hf_wrongwrongwrong")
    here, pulled = logits(folder / "bert", str(run / "adapter")), logits(folder / "bert", "me/reviews")
    trainable = PeftModel.from_pretrained(
        AutoModelForSequenceClassification.from_pretrained(folder / "bert", num_labels=2), "me/reviews",
        is_trainable=True,
    ).eval()  # fmt: skip
    export = trainable(INPUT).logits
    snapshot = snapshot_download("me/reviews")
    outcomes["inspect"] = command("inspect", "--adapter", snapshot)
    outcomes["convert"] = command(
        "convert", "--adapter", snapshot, "--output_dir", folder / "lora", "--model", folder / "bert"
    )
    towers = ["--text_model", folder / "bert", "--image_model", tiny.save_vit(folder / "vit"), "--embedding_width", "8"]
    pairs = ["--dataset", tiny.save_pictures(folder / "pictures"), *QUICK, "--validation_fraction", "0.25"]
    for what, models in (("towers", towers), ("clip", ["--model", tiny.save_clip(folder / "clip")])):
        upload = ["--push_to_hub", "--hub_model_id", f"me/{what}"]
        outcomes[what] = command("contrastive", *models, *pairs, "--output_dir", folder / what, *upload)
    for what, name in (("gated", "me/gated"), ("missing", "me/nothing")):
        outcomes[what] = command("finetune", "--model", name, "--dataset", data, "--output_dir", folder / "x", *QUICK)
    same = [torch.equal(here, pulled), torch.allclose(here, export, atol=1e-6)]
    bases = {"x_tower": str(folder / "vit"), "y_tower": str(folder / "bert")}
    models = [load_contrastive(source, bases) for source in (folder / "towers" / "adapter", "me/towers")]
    same += [all(torch.equal(*pair) for pair in zip(*(m.state_dict().values() for m in models), strict=True))]
    kinds = [PeftConfig.from_pretrained("me/reviews").peft_type, trainable.peft_config["default"].peft_type]
    return {"outcomes": outcomes, "same": same, "kinds": kinds}


if __name__ == "__main__":
    print(json.dumps(session(Path(sys.argv[1]))))
