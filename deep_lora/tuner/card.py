"""The model card of a saved adapter says how to load it: `import deep_lora` first, or as a plain LoRA.

PEFT writes its card from `PeftModel` and offers no hook to tuners, so two of its methods are wrapped; other methods'
models pass through unchanged.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peft import PeftModel

from deep_lora.config import DeepLoraConfig
from deep_lora.tuner.wrapping import wrap

HEADING = "## Loading this Deep LoRA adapter"
_SECTION = (
    HEADING
    + """

PEFT learns the method from the package `deep-lora`; import it before anything is loaded:

```python
import deep_lora  # pip install deep-lora; registers the method with PEFT
from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "{source}")
```

For servers and programs that know plain LoRA only, export the same update exactly:

```python
deep_lora.save_as_lora("adapter-as-lora", model)  # loads with PeftModel.from_pretrained, without deep_lora
```
"""
)


def add_loading_section(folder: str | os.PathLike[str], source: str = "path/or/hub-name") -> None:
    """Append the section on loading to the card in `folder` (made if missing); once only."""
    card = Path(folder) / "README.md"
    text = card.read_text(encoding="utf8") if card.is_file() else ""
    if HEADING not in text:
        card.write_text(f"{text.rstrip()}\n\n{_SECTION.format(source=source)}".lstrip("\n"), encoding="utf8")


def install() -> None:
    """Wrap PEFT's card writing and uploading; a second call (reload) changes nothing."""
    wrap(PeftModel, "create_or_update_model_card", _with_section)
    wrap(PeftModel, "_upload_modified_files", _with_card_before_upload)


def _is_deep_lora(model: PeftModel) -> bool:
    return any(isinstance(config, DeepLoraConfig) for config in model.peft_config.values())


def _with_section(original: Callable[..., Any]) -> Callable[..., Any]:
    def create_or_update_model_card(self: PeftModel, output_dir: str, *args: Any, **kwargs: Any) -> Any:
        result = original(self, output_dir, *args, **kwargs)
        if _is_deep_lora(self):
            add_loading_section(output_dir)
        return result

    return create_or_update_model_card


def _with_card_before_upload(original: Callable[..., Any]) -> Callable[..., Any]:
    def _upload_modified_files(self: PeftModel, working_dir: str, repo_id: str, *args: Any, **kwargs: Any) -> Any:
        # transformers' push_to_hub replaces the card that save_pretrained wrote by a fresh one just before uploading
        if _is_deep_lora(self):
            add_loading_section(working_dir, source=repo_id)
            self.create_or_update_model_card(str(working_dir))
        return original(self, working_dir, repo_id, *args, **kwargs)

    return _upload_modified_files
