"""The model card of a saved adapter: how to load it and train it further, and tags by which it is found.

PEFT writes its card from `PeftModel` and offers no hook to tuners, so its method is wrapped; models of other
methods pass through unchanged.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from peft import PeftModel
from peft.utils import CONFIG_NAME
from transformers import PreTrainedModel

from deep_lora.config import DeepLoraConfig
from deep_lora.trainable import TRAINABLE, is_lora
from deep_lora.tuner.wrapping import wrap

HEADING = "## Use"
TAGS = ("deep-lora", "lora", "peft")
_BEGIN, _END = "<!-- deep-lora: use -->", "<!-- deep-lora: end -->"
_CARD = "README.md"
_UNFILLED = "[More Information Needed]"  # of the template of huggingface_hub
_AUTO = {
    "CAUSAL_LM": "CausalLM", "SEQ_CLS": "SequenceClassification", "SEQ_2_SEQ_LM": "Seq2SeqLM",
    "TOKEN_CLS": "TokenClassification", "QUESTION_ANS": "QuestionAnswering", "FEATURE_EXTRACTION": "FeatureExtraction",
}  # fmt: skip


def install() -> None:
    """Wrap PEFT's card writing; a second call (reload) changes nothing."""
    wrap(PeftModel, "create_or_update_model_card", _with_section)


def write_card(folder: str | os.PathLike[str], model: PeftModel | None = None, source: str | None = None) -> None:
    """Write into the card of an adapter's folder how it is used; the rest of the card stays as it is.

    Args:
        folder: of a saved adapter, with Deep LoRA or a plain LoRA at its root.
        model: the one that was saved, for the width of its head.
        source: what the adapter is loaded by, such as the name of a repository; the folder's name if None.
    """
    path = Path(folder)
    name = source or path.name
    _put(path / _CARD, _section(path, model, name), name)
    _tag(path / _CARD)


def _section(folder: Path, model: Any, source: str) -> str:
    fields = json.loads((folder / CONFIG_NAME).read_bytes()) if (folder / CONFIG_NAME).is_file() else {}
    base = model.get_base_model() if isinstance(model, PeftModel) else None
    task, kind, first, more = str(fields.get("task_type")), "PeftModel", "base_model, ", ""
    if base is None or isinstance(base, PreTrainedModel):
        kind, first = f"AutoPeftModel{'For' * (task in _AUTO)}{_AUTO.get(task, '')}", ""
        count = getattr(getattr(base, "config", None), "num_labels", None)
        more = f", num_labels={count}" if count and task in ("SEQ_CLS", "TOKEN_CLS") else ""
    load = f'model = {kind}.from_pretrained({first}"{source}"{more}'
    plugin = "import deep_lora  # pip install deep-lora; registers the method with PEFT\n"
    if is_lora(folder / CONFIG_NAME):
        text = (
            f"The root holds a plain LoRA, which PEFT, transformers and servers load without any other package:\n\n"
            f"```python\nfrom peft import {kind}\n\n{load})\n```\n\nThe same adapter as [Deep LoRA](https://pypi.org/"
            f"project/deep-lora/) is in `{TRAINABLE}`; to train it further:\n\n```python\n{plugin}"
            f"from peft import {kind}\n\n{load}, is_trainable=True)\n```"
        )
    else:
        text = (
            f"```python\n{plugin}from peft import {kind}\n\n{load})\n```\n\nServers and programs that "
            f"only know plain LoRA take an export of the same update:\n\n```python\n"
            'deep_lora.save_as_lora("adapter-as-lora", model)  # or save_pretrained(folder, lora_at_root=True)\n```'
        )
    return f"{_BEGIN}\n{HEADING}\n\n{text}\n{_END}"


def _put(card: Path, section: str, title: str) -> None:
    """Replace the section, or add it at the end; a template that nobody has filled in is dropped."""
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if not text or text.count(_UNFILLED) > 3:
        text = f"---\nlibrary_name: peft\n---\n\n# {title.rpartition('/')[2] or 'Adapter'}\n"
    if _BEGIN in text:
        text = re.sub(f"{re.escape(_BEGIN)}.*?{re.escape(_END)}", lambda _: section, text, count=1, flags=re.DOTALL)
    else:
        text = f"{text.rstrip()}\n\n{section}\n"
    card.parent.mkdir(parents=True, exist_ok=True)
    card.write_text(text, encoding="utf-8")


def _tag(path: Path) -> None:
    card = ModelCard.load(path)
    card.data.tags = sorted({*(card.data.tags or ()), *TAGS})
    card.save(path)


def _is_deep_lora(model: PeftModel) -> bool:
    return any(isinstance(config, DeepLoraConfig) for config in model.peft_config.values())


def _with_section(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_or_update_model_card(self: PeftModel, output_dir: str, *args: Any, **kwargs: Any) -> Any:
        if not _is_deep_lora(self):
            return original(self, output_dir, *args, **kwargs)
        folder = Path(output_dir)
        _put(folder / _CARD, _section(folder, self, folder.name), folder.name)
        result = original(self, output_dir, *args, **kwargs)
        _tag(folder / _CARD)
        return result

    return create_or_update_model_card
