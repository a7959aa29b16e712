"""The model card of an uploaded adapter, made from its `results.json` and configs alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from training.errors import redacted
from training.names import CONTRASTIVE, RESULTS, TRAINABLE

_TITLES = {"deep_lora": "Deep LoRA", "lora": "LoRA"}


def model_card(
    results: dict[str, Any], adapter: dict[str, Any], repository: str, license: str | None, *, plain: bool = False
) -> str:
    """Write the card: metadata, how to load, metrics and settings.

    Args:
        results: the run's `results.json`.
        adapter: the config of the adapter that was trained.
        repository: where it goes, user/name.
        license: of the adapter, if one was named.
        plain: whether a plain LoRA lies at the root, and the adapter that was trained under `deep_lora`.
    """
    bases = _bases(results, adapter)
    base = " and ".join(bases)
    kind = str(adapter.get("peft_type", "")).lower() or CONTRASTIVE
    metadata = {
        "base_model": base if len(bases) == 1 else bases,
        "library_name": "peft",
        "pipeline_tag": results.get("pipeline"),
        "tags": list(dict.fromkeys([kind.replace("_", "-"), *(["lora"] if plain else []), "peft"])),
        "license": license,
    }
    parts = [
        "---",
        yaml.safe_dump({name: value for name, value in metadata.items() if value}, sort_keys=False).strip(),
        "---",
        f"# {repository.rpartition('/')[2]}",
        f"A {_TITLES.get(kind, kind)} adapter for `{base}`, task: {results['task'].replace('_', ' ')}.",
        _loading_towers(repository) if len(bases) > 1 else _loading(results, base, kind, repository, plain),
        _metrics(results),
        _training(results),
        f"## License\n\n{license or 'Not stated by the author.'} The base model `{base}` has its own license.",
    ]
    return redacted("\n\n".join(part for part in parts if part) + "\n").replace("---\n\n", "---\n", 1)


def _bases(results: dict[str, Any], adapter: dict[str, Any]) -> list[str]:
    """Return the base models: of two towers, both."""
    names = ("image_model", "text_model", "second_text_model")
    towers = [str(name) for name in map(results["settings"].get, names) if name]
    if len(towers) == 1:  # both towers are copies of it
        towers *= 2
    return towers or [str(adapter.get("base_model_name_or_path"))]


def _loading_towers(repository: str) -> str:
    return (
        '## Use\n\n```python\nfrom training.pairs import load_contrastive  # pip install "deep-lora[training]"\n\n'
        f'model = load_contrastive("{repository}")  # a modality.DualEncoder\n```\n\n'
        "Tokenizers and image processors are in the folders of the towers."
    )


def _loading(results: dict[str, Any], base: str, kind: str, repository: str, plain: bool) -> str:
    """Write the lines that load the adapter, and those that train it on."""
    auto, names = results.get("auto_class") or "AutoModel", results["label_names"]
    settings = f", num_labels={results['num_labels']}" if results.get("num_labels") else ""
    head = ""
    if results["settings"].get("normalized_head"):
        scale = results["settings"].get("head_scale")
        head = (
            f"from collapse import normalize_classifier_  # pip install deep-lora\n\n"
            f"normalize_classifier_(model, {scale if scale is not None else ''})\n".replace(", )", ")")
        )
    plugin = "import deep_lora  # pip install deep-lora; registers the method with PEFT\n"
    model = f'model = {auto}.from_pretrained("{base}"{settings})\n{head}'
    load = f'model = PeftModel.from_pretrained(model, "{repository}"'
    imports = f"from peft import PeftModel\nfrom transformers import {auto}\n\n"
    first = "" if plain or kind != "deep_lora" else plugin
    parts = [f"## Use\n\n```python\n{first}{imports}{model}{load})\n```"]
    if plain:
        parts.append(
            "That is a plain LoRA, which needs only PEFT. The adapter that was trained, with the same update, "
            f"is in `{TRAINABLE}`; to train it further:\n\n```python\n{plugin}\n{load}, is_trainable=True)\n```"
        )
    if names:
        parts.append(f"Classes, in the order of the logits: {json.dumps(names, ensure_ascii=False)}.")
    return "\n\n".join(parts)


def _metrics(results: dict[str, Any]) -> str:
    rows = [
        f"| {split} | {name} | {value if value is None else format(value, '.4g')} |"
        for split, values in results.get("metrics", {}).items()
        for name, value in values.items()
        if name != "runtime"
    ]
    return "\n".join(["## Metrics", "", "| data | metric | value |", "|---|---|---|", *rows]) if rows else ""


def _training(results: dict[str, Any]) -> str:
    shown = (
        "dataset", "dataset_config", "glue", "num_train_samples", "rank", "depth", "adapter", "learning_rate",
        "lr_scheduler_type", "optim", "num_train_epochs", "per_device_train_batch_size", "gradient_accumulation_steps",
        "seed", "load_in_4bit", "load_in_8bit", "loss", "temperature_mode", "schedule", "schedule_start",
        "schedule_end", "swap", "swap_probability",
    )  # fmt: skip
    settings = {name: results["settings"].get(name) for name in shown}
    facts = settings | {"steps": results.get("steps"), "processes": results.get("processes")} | results["versions"]
    rows = [f"| {name} | `{value}` |" for name, value in facts.items() if value not in (None, False)]
    return "\n".join(["## Training", "", "| setting | value |", "|---|---|", *rows])


def read_results(folder: Path) -> dict[str, Any]:
    """Read the `results.json` of a run.

    Raises:
        OSError, ValueError: there is none, or it is damaged.
    """
    return json.loads((folder / RESULTS).read_text(encoding="utf-8"))
