"""The options of the data: where they come from, and what is in their columns."""

from __future__ import annotations

from dataclasses import dataclass, field

from training.errors import UsageError
from training.settings.parsing import option, refuse_commas
from training.settings.ranges import refuse_out_of_range

LENGTH = 128  # of a text, in tokens, if nothing else is asked for
CHAT_LENGTH = 1024
QUOTINGS = ("auto", "double", "backslash", "none")
_SEPARATORS = {"tab": "\t", r"\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


@dataclass
class FileArguments:
    """How text files are read, where they do not say it themselves."""

    _argument_group_name = "files"

    encoding: str | None = option(
        None, "Encoding of text files, such as cp1252. If unset, UTF-8, or what their first bytes say."
    )
    separator: str | None = option(
        None, "Separator of the fields of csv and tsv files, such as ; or tab; found from the header if unset."
    )
    quoting: str = option(
        "auto",
        'Quotation marks in csv and tsv files. double: they enclose fields, and "" is one inside; backslash: so is '
        '\\"; none: they are part of the texts; auto: double or none, if only one of them fits the file.',
    )
    column_names: list[str] | None = field(
        default=None, metadata={"help": "Names of the columns, for csv, tsv and xlsx files that have no header."}
    )

    def __post_init__(self) -> None:
        refuse_commas("column_names", self.column_names)
        if self.quoting not in QUOTINGS:
            raise UsageError(f"--quoting got {self.quoting!r}; choose one of: {', '.join(QUOTINGS)}")
        if self.separator is not None:
            self.separator = _SEPARATORS.get(self.separator, self.separator)
            if len(self.separator) != 1 or self.separator in '"\r\n\\':
                raise UsageError(f"--separator got {self.separator!r}; it must be one character, such as ; or tab")
        try:
            "".encode(self.encoding or "utf-8")
        except (LookupError, ValueError) as error:
            raise UsageError(
                f"--encoding got {self.encoding!r}; it must be an encoding of Python, such as utf-8, utf-16 or cp1252"
            ) from error


@dataclass
class DataArguments(FileArguments):
    """Where the data come from, and how much of them is used."""

    _argument_group_name = "data"

    dataset: str | None = option(
        None,
        "A .csv, .tsv, .xlsx, .json, .jsonl, .parquet or .conll file, also as .gz, a folder, or a name for "
        "datasets.load_dataset.",
    )
    dataset_config: str | None = option(None, "Configuration of a data set on the Hub.")
    validation_data: str | None = option(None, "Another file to validate on. If unset, a split or a part of --dataset.")
    test_data: str | None = option(None, "Another file to test on, once, after training.")
    train_split: str = option("train", "Split of the data set to train on.")
    validation_split: str | None = option(None, "Split to validate on. If unset, validation, dev, valid or val.")
    test_split: str | None = option(None, "Split to test on. If unset, test, if there is one.")
    validation_fraction: float = option(
        0.1, "Fraction of the training data to validate on if there is no other validation data."
    )
    num_train_samples: int | None = option(None, "Use this many training samples, drawn with --sample_seed.")
    num_train_samples_per_class: int | None = option(
        None, "Use this many training samples of each class, or all of a class that has fewer."
    )
    num_validation_samples: int | None = option(None, "Use this many validation samples.")
    num_test_samples: int | None = option(None, "Use this many test samples.")
    sample_seed: int = option(0, "Seed of these draws and of the validation split.")
    label_column: str | None = option(None, "Column with the labels: classes, numbers or tags. Default: label.")

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_out_of_range(self)
        if not 0 < self.validation_fraction < 1:
            raise UsageError(f"--validation_fraction got {self.validation_fraction}; it must lie between 0 and 1")
        for name in ("num_train_samples", "num_train_samples_per_class", "num_validation_samples", "num_test_samples"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} got {value}; it must be at least 1, or left out for all samples")


@dataclass
class TextDataArguments(DataArguments):
    """Texts and what is to be predicted from them."""

    task: str = option("classification", "What is predicted: one of the tasks listed above.")
    glue: str | None = option(None, "A GLUE task by name (cola, sst2, mrpc, qqp, stsb, mnli, qnli, rte, wnli).")
    text_column: str = option("text", "Column with the text, or with the words for token_classification.")
    text_pair_column: str | None = option(None, "Column with a second text, for pairs of sentences.")
    label_columns: list[str] | None = field(
        default=None,
        metadata={"help": "multilabel: columns with 1 and 0, one for each label, instead of one of lists."},
    )
    target_column: str | None = option(
        None,
        "seq2seq: column with the text to generate. causal_lm: column with what follows the text; only it has a loss.",
    )
    max_length: int | None = option(
        None, "Length in tokens to which texts are cut (prompts of causal_lm lose their beginning). If unset, 128, or "
        "1024 for chat and dpo, and no more than the model takes."
    )  # fmt: skip
    chat_template: str | None = option(
        None, "chat, dpo: a .jinja file with the chat template, for a tokenizer that has none."
    )
    packing: bool = option(False, "chat: pack several conversations into each row of --max_length tokens.")
    general_text: str | None = option(
        None, "causal_lm, chat: a file with another kind of text, in its column text. Each evaluation measures on it "
        "how far the model has drifted from its base."
    )  # fmt: skip
    beta: float = option(0.1, "dpo: how close the model stays to the one before training; higher is closer.")
    predict_with_generate: bool = option(
        False, "seq2seq: also generate texts at each evaluation and compare them with the targets (ROUGE-L, BLEU)."
    )
    num_beams: int = option(1, "Number of beams for generating; 1 is greedy.")
    max_new_tokens: int | None = option(None, "Maximum number of tokens to generate; --max_length if unset.")
    metrics: list[str] | None = field(
        default=None,
        metadata={"help": "Metrics by name, the most important first; if unset, the usual ones of the task."},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_commas("metrics", self.metrics)
        refuse_commas("label_columns", self.label_columns)
        if self.label_column and self.label_columns:
            raise UsageError("--label_column and --label_columns exclude each other; pass one of them")
        if not self.beta > 0:
            raise UsageError(f"--beta got {self.beta}; it must be above 0")
        if self.max_length is not None and self.max_length < 2:
            raise UsageError(f"--max_length got {self.max_length}; a text needs at least 2 tokens")
        for name in ("num_beams", "max_new_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"--{name} got {value}; it must be at least 1")

    @property
    def length(self) -> int:
        """Return after how many tokens a text is cut off."""
        return self.max_length or self.usual_length

    @property
    def usual_length(self) -> int:
        """Return `length` where none was passed; models with fewer places take less."""
        return CHAT_LENGTH if self.task in ("chat", "dpo") else LENGTH


@dataclass
class ImageDataArguments(DataArguments):
    """Images with a class each: a folder with a folder for each class, or a data set."""

    image_column: str = option("image", "Column with the image, or with its path relative to the folder of the file.")
    skip_unreadable: bool = option(False, "Leave out images that cannot be read, instead of stopping.")
    metrics: list[str] | None = field(
        default=None, metadata={"help": "Metrics by name, the most important first; if unset, accuracy and f1_macro."}
    )
