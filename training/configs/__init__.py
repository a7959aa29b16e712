"""Ready-made configurations of accelerate and DeepSpeed, and `deep-lora configs`, which prints where they are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def main(words: Sequence[str]) -> int:
    """Print the path of each file, and how to use one."""
    for path in sorted(Path(__file__).parent.glob("*.*")):
        if path.suffix in (".yaml", ".json"):
            print(path)
    print("\naccelerate launch --config_file <one of the yaml files> --no_python deep-lora finetune ...")
    return 0
