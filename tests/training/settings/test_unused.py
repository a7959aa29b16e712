"""Options without effect are refused, and numbers that cannot work, before anything is loaded."""

from __future__ import annotations

import importlib

import pytest

from training.cli import COMMANDS, find_command, main
from training.commands.predict import PredictArguments
from training.commands.push import PushArguments
from training.pairs.arguments import MethodArguments, PairDataArguments, PairModelArguments
from training.settings.adapter import AdapterArguments
from training.settings.common import HeadArguments, ModelArguments, RunArguments
from training.settings.data import TextDataArguments
from training.settings.parsing import option_names, parse
from training.settings.unused import RULES, refuse_unused

FINETUNE = (ModelArguments, AdapterArguments, TextDataArguments, HeadArguments, RunArguments)
PAIRS = (PairModelArguments, AdapterArguments, PairDataArguments, MethodArguments, RunArguments)


def refused(words, capsys, command="finetune"):
    """The sentence with which the command ends, before it looks for a model or data."""
    status = main([command, *words.split(), "--use_cpu", "true"])
    printed = capsys.readouterr().err
    assert status == 2 and "Traceback" not in printed
    return printed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            "--adapter lora --depth 3",
            "--depth has no effect here; it needs --adapter deep_lora. Leave it out, or change",
        ),
        ("--adapter lora --freeze-subspaces", "--freeze_subspaces has no effect here; it needs --adapter deep_lora"),
        ("--adapter lora --init_batches=4", "--init_batches has no effect here; it needs --adapter deep_lora"),
        ("--lora_alpha 16", "--lora_alpha has no effect here; it needs --adapter lora; deep_lora has no alpha"),
        ("--adapter_config x.json --rank 8", "--rank has no effect here; it needs no --adapter_config, whose file has"),
        ("--head_scale 5", "--head_scale has no effect here; it needs --normalized_head"),
        ("--num_beams 4", "--num_beams has no effect here; it needs --predict_with_generate"),
        ("--target_column x", "--target_column has no effect here; it needs --task causal_lm or seq2seq"),
        (
            "--task causal_lm --text_pair_column x",
            "--text_pair_column has no effect here; it needs --task classification",
        ),
        ("--task causal_lm --metrics f1", "--metrics has no effect here; it needs a --task with labels"),
        ("--task chat --metrics f1", "--metrics has no effect here; it needs a --task with labels"),
        ("--task dpo --label_column x", "--label_column has no effect here; it needs a --task with labels"),
        ("--task dpo --text_column x", "--text_column has no effect here; it needs another task; dpo has prompt, "),
        ("--task dpo --packing", "--packing has no effect here; it needs --task chat"),
        ("--task chat --beta 0.2", "--beta has no effect here; it needs --task dpo"),
        ("--task causal_lm --chat_template x", "--chat_template has no effect here; it needs --task chat or dpo"),
        ("--glue sst2 --text_column review", "--text_column has no effect here; it needs no --glue, whose tasks have"),
        ("--glue sst2 --task regression", "--task has no effect here; it needs no --glue"),
        ("--hub_model_id me/x", "--hub_model_id has no effect here; it needs --push_to_hub"),
        ("--eval_steps 10", "--eval_steps has no effect here; it needs --eval_strategy steps"),
        ("--save_steps 10", "--save_steps has no effect here; it needs --save_strategy steps"),
        (
            "--logging_strategy epoch --logging_steps 5",
            "--logging_steps has no effect here; it needs --logging_strategy",
        ),
        ("--metric_for_best_model f1", "--metric_for_best_model has no effect here; it needs --load_best_model_at_end"),
        (
            "--overwrite --resume_from_checkpoint x",
            "--resume_from_checkpoint has no effect here; it needs no --overwrite",
        ),
        (
            "--validation_data x --validation_fraction 0.2",
            "--validation_fraction has no effect here; it needs no other",
        ),
        ("--model . --revision main", "--revision has no effect here; it needs a model on the Hub, and not a folder"),
        (
            "--dataset setup.cfg --dataset_config en",
            "--dataset_config has no effect here; it needs a data set on the Hub, not",
        ),
        ("--do_predict true", "--do_predict has no effect here; it needs another command: deep-lora predict"),
        ("--do_train false", "--do_train has no effect here; it needs nothing: a run always trains"),
    ],
)
def test_an_option_that_would_have_no_effect_is_refused(words, told, capsys) -> None:
    assert told in refused(words, capsys)


@pytest.mark.parametrize(
    "words",
    [
        "--schedule_start 0.1", "--schedule linear --schedule_periods 2", "--schedule linear --schedule_points 0:1",
        "--swap_per step", "--temperature_scale 2", "--schedule linear --temperature_rate 0.1",
        "--model x --embedding_width 8", "--text_model x --image_pooling first",
        "--text_model x --projection none --embedding_width 8",
    ],
)  # fmt: skip
def test_so_are_those_of_pairs(words, capsys) -> None:
    assert f"--{words.split()[-2].removeprefix('--')} has no effect here; it needs " in refused(
        words, capsys, "contrastive"
    )


def test_options_that_have_an_effect_are_taken() -> None:
    words = (
        "--adapter lora --lora_alpha 4 --rank 2 --normalized_head --head_scale 5 --eval_strategy steps --eval_steps 5"
    )
    parsed = parse(FINETUNE, [*words.split(), "--use_cpu", "true"], command="finetune", description="")
    assert [one.lora_alpha for one in parsed if hasattr(one, "lora_alpha")] == [4]
    words = "--schedule cosine --schedule_start 0.1 --schedule_periods 2 "
    words += "--text_model x --image_model y --image_pooling first"
    parse(PAIRS, [*words.split(), "--use_cpu", "true"], command="contrastive", description="")
    parse((PushArguments,), ["--hub_model_id", "me/x"], command="push", description="")
    parse((PredictArguments,), ["--max_new_tokens", "5", "--text_column", "x"], command="predict", description="")
    refuse_unused(set(), [])


def test_every_rule_is_about_an_option_that_there_is() -> None:
    modules = [importlib.import_module(find_command(name)) for name in COMMANDS]
    known = {name for module in modules for name in option_names(getattr(module, "TYPES", ()))}
    assert {name for rule in RULES for name in rule.options} <= known


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--per_device_train_batch_size 0", "--per_device_train_batch_size got 0; it must be a number at least 1"),
        ("--per_device_train_batch_size -4", "--per_device_train_batch_size got -4"),
        ("--gradient_accumulation_steps 0", "--gradient_accumulation_steps got 0"),
        ("--seed -1", "--seed got -1; it must be a number from 0 to 4294967295"),
        ("--seed 99999999999", "--seed got 99999999999"),
        ("--sample_seed -1", "--sample_seed got -1"),
        ("--num_train_epochs 0", "--num_train_epochs got 0.0; it must be a number above 0"),
        ("--num_train_epochs -1", "--num_train_epochs got -1.0"),
        ("--num_train_epochs nan", "--num_train_epochs got nan"),
        ("--learning_rate -1", "--learning_rate got -1.0; it must be a number at least 0"),
        ("--learning_rate inf", "--learning_rate got inf"),
        ("--max_steps 0", "--max_steps got 0; it must be at least 1, or left out to train whole epochs"),
        ("--max_steps -3", "--max_steps got -3"),
        ("--save_total_limit 0", "--save_total_limit got 0"),
    ],
)
def test_numbers_that_cannot_work_are_refused_with_their_range(words, told, capsys) -> None:
    assert told in refused(words, capsys)


@pytest.mark.parametrize(
    ("metric", "larger"),
    [("perplexity", False), ("eval_mse", False), ("accuracy", True), ("loss", False), ("gap", False)],
)
def test_the_best_model_has_the_smallest_of_what_should_be_small(metric, larger) -> None:
    settings = {"output_dir": "x", "use_cpu": True, "metric_for_best_model": metric}
    assert RunArguments(**settings).greater_is_better is larger
    assert RunArguments(**settings, greater_is_better=True).greater_is_better is True
