"""Fine-tuning, completing, converting and inspecting by one command each, from one CPU to many GPUs.

`deep-lora <command>` and `python -m training <command>` are the same. On several processes it is
`accelerate launch --no_python deep-lora <command>`, also in a folder that has a `training.py` of its own. From Python,
`finetune` does what the command of this name does.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from training.runner import TrainingResult

CONFIGS = Path(__file__).parent / "configs"
__all__ = ["CONFIGS", "finetune"]


def finetune(**settings: Any) -> TrainingResult:
    """Fine-tune a language model with an adapter, as `deep-lora finetune` does.

        result = training.finetune(model="distilbert-base-uncased", dataset="reviews.csv", output_dir="runs/reviews")
        result.metrics["validation"]["accuracy"]
        model = PeftModel.from_pretrained(base, result.adapter)

    It trains, validates, writes the adapter, its LoRA export, checkpoints, `results.json` and a figure to `output_dir`,
    and resumes a run that was stopped.

    Args:
        **settings: the options of the command by their names, such as `rank=16` for `--rank 16`, with lists for several
            words and True or False for switches; `deep-lora finetune --help` explains them. None leaves one out.

    Returns:
        The folders that were written, and the metrics.

    Raises:
        ValueError: an option is unknown or cannot work (`training.errors.UsageError`).
        RuntimeError: the run stopped: a loss that is not finite, no space on the disk, no network
            (`training.errors.RunError`).

    >>> finetune(rnak=8)
    Traceback (most recent call last):
        ...
    training.errors.UsageError: finetune names unknown options ['rnak']; did you mean 'rank'?
    """
    from training.commands import finetune as command  # here, since it imports torch and transformers

    return command.run(settings)
