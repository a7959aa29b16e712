"""What a contrastive model learns, in a folder: an adapter for each part, and everything else in one small file.

`contrastive.safetensors` holds what no adapter saves (temperature, projections, bias, running means, how many swap
decisions were made), and `contrastive.json` how the model is put together. Base models are named, not copied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import transformers
from huggingface_hub import snapshot_download
from peft import PeftModel
from torch import nn

from modality import ContrastiveModel, DualEncoder
from modality.temperature import base_model_of
from training.errors import UsageError, redacted
from training.models.adapters import adapted_parts, own_buffers, own_parameters
from training.names import ADAPTER_CONFIG, CONTRASTIVE, CONTRASTIVE_CONFIG

CLASSES: dict[str, Any] = {"ContrastiveModel": ContrastiveModel, "DualEncoder": DualEncoder}


def save_learned(model: Any, folder: Path) -> None:
    """Write what was learned.

    Args:
        model: a `ContrastiveModel` or `DualEncoder`.
        folder: which need not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for place, part in adapted_parts(model).items():
        part.save_pretrained(str(folder / place))
    kept = own_parameters(model).keys() | own_buffers(model).keys()
    heads = {name: value for name, value in model.state_dict().items() if name in kept or name.endswith("_extra_state")}
    safetensors.torch.save_file(
        {name: value.detach().cpu().contiguous().clone() for name, value in heads.items()},
        folder / f"{CONTRASTIVE}.safetensors",
        metadata={"format": "pt"},
    )
    bases = {name: str(base_model_of(part).config.name_or_path) for name, part in model.parts().items()}
    described = {"class": type(model).__name__, "settings": model.settings(), "bases": bases}
    (folder / CONTRASTIVE_CONFIG).write_text(json.dumps(described, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_learned_(model: nn.Module, folder: Path) -> None:
    """Load what was learned into a model of the same kind, to resume training.

    Raises:
        UsageError: the files belong to another model.
    """
    for place, part in adapted_parts(model).items():
        part.load_adapter(str(folder / place), "default", is_trainable=True)
    _load_heads_(model, folder)


def load_contrastive(source: str | Path, bases: Mapping[str, str] | None = None) -> ContrastiveModel | DualEncoder:
    """Load the model of a finished run, in evaluation mode: base models, adapters, temperature and projections.

        model = load_contrastive("runs/pairs/adapter")                            # or a repository on the Hub
        output = model(input_ids=..., pixel_values=..., return_loss=False)      # image_embeds, text_embeds, logits

    Args:
        source: a folder, or a repository on the Hub.
        bases: part -> base model, where it lies elsewhere by now; parts are `model`, or `x_tower` and `y_tower`.

    Raises:
        UsageError: the source is neither a folder nor a repository that can be downloaded, it holds no such model, a
            part is unknown, or its base model cannot be loaded.
    """
    folder = _folder_of(source)
    try:
        described = json.loads((folder / CONTRASTIVE_CONFIG).read_text(encoding="utf-8"))
        kind, named, settings = CLASSES[described["class"]], dict(described["bases"]), described["settings"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{source} does not hold a contrastive model ({CONTRASTIVE_CONFIG}): {error!r}") from error
    if set(named) not in ({"model"}, {"x_tower", "y_tower"}):
        raise UsageError(f"{source} names the parts {sorted(map(repr, named))}; it needs model, or x_tower and y_tower")
    if unknown := sorted(set(bases or ()) - set(named)):
        raise UsageError(f"unknown part {unknown}; the parts are {sorted(named)}")
    named |= bases or {}
    parts = {}
    for name, base in named.items():
        place = folder if len(named) == 1 else folder / name
        part = _base_model(name, base)
        parts[name] = PeftModel.from_pretrained(part, str(place)) if (place / ADAPTER_CONFIG).is_file() else part
    try:
        model = kind.rebuilt(parts, settings)
    except (ArithmeticError, AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise UsageError(
            f"no model can be built from the settings of {source} ({CONTRASTIVE_CONFIG}): {error!r}"
        ) from error
    _load_heads_(model, folder)
    return model.eval()


def _folder_of(source: str | Path) -> Path:
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(str(source)))
    except (OSError, ValueError) as error:  # no such repository, no network, or what cannot be the name of one
        raise UsageError(
            f"{source} is neither a folder nor a repository that can be downloaded: {redacted(str(error))}"
        ) from error


def _base_model(part: str, name: object) -> nn.Module:
    if not isinstance(name, str):
        raise UsageError(f"the base model of {part} is {name!r}; it must be a name or a folder")
    try:
        return transformers.AutoModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"the base model {name!r} of {part} cannot be loaded; pass bases={{{part!r}: ...}} if it is elsewhere: "
            f"{error}"
        ) from error


def _load_heads_(model: nn.Module, folder: Path) -> None:
    try:
        heads = safetensors.torch.load_file(folder / f"{CONTRASTIVE}.safetensors")
        unexpected = model.load_state_dict(heads, strict=False).unexpected_keys
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise UsageError(f"{folder / CONTRASTIVE}.safetensors does not fit the model: {error}") from error
    if unexpected:
        raise UsageError(f"{folder / CONTRASTIVE}.safetensors has {unexpected[:3]}, which the model does not have")
