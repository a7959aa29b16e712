"""Unsound conversations: each is refused by a sentence that names column, line and what is wrong."""

from __future__ import annotations

import json

import pytest

from tests.training import chats, tiny
from tests.training.chats import save_rows
from training.errors import UsageError
from training.settings.data import TextDataArguments
from training.tasks.registry import load_task

pytest.importorskip("trl", reason="TRL needs Python 3.11")  # declared so in setup.cfg

U, A, S = ({"role": role, "content": f"a {role}"} for role in ("user", "assistant", "system"))
CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
RESULT = {"role": "tool", "content": "3"}


def human(text: object = "hi", who: str = "human") -> dict:
    return {"from": who, "value": text}


MESSAGES: dict[str, tuple[object, str]] = {
    "a text": ("hello", "a list of turns should be JSON, and is not"),
    "a number": (3, "it must be a list of turns, not a number"),
    "an object": (U, "it must be a list of turns, not an object"),
    "no turns": ([], "the conversation has no turns"),
    "a turn that is a text": ([U, "hi"], "turn 2 is a text, not an object with a role and a content"),
    "a turn that is nothing": ([None, A], "turn 1 is nothing, not an object"),
    "a turn without a role": ([{"content": "hi"}, A], "turn 1 has no role (it has content)"),
    "a turn with nothing": ([{}, A], "turn 1 has no role (it has nothing)"),
    "an unknown role": ([{"role": "bot", "content": "hi"}, A], "turn 1 has the role 'bot'; known are developer"),
    "a role that is a number": ([{"role": 1, "content": "hi"}, A], "turn 1 has the role '1'; known are"),
    "no content": ([U, {"role": "assistant"}], "turn 2 has no content"),
    "a content of a number": ([U, {"role": "assistant", "content": 3}], "the content of turn 2 must be a text"),
    "a picture": ([{"role": "user", "content": [{"type": "image_url"}]}, A], "turn 1 holds parts of the kind image"),
    "a part that is a number": ([{"role": "user", "content": [3]}, A], "turn 1 holds parts of the kind a number"),
    "an empty turn": ([{"role": "user", "content": ""}, A], "turn 1, of the user, is empty"),
    "a blank answer": ([U, {"role": "assistant", "content": " \n"}], "turn 2, of the assistant, is empty"),
    "two users": ([U, U, A], "turns 1 and 2 are both the user's; join them"),
    "two assistants": ([U, A, A], "turns 2 and 3 are both the assistant's; join them"),
    "the assistant first": ([A, U, A], "turn 1, of the assistant, stands first; user and assistant must take turns"),
    "the assistant after the system": ([S, A], "turn 2, of the assistant, stands after a turn of the system"),
    "a system turn in the middle": ([U, A, S, U, A], "turn 3 is a system turn; it can only be the first"),
    "two system turns": ([S, S, U, A], "turn 2 is a system turn; it can only be the first"),
    "no assistant": ([S, U], "no turn is the assistant's, so there is nothing to learn"),
    "the user last": ([U, A, U], "the last turn is the user's; an answer of the assistant is missing"),
    "a tool last": ([U, CALL, RESULT], "the last turn is the tool's; an answer of the assistant is missing"),
    "a tool that nobody called": ([U, RESULT, A], "turn 2, of the tool, stands after a turn of the user"),
    "a user who calls a tool": ([U | {"tool_calls": CALL["tool_calls"]}, A], "turn 1 calls tools, but is of the user"),
    "calls that are not a list": (
        [U, CALL | {"tool_calls": "f()"}, RESULT, A], "the tool_calls of turn 2 are not a list of objects",
    ),
    "a call without a name": ([U, CALL | {"tool_calls": [{"function": {}}]}, RESULT, A], "of turn 2 names no function"),
    "arguments that are not JSON": (
        [U, CALL | {"tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}, RESULT, A],
        "the arguments of a tool call of turn 2 should be JSON, and is not",
    ),
    "a role that is a list": ([{"role": ["user"], "content": "hi"}, A], "turn 1 has the role \"['user']\"; known are"),
    "a kind that is a list": ([{"role": "user", "content": [{"type": ["text"]}]}, A], "parts of the kind ['text']"),
    "a part without a text": ([{"role": "user", "content": [{"type": "text"}]}, A], "a part of turn 1 must be a text"),
    "a part of a number": (
        [{"role": "user", "content": [{"type": "text", "text": 3}]}, A], "part of turn 1 must be a text, not a number",
    ),
    "a function that is a list": ([U, CALL | {"tool_calls": [{"function": [1]}]}, RESULT, A], "names no function"),
    "a function that is a text": ([U, CALL | {"tool_calls": [{"function": "f"}]}, RESULT, A], "names no function"),
    "arguments that are a list": (
        [U, CALL | {"tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}, RESULT, A],
        "the arguments of a tool call of turn 2 must be an object, not a list",
    ),
    "arguments that hold a number": (
        [U, CALL | {"tool_calls": [{"function": {"name": "f", "arguments": "3"}}]}, RESULT, A],
        "the arguments of a tool call of turn 2 must be an object, not a number",
    ),
    "thoughts that are a number": ([U, A | {"reasoning_content": 3}], "the reasoning_content of turn 2 must be a text"),
    "a turn that should not count": (
        [U, A | {"weight": 0}, U, A], "turn 2 has weight: 0; every turn of the assistant is learned, so drop",
    ),
    "a turn that is not trained on": ([U, A, U, A | {"train": False}], "turn 4 has train: False; every turn of the"),
    "a turn without a loss": ([U, A | {"loss": False}], "turn 2 has loss: False; every turn of the assistant is"),
    "half of a letter": ([U, {"role": "assistant", "content": "\ud83d"}], "holds half of a surrogate pair"),
}  # fmt: skip
SHAREGPT: dict[str, tuple[object, str]] = {
    "an unknown speaker": ([human(who="alien"), human(who="gpt")], "turn 1 has the role 'alien'; known are system"),
    "no value": ([{"from": "human"}, human(who="gpt")], "turn 1 has no content"),
    "gpt first": ([human(who="gpt"), human(), human(who="gpt")], "turn 1, of the assistant, stands first"),
    "two humans": ([human(), human(), human(who="gpt")], "turns 1 and 2 are both the user's; join them"),
    "the human last": ([human(), human(who="gpt"), human()], "the last turn is the user's"),
}  # fmt: skip
ROWS: dict[str, tuple[dict, str]] = {
    "two formats": (
        {"messages": [U, A], "instruction": "a", "output": "b"},
        "hold conversations in two formats (messages and Alpaca); leave the columns of one of them out",
    ),
    "no format": ({"question": "a", "reply": "b"}, "If another column has lists of turns, name it with --text_column"),
    "an instruction that is a number": ({"instruction": 3, "output": "b"}, "holds 3 in line 1 of"),
    "no output": ({"instruction": "a", "output": None}, "column 'output'"),
    "an input that is a list": ({"instruction": "a", "input": [], "output": "b"}, "it must be a text, not a list"),
    "an empty prompt": ({"prompt": "", "completion": "b"}, "it is empty"),
    "a prompt that the assistant ends": (
        {"prompt": [U, A], "completion": "b"}, "the last turn of the prompt is the assistant's; it must be the user's",
    ),
    "a completion of the user": ({"prompt": "a", "completion": [U]}, "user's; it must be the assistant's"),
    "a completion that the user ends": ({"prompt": "a", "completion": [A, U]}, "the last turn of the answer is"),
    "tools that are a number": ({"messages": [U, A], "tools": [3]}, "tools are a list of objects, each the"),
    "tools that are not JSON": ({"messages": [U, A], "tools": "f()"}, "a list of tools should be JSON, and is not"),
}  # fmt: skip
MESSAGES |= {
    "a NUL character": ([U, A | {"content": "a\0"}], "holds a NUL character; remove it, or export the file again"),
    "an invisible answer": ([U, A | {"content": "\u200b"}], "turn 2, of the assistant, is empty"),
}
PREFERENCES: dict[str, tuple[dict, str]] = {
    "no prompt": (
        {"chosen": "a", "rejected": "b"},
        "holds 'a', and there is no prompt; add the column 'prompt', or write both answers as whole",
    ),
    "the same answer": (
        {"prompt": "a", "chosen": "b", "rejected": "b "},
        "rows.jsonl: columns 'chosen' and 'rejected' hold the same answer, 'b'; drop such rows",
    ),
    "other prompts": (
        {"chosen": [U, A], "rejected": [U | {"content": "another"}, A]},
        "hold answers to different prompts; both must answer the same",
    ),
    "no rejected": ({"prompt": "a", "chosen": "b"}, "there is no column ['rejected']"),
    "another prompt": (
        {"prompt": "another", "chosen": [U, A], "rejected": [U, A | {"content": "b"}]},
        "column 'prompt' holds 'another', and 'chosen' does not; write the same prompt in both",
    ),
    "a prompt with a system turn that the answers lack": (
        {"prompt": [S, U], "chosen": [U, A], "rejected": [U, A | {"content": "b"}]},
        "column 'prompt' holds 'a system', and 'chosen' does not; write the same prompt",
    ),
    "a rejected of the user": ({"prompt": "a", "chosen": "b", "rejected": [U]}, "no turn is the assistant's"),
    "a call of a tool": (
        {"prompt": "a", "chosen": "b", "rejected": [CALL, RESULT, A]},
        "column 'rejected' calls tools, or thinks, which --task dpo",
    ),
}  # fmt: skip
CASES = (
    [(f"messages: {name}", {"messages": value}, text, "chat") for name, (value, text) in MESSAGES.items()]
    + [(f"ShareGPT: {name}", {"conversations": value}, text, "chat") for name, (value, text) in SHAREGPT.items()]
    + [(name, row, text, "chat") for name, (row, text) in ROWS.items()]
    + [(f"dpo: {name}", row, text, "dpo") for name, (row, text) in PREFERENCES.items()]
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chats.save_chat_model(tmp_path_factory.mktemp("chat"))


def test_the_table_is_long_enough() -> None:
    assert len(CASES) >= 40


@pytest.mark.parametrize(("row", "text", "task"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_it_is_refused_with_a_sentence(row, text, task, model, finetune, tmp_path) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [row, row])
    status, printed = finetune(model, path, "--task", task, "--dry_run")
    error = next(line for line in printed.splitlines() if line.startswith("error: "))
    assert status == 2 and text in error, error
    assert "Traceback" not in printed


def test_the_line_of_an_unfit_preference_is_that_of_the_file(tmp_path) -> None:
    good = {"prompt": "a", "chosen": "b", "rejected": "c"}
    train = save_rows(tmp_path / "train.jsonl", [good] * 9)
    other = save_rows(tmp_path / "other.jsonl", [*[good] * 4, good | {"rejected": "b"}, good])
    for dataset, validation in ((other, None), (train, str(other))):
        data = TextDataArguments(task="dpo", dataset=str(dataset), validation_data=validation, num_train_samples=2)
        with pytest.raises(UsageError, match=r"line 5 of .*other.jsonl: columns 'chosen' and 'rejected' hold the same"):
            load_task(data, "local")


def test_an_answer_that_comes_too_late_is_left_out_and_told(model, finetune, tmp_path) -> None:
    late = [{"role": "user", "content": "the film " * 30}, A]
    path = save_rows(tmp_path / "rows.jsonl", [{"messages": late}, *({"messages": [U, A]} for _ in range(9))])
    words = ("--task", "chat", "--max_length", "20", "--validation_data", path)
    with pytest.warns(
        UserWarning, match="1 of 10 conversations of the train data are left out: no answer begins within"
    ):
        assert finetune(model, path, *words)[0] == 0
    assert len(tiny.results(tmp_path / "run")["answers"]) == 2, "of the first three, none to a prompt that is too long"
    path = save_rows(tmp_path / "late.jsonl", [{"messages": late}] * 4)
    status, printed = finetune(model, path, "--task", "chat", "--max_length", "20", output=tmp_path / "late")
    assert status == 2 and "has an answer that begins within --max_length 20 tokens; pass a larger one" in printed


def test_tools_and_their_calls_stay_in(tmp_path) -> None:
    from training.reading.conversations import turns_of

    found = turns_of([U, CALL, RESULT, A])
    assert [one["role"] for one in found] == ["user", "assistant", "tool", "assistant"]
    assert found[1]["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {}}}]
    assert turns_of(json.dumps([human(), human(who="gpt")]))[1]["role"] == "assistant"


def test_what_turns_and_columns_hold_that_is_not_read_is_told(tmp_path) -> None:
    """What a label or a key of a turn says, such as that an answer is bad, has no effect."""
    asked, said = U | {"weight": 0, "id": 7}, A | {"weight": 1, "reasoning": "so", "audio": None}
    path = save_rows(tmp_path / "rows.jsonl", [{"messages": [asked, said], "label": False, "images": ["a.png"]}] * 9)
    with pytest.warns(UserWarning) as told:
        load_task(TextDataArguments(task="chat", dataset=str(path)), "local")
    texts = [str(one.message) for one in told]
    assert any("turns in column 'messages' hold id, reasoning, which is not read, and says" in one for one in texts)
    assert any("columns ['images', 'label'] are not read, only ['messages']; what they say" in one for one in texts)


def test_a_model_that_reads_alone_cannot_chat(bert, llama, t5, finetune, tmp_path) -> None:
    path = save_rows(tmp_path / "rows.jsonl", [{"messages": [U, A]}] * 4)
    status, printed = finetune(llama, path, "--task", "chat")
    assert status == 2 and "has no chat template, so the model cannot chat" in printed
    (tmp_path / "chat.jinja").write_text(chats.TEMPLATE)
    status, printed = finetune(bert, path, "--task", "chat", "--chat_template", tmp_path / "chat.jinja")
    assert status == 2 and "which sees the tokens after the one that it predicts; pass a causal" in printed
    status, printed = finetune(t5, path, "--task", "chat")
    assert status == 2 and "cannot be loaded for --task chat" in printed
    status, printed = finetune(bert, path, "--task", "chat", "--chat_template", tmp_path / "none.jinja")
    assert status == 2 and "--chat_template" in printed and "cannot be read" in printed
    status, printed = finetune(bert, path, "--task", "dpo", "--beta", "0")
    assert status == 2 and "--beta got 0.0; it must be above 0" in printed
