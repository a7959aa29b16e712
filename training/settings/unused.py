"""Options that would have no effect beside the others: each is refused, so that nobody takes it for done."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from training.errors import UsageError

Settings = Mapping[str, Any]


class Rule(NamedTuple):
    """Options, when they have an effect, and what they need for it, as in "--depth needs --adapter deep_lora"."""

    options: tuple[str, ...]
    works: Callable[[Settings], bool]
    needs: str


def _one_of(name: str, *values: object) -> Callable[[Settings], bool]:
    """Tell whether an option has one of these values; an option that the command does not have forbids nothing."""
    return lambda settings: name not in settings or settings[name] in values


def _given(*names: str) -> Callable[[Settings], bool]:
    return lambda settings: any(settings.get(name) for name in names)


def _without(*names: str) -> Callable[[Settings], bool]:
    return lambda settings: not any(settings.get(name) for name in names)


def _ranks_checkpoints(settings: Settings) -> bool:
    return bool(
        settings["load_best_model_at_end"]
        or settings["lr_scheduler_type"] == "reduce_lr_on_plateau"
        or settings["save_strategy"] == "best"
    )


_IN_THE_FILE = ("rank", "target_modules", "exclude_modules", "adapter_dropout", "depth", "freeze_subspaces",
                "lora_alpha", "adapter")  # fmt: skip
RULES = (
    Rule(_IN_THE_FILE, _without("adapter_config"), "no --adapter_config, whose file has fields for it"),
    Rule(("depth", "freeze_subspaces"), _one_of("adapter", "deep_lora"), "--adapter deep_lora"),
    Rule(("init_batches",), lambda s: s["adapter"] == "deep_lora" or s["adapter_config"], "--adapter deep_lora"),
    Rule(("lora_alpha",), _one_of("adapter", "lora"), "--adapter lora; deep_lora has no alpha"),
    Rule(("head_scale",), _given("normalized_head"), "--normalized_head"),
    Rule(("num_beams", "max_new_tokens"), _one_of("predict_with_generate", True), "--predict_with_generate"),
    Rule(("target_column",), _one_of("task", "causal_lm", "seq2seq"), "--task causal_lm or seq2seq"),
    Rule(
        ("text_pair_column",),
        _one_of("task", "classification", "regression", "multilabel"),
        "--task classification, regression or multilabel",
    ),
    Rule(("label_columns",), _one_of("task", "multilabel"), "--task multilabel"),
    Rule(("text_column",), lambda s: s.get("task") != "dpo", "another task; dpo has prompt, chosen and rejected"),
    Rule(("general_text",), _one_of("task", "causal_lm", "chat"), "--task causal_lm or chat"),
    Rule(("ranks", "assume_linear"), lambda s: s.get("to") != "gguf", "--to lora"),
    Rule(("packing",), _one_of("task", "chat"), "--task chat"),
    Rule(("beta",), _one_of("task", "dpo"), "--task dpo"),
    Rule(("chat_template",), _one_of("task", "chat", "dpo"), "--task chat or dpo"),
    Rule(
        ("label_column", "metrics"),
        _one_of("task", "classification", "regression", "token_classification", "multilabel"),
        "a --task with labels: classification, regression, multilabel or token_classification",
    ),
    Rule(("task", "text_column", "text_pair_column"), _without("glue"), "no --glue, whose tasks have their own"),
    Rule(("hub_model_id", "hub_private_repo"), _one_of("push_to_hub", True), "--push_to_hub"),
    Rule(("eval_steps",), _one_of("eval_strategy", "steps"), "--eval_strategy steps"),
    Rule(("save_steps",), _one_of("save_strategy", "steps"), "--save_strategy steps"),
    Rule(("logging_steps",), _one_of("logging_strategy", "steps"), "--logging_strategy steps"),
    Rule(("metric_for_best_model", "greater_is_better"), _ranks_checkpoints, "--load_best_model_at_end"),
    Rule(("resume_from_checkpoint",), _without("overwrite"), "no --overwrite, which deletes all checkpoints"),
    Rule(("validation_fraction",), _without("validation_data", "validation_split"), "no other validation data"),
    Rule(("revision",), lambda s: not os.path.isdir(s.get("model") or ""), "a model on the Hub, and not a folder"),
    Rule(("dataset_config",), lambda s: not os.path.isfile(s["dataset"] or ""), "a data set on the Hub, not a file"),
    Rule(("do_train", "do_eval"), lambda s: False, "nothing: a run always trains and validates (--dry_run does not)"),
    Rule(("do_predict",), lambda s: False, "another command: deep-lora predict, after the training"),
    Rule(("schedule_start", "schedule_end"), _one_of("schedule", "linear", "cosine"), "--schedule linear or cosine"),
    Rule(("schedule_periods",), _one_of("schedule", "cosine"), "--schedule cosine"),
    Rule(("schedule_points",), _one_of("schedule", "piecewise"), "--schedule piecewise"),
    Rule(("swap_probability", "swap_per"), lambda s: s["swap"] != "none", "--swap"),
    Rule(("temperature_scale",), _one_of("temperature_mode", "exp"), "--temperature_mode exp"),
    Rule(
        ("temperature_rate",),
        lambda s: s["schedule"] == "none" and s["temperature_mode"] != "fixed",
        "a temperature that is learned",
    ),
    Rule(("projection", "embedding_width", "text_pooling", "image_pooling"), _without("model"), "two towers"),
    Rule(("image_pooling",), _given("image_model"), "--image_model"),
    Rule(("embedding_width",), lambda s: s["projection"] != "none", "a --projection"),
    Rule(("patience",), lambda s: s["validation_fraction"] > 0, "a --validation_fraction above 0"),
)  # fmt: skip


def refuse_unused(passed: set[str], groups: Sequence[Any]) -> None:
    """Raise if an option was passed that has no effect.

    Args:
        passed: names of the options that the user wrote.
        groups: dataclasses with the values of all options.

    Raises:
        UsageError: the text names the option and what it needs.
    """
    settings = {name: value for group in groups for name, value in vars(group).items()}
    for options, works, needs in RULES:
        for name in options:
            if name in passed and not works(settings):
                raise UsageError(f"--{name} has no effect here; it needs {needs}. Leave it out, or change the others")
