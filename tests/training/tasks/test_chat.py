"""Conversations: what is learned from them, in every format, and runs that resume, pack and are saved as LoRA."""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file
from transformers import AutoTokenizer

pytest.importorskip("trl", reason="TRL needs Python 3.11")  # declared so in setup.cfg

from tests.models import disturb_
from tests.training import chats, tiny
from training.commands.finetune import TYPES, build_job
from training.data import load_splits
from training.errors import UsageError
from training.job import IGNORED
from training.reading.conversations import turns_of
from training.runner import build_trainer, evaluate
from training.settings.data import TextDataArguments
from training.settings.parsing import parse
from training.tasks.chat import chat_columns, conversation_of
from training.trainer import digests
from training.trainer.chat import Encoder

FORMATS = ("messages", "ShareGPT", "Alpaca", "prompt and completion", "turns of prompt and completion")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chats.save_chat_model(tmp_path_factory.mktemp("chat"))


@pytest.fixture
def data(tmp_path):
    return chats.save_rows(tmp_path / "chats.jsonl", [{"messages": chats.turns(seed)} for seed in range(24)])


def said(tokenizer, labels: list[int]) -> str:
    return tokenizer.decode([label for label in labels if label != IGNORED])


@pytest.mark.parametrize("template", [chats.TEMPLATE, chats.MARKED])
def test_what_the_assistant_says_is_learned_and_nothing_else(template, model) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    found = chats.turns(3, rounds=3)
    ids, labels = Encoder(tokenizer, template)(found, [])
    wanted = " ".join(f"{one['content']} </s>" for one in found if one["role"] == "assistant")
    assert len(ids) == len(labels) and said(tokenizer, labels) == wanted
    assert all(label in (IGNORED, token) for label, token in zip(labels, ids, strict=True))


def set_up(model, path, folder, *words: str):
    """Job and Trainer of a run before its first step, which validates on the data that it trains on."""
    options = ["--model", model, "--dataset", path, "--validation_data", path, "--output_dir", folder, "--task", "chat"]
    job = build_job(*parse(TYPES, [*map(str, options), *tiny.QUICK, *words], command="finetune", description=""))
    return job, build_trainer(job, job.task.build_model(job), {})


def as_read(value: object) -> str:
    """What the reader keeps of a cell: JSON, with turns in OpenAI's terms."""
    return json.dumps(turns_of(value) if isinstance(value, list) else value)


def test_all_formats_hold_the_same_conversation(tmp_path, model, finetune) -> None:
    encoder = Encoder(AutoTokenizer.from_pretrained(model), None)
    found = []
    for kind in FORMATS:
        path = chats.save_rows(tmp_path / "rows.jsonl", chats.rows(kind))
        status, printed = finetune(model, path, "--task", "chat", "--dry_run")
        assert status == 0 and "18 train, 2 validation" in printed, printed
        held = {name: as_read(value) for name, value in chats.rows(kind)[0].items()}
        held |= {name: chats.rows(kind)[0][name] for name in ("instruction", "output") if name in held}
        found.append(encoder(*conversation_of(held)))
    assert all(one == found[0] for one in found)


def test_an_input_of_alpaca_follows_its_instruction_and_a_system_text_comes_first() -> None:
    row = {"instruction": "sum", "input": '"1 2"', "output": "3", "system": '"be brief"'}
    turns, tools = conversation_of(row)
    assert [one["content"] for one in turns] == ["be brief", "sum\n\n1 2", "3"] and tools == []
    assert [one["role"] for one in turns] == ["system", "user", "assistant"]


def test_a_run_writes_an_adapter_a_held_out_loss_and_answers(model, data, finetune, tmp_path) -> None:
    status, printed = finetune(model, data, "--task", "chat")
    assert status == 0, printed
    found = tiny.results(tmp_path / "run")
    metrics = found["metrics"]["validation"]
    assert metrics["perplexity"] == pytest.approx(math.exp(metrics["loss"])) and found["main_metric"] == "perplexity"
    assert [set(one) for one in found["answers"]] == [{"turns", "answer", "generated"}] * 2
    adapted = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "run" / "adapter").eval()
    assert adapted.peft_config["default"].peft_type == "LORA"
    total, count = 0.0, 0  # the definition: the mean over all tokens of all held-out answers
    encoder = Encoder(AutoTokenizer.from_pretrained(model), None)
    for one in found["answers"]:
        ids, labels = encoder([*one["turns"], {"role": "assistant", "content": one["answer"]}], [])
        earlier = sum(label != IGNORED for label in labels[1:])
        with torch.no_grad():
            loss = adapted(torch.tensor([ids]), labels=torch.tensor([labels])).loss
        total, count = total + loss.item() * earlier, count + earlier
    assert metrics["loss"] == pytest.approx(total / count, rel=1e-5)


@pytest.mark.parametrize(
    ("task", "kind", "metric"), [("chat", "messages", "perplexity"), ("dpo", "preferences", "rewards/accuracies")]
)
def test_runs_end_early_by_the_metrics_of_their_task(task, kind, metric, model, finetune, tmp_path) -> None:
    """Without steps, no evaluation is better than the first."""
    data = chats.save_rows(tmp_path / "rows.jsonl", chats.rows(kind))
    words = ["--task", task, "--early_stopping_patience", "1", "--metric_for_best_model", metric, "--max_steps", "5"]
    words += ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    status, printed = finetune(model, data, *words, "--learning_rate", "0", "--path_length", "0", "--init_batches", "0")
    assert status == 0 and tiny.results(tmp_path / "run")["steps"] == 2, printed


@pytest.mark.parametrize(("task", "kind"), [("chat", "messages"), ("dpo", "preferences")])
def test_what_the_length_cuts_off_is_told(task, kind, model, finetune, tmp_path) -> None:
    data = chats.save_rows(tmp_path / "rows.jsonl", chats.rows(kind))  # 14 tokens each
    with pytest.warns(UserWarning, match="18 of 18 train texts are longer than --max_length; 18 tokens are cut off"):
        status, printed = finetune(model, data, "--task", task, "--max_length", "13", "--dry_run")
    assert status == 0, printed
    status, printed = finetune(model, data, "--task", task, "--max_length", "12", "--dry_run")
    assert status == 2 and "has an answer that begins within --max_length 12 tokens" in printed
    status, printed = finetune(model, data, "--task", task, "--label_smoothing_factor", "0.1", "--dry_run")
    assert status == 2 and f"--label_smoothing_factor smooths classes; --task {task} has none" in printed


def test_turns_in_a_column_of_any_name_have_their_tools_and_system_text(tmp_path) -> None:
    path = chats.save_rows(tmp_path / "rows.jsonl", [{"turns": chats.turns(0), "tools": [], "system": "be brief"}])
    found = chat_columns(TextDataArguments(task="chat", dataset=str(path), text_column="turns"))
    assert [one.name for one in found] == ["turns", "tools", "system"]
    row = {"messages": chats.turns(0, system=False), "system": "be brief"}
    path = str(chats.save_rows(tmp_path / "messages.jsonl", [row]))
    data = TextDataArguments(task="chat", dataset=path, validation_data=path)
    turns, _ = conversation_of(load_splits(data, chat_columns(data))["train"][0])
    assert turns[0] == {"role": "system", "content": "be brief"} and turns[1:] == row["messages"]


def test_a_run_that_was_stopped_ends_as_one_that_was_not(model, data, finetune, tmp_path) -> None:
    words = ("--task", "chat", "--save_strategy", "steps", "--save_steps", "1")
    assert finetune(model, data, *words)[0] == 0
    run = tmp_path / "run"
    whole = load_file(run / "adapter" / "deep_lora" / "adapter_model.safetensors")
    shutil.rmtree(run / "checkpoint-3")
    shutil.rmtree(run / "adapter")
    status, printed = finetune(model, data, *words)
    assert status == 0 and "resumed  from checkpoint-2" in printed, printed
    again = load_file(run / "adapter" / "deep_lora" / "adapter_model.safetensors")
    assert whole.keys() == again.keys() and all(torch.equal(whole[name], again[name]) for name in whole)
    assert not (run / "README.md").exists()  # TRL's card
    status, printed = finetune(model, data, *words, "--packing")
    assert status == 2 and "packing was False and is True" in printed


def test_packed_conversations_do_not_see_each_other(model, tmp_path) -> None:
    """Before the first step the loss of packed rows is that of the same conversations alone, at the end too."""
    rows = [{"messages": chats.turns(seed, 1, system=False)} for seed in range(24)]
    path = chats.save_rows(tmp_path / "short.jsonl", rows)
    losses, counts = [], []
    for words in ((), ("--packing",)):
        job, trainer = set_up(model, path, tmp_path / "run", "--max_length", "64", *words)
        losses += [trainer.evaluate()["eval_loss"], evaluate(job, trainer)[0]["validation"]["loss"]]
        counts.append(len(trainer.eval_dataset))
    assert counts[0] == 24 and counts[1] < 24 and losses == pytest.approx(losses[:1] * 4, rel=1e-5)


def test_rows_that_a_loader_repeats_do_not_count(model, tmp_path, monkeypatch) -> None:
    """As if the second row of each batch were a repeat."""
    rows = [{"messages": chats.turns(seed, rounds, system=False)} for seed, rounds in enumerate((1, 3, 2, 1))]
    _, alone = set_up(model, chats.save_rows(tmp_path / "alone.jsonl", rows[::2]), tmp_path / "run")
    expected = alone.evaluate()["eval_loss"]
    path = chats.save_rows(tmp_path / "rows.jsonl", rows)
    _, trainer = set_up(model, path, tmp_path / "run", "--per_device_eval_batch_size", "2")
    monkeypatch.setattr("training.trainer.trainer.has_repeats", lambda *_: True)
    for module in ("trainer", "chat"):
        monkeypatch.setattr(f"training.trainer.{module}.valid_rows", lambda *_: 1)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-5)


def test_metrics_of_held_out_conversations_are_means_over_tokens_whatever_batch_they_are_in(model, tmp_path) -> None:
    rows = [{"messages": chats.turns(seed, rounds, system=False)} for seed, rounds in enumerate((1, 3, 2, 1, 4))]
    path, found = chats.save_rows(tmp_path / "rows.jsonl", rows), []
    for batch in ("1", "2", "5"):
        _, trainer = set_up(model, path, tmp_path / "run", "--per_device_eval_batch_size", batch)
        with torch.no_grad():
            disturb_(trainer.model, scale=5.0)
        found.append([trainer.evaluate()["eval_loss"], trainer.state.log_history[-1]["eval_entropy"]])
    assert found[1] == pytest.approx(found[0], rel=1e-6) and found[2] == pytest.approx(found[0], rel=1e-6)


def test_preferences_start_at_the_reference_and_are_learned(model, finetune, tmp_path) -> None:
    for kind in ("preferences", "preferences of whole conversations"):
        data = chats.save_rows(tmp_path / "pairs.jsonl", chats.rows(kind))
        status, printed = finetune(
            model, data, "--task", "dpo", "--overwrite", "--init_batches", "1", "--test_data", data
        )
        assert status == 0, printed
        found = tiny.results(tmp_path / "run")
        first = next(entry["loss"] for entry in found["log"] if "loss" in entry)
        assert first == pytest.approx(math.log(2), rel=1e-4)  # a fresh adapter is the reference
        tested = next(entry for entry in found["log"] if "test_loss" in entry)
        assert "test_rewards/accuracies" in tested and not any(name.startswith("eval_") for name in tested)
        assert "rewards/accuracies" in found["metrics"]["validation"] and found["main_metric"] == "rewards/accuracies"
        assert sorted(path.name for path in (tmp_path / "run" / "adapter").iterdir() if path.is_dir()) == ["deep_lora"]


def test_a_base_in_4_bits_keeps_its_adapter_in_full_precision(model, data, finetune, tmp_path) -> None:
    pytest.importorskip("bitsandbytes")
    base = tmp_path / "wide"
    shutil.copytree(model, base)
    tiny.save_llama(base, width=64)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = chats.TEMPLATE
    tokenizer.save_pretrained(base)
    status, printed = finetune(base, data, "--task", "chat", "--load_in_4bit")
    assert status == 0, printed
    saved = load_file(tmp_path / "run" / "adapter" / "deep_lora" / "adapter_model.safetensors")
    assert {tensor.dtype for name, tensor in saved.items() if "deep_lora_core" in name} == {torch.float32}


def test_a_base_without_a_template_takes_one_from_a_file(data, finetune, tmp_path) -> None:
    base = chats.save_chat_model(tmp_path / "base", template=None)
    (tmp_path / "chat.jinja").write_text(chats.TEMPLATE)
    status, printed = finetune(base, data, "--task", "chat", "--chat_template", tmp_path / "chat.jinja")
    assert status == 0, printed
    assert AutoTokenizer.from_pretrained(tmp_path / "run" / "adapter").chat_template == chats.TEMPLATE
    for name, text, expected in (("moved", chats.TEMPLATE, 0), ("chat", chats.MARKED, 2)):
        path = tmp_path / f"{name}.jinja"
        path.write_text(text)
        status, printed = finetune(base, data, "--task", "chat", "--chat_template", path, "--dry_run")
        assert status == expected and ("holds the results of another run" in printed) == bool(expected), printed


def test_a_local_model_with_another_chat_template_is_another_model(model, tmp_path) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    assert digests.of_models({"model": str(other)}) == digests.of_models({"model": str(model)})
    chats.save_chat_model(other, chats.MARKED)
    assert digests.of_models({"model": str(other)}) != digests.of_models({"model": str(model)})


# ---- models and templates that cannot --------------------------------------------------------------------------------

WORDS = "['good', 'bad', 'great', 'fine', 'best', 'poor', 'dull', 'worst']"
CHANGING = "{{ " + WORDS + "[messages | length] }} {% for m in messages %}{{ m['content'] + ' ' }}{% endfor %}"
REFUSING = "{{ raise_exception('System role not supported') if messages[0]['role'] == 'system' }}" + chats.TEMPLATE


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template, so the model cannot chat; pass a model that was trained to"),
        (CHANGING, "the chat template changes earlier turns once a conversation continues, and does not"),
        (REFUSING, "refuses a conversation of system, user, assistant.*: System role not supported"),
        ("{{ messages[0]['content'] + 3 }}", "the chat template refuses a conversation of"),
        ("{% generation %}{% endgeneration %}x", r"marks nothing as the assistant's \(between generation"),
    ],
)
def test_a_template_that_cannot_is_refused(template, message, model) -> None:
    tokenizer = AutoTokenizer.from_pretrained(model)
    tokenizer.chat_template = None
    with pytest.raises(UsageError, match=message):
        Encoder(tokenizer, template)(chats.turns(0), [])
