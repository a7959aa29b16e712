"""Which base models llama.cpp knows, as far as their configuration and the package `gguf` tell."""

from __future__ import annotations

from typing import Any

import transformers

from deep_lora.files import AdapterFileError

ARCHITECTURES = {"llama": "llama", "mistral": "llama"}  # of transformers -> of llama.cpp; those that are tested
_ONLY_BESIDE_OTHERS = {"clip"}  # encoders of images, to which llama.cpp adds no adapter


def base_config(config: dict[str, Any], base_model: str | None) -> Any:
    """Return the configuration of the base model; no code of its repository is run.

    Args:
        config: the adapter's, which names the base.
        base_model: another name or folder, which may be on the Hub.

    Raises:
        AdapterFileError: it is not on this machine.
    """
    name = base_model or config.get("base_model_name_or_path")
    try:
        return transformers.AutoConfig.from_pretrained(
            name, local_files_only=base_model is None, trust_remote_code=False
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise AdapterFileError(
            f"the configuration of the base model {name!r} is not on this machine; pass `base_model`"
        ) from error


def base_in_llama_cpp(config: dict[str, Any]) -> tuple[str, str]:
    """Return how an adapter of this base comes to llama.cpp, and what keeps from telling; one of them is empty.

    Names of transformers and of llama.cpp differ for some models, so a name that `gguf` lacks is not a refusal.
    """
    try:
        kind = str(base_config(config, None).model_type)
    except AdapterFileError:
        name = config.get("base_model_name_or_path")
        return "", f"the configuration of the base model {name!r} is not on this machine"
    if kind in ARCHITECTURES:
        return "after deep-lora convert --to gguf", ""
    try:
        from gguf import MODEL_ARCH_NAMES
    except ImportError:
        return "", f"the base model is a {kind}; `pip install gguf` to look for it among the models of llama.cpp"
    if _letters(kind) in {_letters(known) for known in MODEL_ARCH_NAMES.values()} - _ONLY_BESIDE_OTHERS:
        return "after llama.cpp's convert_lora_to_gguf.py", ""
    return "", f"the base model is a {kind}, which the package gguf does not list under this name"


def _letters(name: str) -> str:
    """Return a name without the signs in which the two spellings differ.

    >>> _letters("qwen2_moe"), _letters("gpt-oss")
    ('qwen2moe', 'gptoss')
    """
    return "".join(letter for letter in name.lower() if letter.isalnum())
