"""One command each: fine-tuning, completing, converting and inspecting, from one CPU to many GPUs.

`deep-lora <command>` and `python -m training <command>` are the same; `accelerate launch -m training <command>` runs it
on several processes. Each command is a module with `main(words) -> exit status`, imported when it is called.
"""

from pathlib import Path

CONFIGS = Path(__file__).parent / "configs"
__all__ = ["CONFIGS"]
