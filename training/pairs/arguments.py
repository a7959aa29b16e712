"""The options of `deep-lora contrastive`: pairs, one model or two towers, and the method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import get_args

from modality.losses import Loss
from modality.models import Pooling, Projection
from modality.swapping import Per, SwapMode
from training.errors import UsageError
from training.settings.common import ModelArguments
from training.settings.data import DataArguments
from training.settings.parsing import option, refuse_commas

SCHEDULES = ("none", "constant", "linear", "cosine", "piecewise")
LEARNED_OR_FIXED = ("learnable", "softplus", "exp", "fixed")
SWAPS = ("none", *get_args(SwapMode))


@dataclass
class PairDataArguments(DataArguments):
    """Images with their texts, or texts with their texts: one pair in each row."""

    image_column: str = option(
        "image",
        "Column with the image: the data set's own, or a path (relative paths start at the folder of the file).",
    )
    text_column: str = option(
        "text", "Column with the text of the image, or a list of texts; for pairs of texts, the first one."
    )
    text_columns: list[str] | None = field(
        default=None,
        metadata={"help": "Several columns, each with a caption of the image, such as caption_1 caption_2. Each "
                          "caption makes a pair, like each caption of a list in --text_column."},
    )  # fmt: skip
    second_text_column: str | None = option(None, "Column with the second text, for pairs of two texts.")
    label_column: str | None = option(
        None, "Column that says what a pair shows. Pairs that show the same are not contrasted with each other. "
        "Without it, this holds for pairs with the same picture or the same text.",
    )  # fmt: skip
    max_length: int | None = option(
        None, "Length in tokens to which texts are cut. If unset, what the model takes, at most 128."
    )
    skip_unreadable: bool = option(False, "Leave out pairs whose image cannot be read, instead of stopping.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length is not None and self.max_length < 2:
            raise UsageError(f"--max_length got {self.max_length}; a text needs at least 2 tokens")
        refuse_commas("text_columns", self.text_columns)
        if self.text_columns and self.second_text_column:
            raise UsageError("--text_columns has several captions of an image; leave it or --second_text_column out")
        if self.label_column in (self.text_columns or ()):
            raise UsageError(f"--label_column {self.label_column} is one of --text_columns; name another column")
        if self.text_columns and self.text_column != "text":
            raise UsageError("--text_column and --text_columns exclude each other; pass one of them")


@dataclass
class PairModelArguments(ModelArguments):
    """A model of two modalities, or two models of one each."""

    model: str | None = option(
        None, "A model of images and texts (CLIP, SigLIP, ChineseCLIP, ...): a name on the Hub or a local folder."
    )
    text_model: str | None = option(
        None, "Instead of --model: the tower of the texts (for pairs of texts, of the first one)."
    )
    image_model: str | None = option(None, "The tower of the images, beside --text_model.")
    second_text_model: str | None = option(
        None, "The tower of the second texts; if unset, a second copy of --text_model."
    )
    projection: str = option(
        "linear", f"Projection of each of two towers to the common space: {', '.join(get_args(Projection))}."
    )
    embedding_width: int = option(256, "Width of the common space of two towers.")
    text_pooling: str = option("mean", f"How a tower makes one vector of a text: {', '.join(get_args(Pooling))}.")
    image_pooling: str = option("mean", f"How a tower makes one vector of an image: {', '.join(get_args(Pooling))}.")
    freeze_text: bool = option(False, "No adapter in the text tower (for pairs of texts, in the first one).")
    freeze_image: bool = option(False, "No adapter in the image tower.")
    freeze_second_text: bool = option(False, "No adapter in the tower of the second texts.")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, choices in (("projection", Projection), ("text_pooling", Pooling), ("image_pooling", Pooling)):
            _choose(name, getattr(self, name), get_args(choices))
        if self.embedding_width < 1:
            raise UsageError(f"--embedding_width got {self.embedding_width}; it must be at least 1")

    def names(self) -> list[str]:
        return [name for name in (self.model, self.image_model, self.text_model, self.second_text_model) if name]


@dataclass
class MethodArguments:
    """Loss, temperature and swaps; see the package `modality`."""

    _argument_group_name = "method"

    loss: str = option("contrastive", f"{' or '.join(get_args(Loss))}: symmetric InfoNCE, or SigLIP's.")
    label_smoothing: float = option(0.0, "Fraction of each target that is spread over all pairs of the batch.")
    temperature: float | None = option(
        None,
        "Temperature, or its initial value if learned. If unset, the model's, or 0.07 for two towers (sigmoid: 0.1).",
    )
    temperature_mode: str | None = option(
        None, f"How the temperature is learned: {', '.join(LEARNED_OR_FIXED)}. If unset, learnable, as in CLIP."
    )
    temperature_scale: float = option(1.0, "s of --temperature_mode exp, where 1 / temperature = exp(nu / s).")
    temperature_rate: float = option(1.0, "Learning rate of the temperature relative to --learning_rate.")
    schedule: str = option(
        "none", f"A schedule for the temperature, which is then not learned: {', '.join(SCHEDULES[1:])}."
    )
    schedule_start: float = option(0.01, "linear: temperature at the start. cosine: the lower one.")
    schedule_end: float = option(0.05, "linear: temperature at the end. cosine: the higher one.")
    schedule_periods: float = option(5.0, "cosine: number of periods in the whole run.")
    schedule_points: list[str] | None = field(
        default=None, metadata={"help": "piecewise: points progress:temperature, such as 0:0.01 0.5:0.05 1:0.05."}
    )
    swap: str = option("none", f"Exchange features between the modalities now and then: {', '.join(SWAPS)}.")
    swap_probability: float = option(0.01, "Probability of a swap.")
    swap_per: str = option("step", "Draw once per step (for the whole batch) or per sample.")
    chunk_size: int | None = option(
        None, "Number of pairs whose activations are in memory at a time; costs one more forward pass. All if unset."
    )

    def __post_init__(self) -> None:
        _choose("loss", self.loss, get_args(Loss))
        _choose("schedule", self.schedule, SCHEDULES)
        _choose("swap", self.swap, SWAPS)
        _choose("swap_per", self.swap_per, get_args(Per))
        if self.temperature_mode is not None:
            _choose("temperature_mode", self.temperature_mode, LEARNED_OR_FIXED)
        if self.schedule != "none" and self.temperature_mode is not None:
            raise UsageError(
                f"--schedule {self.schedule} and --temperature_mode {self.temperature_mode} exclude each other: a "
                "temperature follows a schedule or is learned; pass one of them"
            )
        if self.schedule not in ("none", "constant") and self.temperature is not None:
            raise UsageError(f"--schedule {self.schedule} decides the temperature; leave --temperature out")
        if self.chunk_size is not None and self.chunk_size < 1:
            raise UsageError(f"--chunk_size got {self.chunk_size}; it must be at least 1, or left out")
        if not 0 <= self.temperature_rate:
            raise UsageError(f"--temperature_rate got {self.temperature_rate}; it must not be negative")


def _choose(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise UsageError(f"--{name} got {value!r}; choose one of: {', '.join(choices)}")
