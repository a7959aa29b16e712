"""What cannot work is refused before anything is trained, with exit status 2 and a way out."""

from __future__ import annotations

import importlib.util
import json
import re

import pytest

from tests.training import tiny
from training.cli import main


def csv(tmp_path, **columns):
    return tiny.save_csv(tmp_path / "data.csv", **columns)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--text_column", "review"],
            r"no column \['review'\] in .*data.csv, only \['text', 'label'\]: choose with --text_",
        ),
        (["--label_column", "stars"], r"there is no column \['stars'\]"),
        (["--text_column", "label", "--label_column", "text"], "hardly classes; pass --task regression"),
        (["--task", "regression"], "column 'label' holds 'neg' in line 2 of .*data.csv; it must be a finite number"),
        (["--task", "poetry"], "--task got 'poetry'; choose one of: classification"),
        (["--task", "seq2seq"], "needs --target_column"),
        (["--task", "causal_lm", "--text_column", "none"], r"no column \['none'\] in .*: choose with --text_column"),
        (["--glue", "boolq"], "--glue got 'boolq'; the tasks are cola"),
        (["--adapter", "dora"], "--adapter got 'dora'; choose deep_lora or lora"),
        (
            ["--path_length", "-1"],
            "--path_length got -1.0; it must be a share of the weights' norms such as 0.12, or 0",
        ),
        (["--rank", "0"], "--rank got 0; it must be at least 1"),
        (["--adapter", "lora", "--lora_alpha", "0"], "--lora_alpha got 0; it must be a number at least 1"),
        (["--label_smoothing_factor", "1.5"], "--label_smoothing_factor got 1.5; it must be a number from 0 to 1"),
        (["--init_batches", "-1"], "--init_batches got -1"),
        (["--validation_fraction", "1.5"], "--validation_fraction got 1.5; it must lie between 0 and 1"),
        (["--num_train_samples", "0"], "--num_train_samples got 0; it must be at least 1"),
        (["--max_length", "1"], "--max_length got 1; a text needs at least 2 tokens"),
        (["--validation_split", "dev"], r"unknown split 'dev'; the data have \['train'\]"),
        (["--validation_data", "none.csv"], "file not found: none.csv"),
        (
            ["--load_in_4bit", "--load_in_8bit"],
            "--load_in_4bit and --load_in_8bit exclude each other; pass one of them",
        ),
        (["--rank", "many"], "argument --rank: invalid int value: 'many'; --help shows the options"),
        (["--dtype", "int3"], "--dtype got 'int3'; choose float32, bfloat16, float16 or auto"),
        (
            ["--metrics", "beauty"],
            "unknown local metric 'beauty'; choose one of accuracy.*, or pass --metric_source evaluate",
        ),
        (["--metrics", "beauty", "--metric_source", "evaluate"], "'beauty' cannot be loaded by evaluate"),
        (
            ["--target_modules", "query", "x"],
            "--target_modules got 'x', and the model has no layer of that name; its lay",
        ),
        (["--exclude_modules", "nothing"], "--exclude_modules got 'nothing', and the model has no layer of that name"),
        (["--modules_to_save", "nothing"], "--modules_to_save got 'nothing', and the model has no layer of that name"),
        (["--target_modules", "("], "the adapter does not fit the model: missing .*its linear layers are called"),
        (
            ["--adapter", "lora", "--target_modules", "encoder"],
            r"the adapter does not fit the model: Target module BertEncoder\(.* \.\.\. .*its linear layers are called",
        ),
        (["--adapter_dropout", "2"], "the adapter cannot be set up.*deep_lora_dropout"),
        (["--learning_rat", "1"], "unknown option --learning_rat; did you mean --learning_rate?"),
        (["--normalized_head", "--task", "causal_lm"], "--normalized_head needs classes to tell apart"),
        (["--normalized_head", "--head_scale", "-1"], "--normalized_head: `scale` must be positive"),
        (["--config"], "--config needs the name of a YAML or JSON file"),
        (["--config", "none.yaml"], "cannot read the settings in none.yaml"),
        (["--adapter_config", "none.json"], "cannot read --adapter_config none.json"),
        (
            ["--resume_from_checkpoint", "nowhere"],
            "--resume_from_checkpoint nowhere cannot be used: .*; leave it out to find one",
        ),
        (["--eval_strategy", "steps", "--eval_steps", "1.5"], "--eval_steps must be an integer"),
        (
            ["--dataloader_drop_last", "true", "--per_device_train_batch_size", "64"],
            "36 training samples do not fill a batch of 64, and --dataloader_drop_last .*pass a smaller --per_device",
        ),
        (["--max_length", "65"], "--max_length got 65; .* takes at most 64 tokens"),
        (
            [
                "--load_best_model_at_end",
                "true",
                "--eval_strategy",
                "epoch",
                "--save_strategy",
                "epoch",
                "--metric_for_best_model",
                "beauty",
            ],
            "--metric_for_best_model got 'beauty'; the metrics of this run are loss, accuracy, f1_macro",
        ),
        (["--batch_eval_metrics", "true"], "--batch_eval_metrics .* over all rows together; leave it out"),
    ],
)
def test_bad_arguments_end_with_status_2_and_a_way_out(words, message, bert, tmp_path, finetune) -> None:
    status, printed = finetune(bert, csv(tmp_path), *words)
    assert status == 2 and re.search(message, printed), printed
    assert "Traceback" not in printed and not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--adapter", "lora", "--adam_beta1", "2"], "the optimizer cannot be set up .*: Invalid beta parameter"),
        (
            ["--lr_scheduler_kwargs", '{"speed": 1}'],
            "the schedule .*--lr_scheduler_kwargs.*unexpected .*'speed'",
        ),
    ],
)
def test_what_the_libraries_refuse_ends_with_their_reason(words, message, bert, tmp_path, finetune) -> None:
    status, printed = finetune(bert, csv(tmp_path), *words)
    assert status == 2 and re.search(message, printed), printed
    assert "Traceback" not in printed and not (tmp_path / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("words", "package", "message"),
    [
        (["--report_to", "wandb"], "wandb", "the Trainer cannot be set up: .*pip install wandb"),
        (["--optim", "galore_adamw"], "galore_torch", "the optimizer cannot be set up .*install `galore_torch`"),
    ],
)
def test_packages_that_an_option_needs_are_named(words, package, message, bert, tmp_path, finetune) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    status, printed = finetune(bert, csv(tmp_path), *words)
    assert status == 2 and re.search(message, printed), printed


def test_a_package_that_is_missed_only_when_training_begins_is_named(bert, tmp_path, finetune, monkeypatch) -> None:
    monkeypatch.setattr("training.settings.needs.is_liger_kernel_available", lambda: True)
    monkeypatch.setattr("training.runner.refuse_liger", lambda job, model: None)
    status, printed = finetune(bert, csv(tmp_path), "--use_liger_kernel", "true")
    if importlib.util.find_spec("liger_kernel") is None:
        assert status == 2 and re.search("the training cannot start: .*pip install liger-kernel", printed), printed


def test_smoothing_is_refused_where_there_are_no_classes(bert, finetune, tmp_path) -> None:
    scores = tiny.save_csv(tmp_path / "scores.csv", label=[row / 40 for row in range(40)])
    status, printed = finetune(bert, scores, "--task", "regression", "--label_smoothing_factor", "0.1")
    assert status == 2 and not (tmp_path / "run").exists()
    assert "--label_smoothing_factor smooths classes; --task regression has none, so leave it out" in printed


def test_defects_of_the_training_itself_are_not_taken_for_bad_arguments(bert, reviews, finetune, monkeypatch) -> None:
    def defective(*_, **__):
        raise ValueError("a defect")

    monkeypatch.setattr("transformers.Trainer.training_step", defective)
    with pytest.raises(ValueError, match="a defect"):
        finetune(bert, reviews)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty; it needs a header and at least one row"),
        ("text,label\n", "has no rows; at least one is needed"),
        ("text,label\ngood,1\n", "1 sample cannot be split into training and validation"),
        ("text,label\n" + "good film,1\n" * 9, r"holds 1 class \(\['1'\]\); at least 2 are needed"),
        (
            "text,label\n" + "good film,0.5\nbad film,0.25\n" * 9,
            "holds 0.5 in line 2 of .*bad.csv; real numbers are not class names: pass --task regression",
        ),
        (
            "text,label\n" + "good film,1\n,0\n" * 9,
            "column 'text' of .*bad.csv is empty in 9 of 18 rows, the first is line 3 of .*bad.csv; fill or drop them",
        ),
    ],
)
def test_bad_files_are_refused(content, message, bert, finetune, tmp_path) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    status, printed = finetune(bert, path)
    assert status == 2 and re.search(message, printed), printed


def test_an_empty_split_is_named(bert, finetune, monkeypatch) -> None:
    from datasets import Dataset, DatasetDict

    full = Dataset.from_dict({"text": ["good", "bad"] * 4, "label": [1, 0] * 4})
    empty = full.select([])
    monkeypatch.setattr("training.reading.sources.load_dataset", lambda *_: DatasetDict(train=full, validation=empty))
    status, printed = finetune(bert, "some/data")
    assert status == 2 and "the validation data have no rows; at least one is needed" in printed


def test_a_label_that_training_does_not_know_is_named(bert, reviews, finetune, tmp_path) -> None:
    other = tiny.save_csv(tmp_path / "other.csv", label=["neutral"] * 40)
    status, printed = finetune(bert, reviews, "--validation_data", other)
    assert status == 2 and "labels that the training data do not have: ['neutral']" in printed


def test_tags_and_words_must_be_as_many(bert, finetune, tmp_path) -> None:
    data = tiny.save_csv(tmp_path / "tags.csv", header="text,tags")
    status, printed = finetune(bert, data, "--task", "token_classification")
    assert status == 2 and "tags.csv has 7 in 'text' and 1 in 'tags'; each word needs one tag" in printed
    one = tiny.save_csv(tmp_path / "one.csv", header="text,tags", tags=["O " * 7] * 40)
    assert "holds 1 tag (['O']); at least 2 are needed" in finetune(bert, one, "--task", "token_classification")[1]
    two = tiny.save_csv(tmp_path / "two.csv", header="text,tags", tags=["O " * 6 + "A"] * 40)
    new = tiny.save_csv(tmp_path / "new.csv", header="text,tags", tags=["O " * 6 + "B"] * 40)
    printed = finetune(bert, two, "--task", "token_classification", "--validation_data", new)[1]
    assert "hold tags that the training data do not have: ['B']" in printed


def test_models_that_cannot_be_had_are_named(reviews, finetune, tmp_path, capsys) -> None:
    status, printed = finetune("no/such-model", reviews)
    assert status == 1 and "the configuration of no/such-model cannot be loaded: it is not a local folder, " in printed
    status, printed = finetune("./no/such/model", reviews)
    assert status == 2 and "./no/such/model cannot be loaded: there is no such folder, and no such name on" in printed
    assert main(["finetune", "--dataset", str(reviews)]) == 2
    assert "no model to fine-tune was given; pass --model" in capsys.readouterr().err


def test_a_model_without_a_head_of_this_kind_is_named(t5, bert, reviews, finetune, capsys) -> None:
    status, printed = finetune(bert, reviews, "--task", "seq2seq", "--target_column", "label")
    assert status == 2 and printed.endswith(
        "cannot be loaded for --task seq2seq: Bert models are not made for that; pass another one\n"
    )
    assert main(["finetune", "--model", str(bert)]) == 2
    assert "no training data were given; pass --dataset" in capsys.readouterr().err


def test_adapter_files_must_describe_a_method(bert, reviews, finetune, tmp_path) -> None:
    path = tmp_path / "adapter.yaml"
    path.write_text("peft_type: MAGIC\n")
    status, printed = finetune(bert, reviews, "--adapter_config", path)
    assert status == 2 and "must name a `peft_type`, one of" in printed and "DEEP_LORA" in printed


def test_files_of_saved_adapters_train_too(bert, reviews, finetune, tmp_path) -> None:
    """They say that nothing is trained (inference_mode); and one name is a list of one."""
    fields = {"peft_type": "LORA", "r": 2, "target_modules": ["query"], "task_type": "SEQ_CLS"}
    counts = []
    for more in ({}, {"inference_mode": True, "modules_to_save": "classifier"}):
        (tmp_path / "adapter.json").write_text(json.dumps(fields | more))
        status, printed = finetune(bert, reviews, "--adapter_config", tmp_path / "adapter.json", "--dry_run")
        assert status == 0, printed
        counts.append(re.search(r"([\d,]+) trained parameters", printed)[1])
    assert counts[0] == counts[1]


def test_config_files_must_map_known_names(bert, reviews, finetune, tmp_path) -> None:
    path = tmp_path / "settings.json"
    path.write_text('{"rnak": 4}')
    assert "names unknown options ['rnak']; did you mean 'rank'?" in finetune(bert, reviews, "--config", path)[1]
    path.write_text("[1]")
    assert "holds a list; it must map names of options" in finetune(bert, reviews, "--config", path)[1]


def test_a_data_set_of_an_unknown_kind_is_refused(bert, finetune, tmp_path) -> None:
    path = tmp_path / "data.docx"
    path.write_text("x")
    assert "ends in '.docx'; the formats that can be read are .csv" in finetune(bert, path)[1]
    assert "the data set no/such-data cannot be loaded" in finetune(bert, "no/such-data")[1]


def test_hidden_test_labels_are_left_out(bert, finetune, tmp_path) -> None:
    train = tiny.save_csv(tmp_path / "train.csv", label=[i % 2 for i in range(40)])
    test = tiny.save_csv(tmp_path / "test.csv", label=[-1] * 40)
    with pytest.warns(UserWarning, match="labels of the test split are hidden"):
        status, _ = finetune(bert, train, "--test_data", test)
    assert status == 0 and "test" not in tiny.results(tmp_path / "run")["metrics"]


def test_an_unknown_metric_falls_back_to_its_local_equal_offline(bert, reviews, finetune, tmp_path) -> None:
    with pytest.warns(UserWarning, match="evaluate cannot load 'accuracy'"):
        status, _ = finetune(bert, reviews, "--metrics", "accuracy", "--metric_source", "evaluate")
    assert status == 0 and "accuracy" in tiny.results(tmp_path / "run")["metrics"]["validation"]


def test_lists_are_no_classes(bert, finetune, tmp_path) -> None:
    rows = [{"text": "one", "label": [0, 1]}, {"text": "two", "label": [1]}] * 10
    (tmp_path / "lists.json").write_text("\n".join(map(json.dumps, rows)))
    status, printed = finetune(bert, tmp_path / "lists.json")
    assert (
        status == 2
        and "column 'label' holds [0, 1] in line 1 of" in printed
        and "it must hold one integer or text in each row" in printed
    )
