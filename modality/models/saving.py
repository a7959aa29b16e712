"""Saving and loading models made of other models: a recipe for each part, and one file of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
import transformers
from huggingface_hub import ModelHubMixin, snapshot_download
from peft import PeftConfig, PeftModel, get_peft_model
from torch import nn
from transformers import PreTrainedModel

from modality.models.names import drop_shared_names, fill_shared_names, share_, shared_names, train_only_, trained_names
from modality.temperature.logit_scale import reparameterizations, reparameterize_as_

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class SavedModel(nn.Module, ModelHubMixin):
    """`save_pretrained`, `from_pretrained` and `push_to_hub` for a module that consists of parts.

    A folder holds `config.json` (the settings, and how to build each part), `model.safetensors` (all weights, frozen
    ones too, so that nothing else is needed), and the configuration of every PEFT adapter in its own folder.
    Loading rebuilds transformers models and PEFT adapters around them. Any other module cannot be rebuilt from a file:
    pass one of the same architecture under its name, and it receives the weights. Loaded models are in evaluation mode.

    A module or tensor with several names (a tower for both sides, tied embeddings) is one object again, and occurs once
    in every state dict, also in a Trainer's checkpoints. What was trained is trainable, everything else is frozen, and
    a reparameterized `logit_scale` is reparameterized again.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_state_dict_post_hook(drop_shared_names)
        self.register_load_state_dict_pre_hook(fill_shared_names)

    def settings(self) -> dict[str, Any]:
        """Return the constructor's arguments other than the parts, as JSON."""
        raise NotImplementedError

    def parts(self) -> dict[str, nn.Module]:
        """Return the modules that the constructor takes, by name."""
        raise NotImplementedError

    @classmethod
    def rebuilt(cls, parts: dict[str, Any], settings: dict[str, Any]) -> SavedModel:
        """Make an object with these parts and settings."""
        raise NotImplementedError

    def activation_checkpointing_enable(
        self, activation_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Enable it in every part that can; Trainer calls this for `activation_checkpointing=True`.

        Raises:
            ValueError: no part can.
        """
        self._checkpoint("activation_checkpointing_enable", activation_checkpointing_kwargs, options)

    def gradient_checkpointing_enable(
        self, gradient_checkpointing_kwargs: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Do the same under its older name, which older versions of Trainer call."""
        self._checkpoint("gradient_checkpointing_enable", gradient_checkpointing_kwargs, options)

    def _checkpoint(self, method: str, settings: dict[str, Any] | None, options: dict[str, Any]) -> None:
        """Call the method of transformers, or that of open_clip and timm."""
        parts: list[Any] = list(self.parts().values())
        of_hf = [part for part in parts if hasattr(part, method)]
        of_timm = [part for part in parts if not hasattr(part, method) and hasattr(part, "set_grad_checkpointing")]
        if not of_hf and not of_timm:
            names = ", ".join(type(part).__name__ for part in parts)
            raise ValueError(f"gradient checkpointing is not available in {names}; leave it out, or pass `chunk_size=`")
        for part in of_hf:
            getattr(part, method)(settings, **options)
        for part in of_timm:
            part.set_grad_checkpointing(True)

    def _save_pretrained(self, save_directory: Path) -> None:
        described = {
            "modality_class": type(self).__name__, "settings": self.settings(),
            "parts": save_parts(self.parts(), save_directory), "reparameterized": reparameterizations(self),
            "shared": shared_names(self), "trained": trained_names(self),
        }  # fmt: skip
        (save_directory / CONFIG_FILE).write_text(json.dumps(described, indent=2, sort_keys=True))
        safetensors.torch.save_model(self, str(save_directory / WEIGHTS_FILE), metadata={"format": "pt"})

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **parts: nn.Module,
    ) -> SavedModel:
        folder = Path(model_id)
        if not folder.is_dir():
            folder = Path(
                snapshot_download(
                    model_id,
                    revision=revision,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    token=token,
                    local_files_only=local_files_only,
                )  # fmt: skip
            )
        described = json.loads((folder / CONFIG_FILE).read_text()) if (folder / CONFIG_FILE).is_file() else {}
        if described.get("modality_class") != cls.__name__:
            raise ValueError(
                f"{model_id} holds {described.get('modality_class') or 'no saved model of this package'}, not a "
                f"{cls.__name__}; a checkpoint of a Trainer holds only weights: build the model and load them into it"
            )
        if unknown := set(parts) - set(described["parts"]):
            raise ValueError(
                f"{cls.__name__} has no part called {sorted(unknown)}; it has {sorted(described['parts'])}"
            )
        model = cls.rebuilt(load_parts(described["parts"], folder, parts), described["settings"])
        reparameterize_as_(model, described.get("reparameterized", {}))
        share_(model, described.get("shared", {}))
        safetensors.torch.load_model(model, str(folder / WEIGHTS_FILE))
        if "trained" in described:
            train_only_(model, described["trained"])
        return model.eval()


def save_parts(parts: dict[str, nn.Module], folder: Path) -> dict[str, dict[str, Any]]:
    """Return the recipe of each part by name; a repeated module only refers to the first one."""
    first: dict[int, str] = {}
    return {
        name: {"kind": "shared", "with": first[id(part)]}
        if first.setdefault(id(part), name) != name
        else save_recipe(part, folder / name)
        for name, part in parts.items()
    }


def load_parts(recipes: dict[str, dict[str, Any]], folder: Path, given: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Build modules of the recipes' architectures, with arbitrary weights, or take the given ones.

    Raises:
        ValueError: if a part cannot be built and was not passed, or two modules were passed for what is one.
    """
    built: dict[str, nn.Module] = {}
    for name in (name for name, recipe in recipes.items() if recipe["kind"] != "shared"):
        names = [name, *(other for other, recipe in recipes.items() if recipe.get("with") == name)]
        passed = [given[other] for other in names if other in given]
        if any(module is not passed[0] for module in passed):
            raise ValueError(
                f"{' and '.join(names)} are one module in the saved model, got two; pass the same one for both"
            )
        built |= dict.fromkeys(names, load_recipe(recipes[name], folder / name, name, next(iter(passed), None)))
    return built


def save_recipe(part: nn.Module, folder: Path) -> dict[str, Any]:
    """Describe how to rebuild a module's architecture, as JSON; adapter configurations go into `folder`."""
    if isinstance(part, PeftModel):
        for name, config in part.peft_config.items():
            config.save_pretrained(str(folder / name))
        adapters = {"adapters": list(part.peft_config), "active": list(part.active_adapters)}
        return {"kind": "peft", "base": save_recipe(part.get_base_model(), folder), **adapters}
    if isinstance(part, PreTrainedModel) and getattr(transformers, type(part).__name__, None) is not None:
        config = json.loads(part.config.to_json_string(use_diff=False))
        absent = _absent_modules(part)
        return {"kind": "transformers", "class": type(part).__name__, "config": config, "absent": absent}
    if type(part) is nn.Identity:
        return {"kind": "identity"}
    return {"kind": "given", "class": type(part).__name__}


def load_recipe(recipe: dict[str, Any], folder: Path, name: str, given: nn.Module | None) -> nn.Module:
    """Build a module of the recipe's architecture, with arbitrary weights, or take the given one.

    Raises:
        ValueError: if it cannot be built and was not passed.
    """
    part = _built(recipe, folder, name, given)
    return part.requires_grad_(False) if recipe.get("frozen") else part  # as folders of older versions have it


def _built(recipe: dict[str, Any], folder: Path, name: str, given: nn.Module | None) -> nn.Module:
    if recipe["kind"] == "peft" and not isinstance(given, PeftModel):
        return _adapted(load_recipe(recipe["base"], folder, name, given), recipe, folder)
    if given is not None:
        return given
    if recipe["kind"] == "identity":
        return nn.Identity()
    if recipe["kind"] == "transformers":
        model_class = getattr(transformers, recipe["class"])
        config = model_class.config_class(**recipe["config"])
        with torch.random.fork_rng():
            model = model_class._from_config(config)
        for path in recipe["absent"]:
            parent, _, attribute = path.rpartition(".")
            setattr(model.get_submodule(parent), attribute, None)
        return model
    raise ValueError(
        f"part {name!r} is a {recipe['class']}, which cannot be rebuilt from a configuration; pass one yourself: "
        f"from_pretrained(..., {name}=module)"
    )


def _absent_modules(model: PreTrainedModel) -> list[str]:
    """List the modules that a constructor argument left out (`add_pooling_layer=False`); no configuration has them."""
    with torch.device("meta"):
        complete = type(model)(model.config)
    modules = dict(model.named_modules())
    paths = [(path, *path.rpartition(".")[::2]) for path, _ in complete.named_modules() if path]
    return [path for path, parent, name in paths if parent in modules and getattr(modules[parent], name, path) is None]


def _adapted(base: nn.Module, recipe: dict[str, Any], folder: Path) -> nn.Module:
    first, *further = recipe["adapters"]
    model = get_peft_model(base, PeftConfig.from_pretrained(str(folder / first)), adapter_name=first)
    for name in further:
        model.add_adapter(name, PeftConfig.from_pretrained(str(folder / name)))
    model.base_model.set_adapter(recipe["active"])
    return model
