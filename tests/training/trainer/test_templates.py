"""What is learned where a chat template does not say, and what it leaves out."""

from __future__ import annotations

import warnings

import pytest
from transformers import AddedToken, AutoTokenizer, ByT5Tokenizer

pytest.importorskip("trl", reason="TRL needs Python 3.11")  # declared so in setup.cfg

from tests.training import chats
from tests.training.tasks.byte_level import byte_level
from training.errors import UsageError
from training.job import IGNORED
from training.trainer.chat import Encoder
from training.trainer.shown import check_shown


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return chats.save_chat_model(tmp_path_factory.mktemp("chat"))


SMOL = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\\n' + m['content'] + '</s>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\\n' }}{% endif %}"
)
SMOL_MARKED = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\\n' }}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + '</s>' + '\\n' }}{% endgeneration %}{% else %}{{ m['content'] + '</s>' + '\\n' }}{% endif %}"
    "{% endfor %}"
)


@pytest.mark.parametrize("answer", ["good", " good", "\n\ngood", "\n good \n\n", "  a bad\nfilm ", "é 🙂", "\t🙂"])
def test_answers_that_begin_or_end_with_spaces_are_learned_as_where_marks_tell(answer) -> None:
    """These share tokens with what goes before them, such as a line break twice: those are learned, too."""
    tokenizer = byte_level()
    tokenizer.add_tokens([AddedToken("\n\n"), AddedToken("\n ")])
    found = [{"role": "user", "content": "was it \n"}, {"role": "assistant", "content": answer}] * 2
    ids, labels = Encoder(tokenizer, SMOL)(found, [])
    assert (ids, labels) == Encoder(tokenizer, SMOL_MARKED)(found, [])
    learned = tokenizer.decode([label for label in labels if label != IGNORED])
    assert learned.count(answer + "</s>\n") == 2


def test_a_tokenizer_that_does_not_tell_places_is_refused_where_the_template_has_no_marks() -> None:
    with pytest.raises(UsageError, match="ByT5Tokenizer does not tell where its tokens lie in a text"):
        Encoder(ByT5Tokenizer(), chats.TEMPLATE)(chats.turns(0), [])


def with_calls() -> list[dict]:
    found = chats.tool_row(0)["messages"]
    return [*found[:-1], found[-1] | {"reasoning_content": "good"}]


PARTS = chats.TEMPLATE.replace("message['content']", "(message['content'] | map(attribute='text') | join)")
NO_TOOL = chats.TEMPLATE.replace("in messages", "in messages if message['role'] != 'tool'")
NO_SYSTEM = NO_TOOL.replace("'tool'", "'system'")
THINKING = chats.WITH_TOOLS.replace("' + message['role']", "' + (message['reasoning_content'] or '') + message['role']")


@pytest.mark.parametrize(
    ("template", "turns", "what"),
    [
        (PARTS, chats.turns(0), "leaves out (what the user says|what the assistant says|system turns)"),
        (NO_SYSTEM, chats.turns(0), "leaves out system turns, so the model would learn without; pass a --chat"),
        (chats.TEMPLATE, with_calls(), "the chat template leaves out calls of tools"),
        (NO_TOOL.replace("message['content']", "(message['content'] or message['tool_calls'] | string)"), with_calls(),
         "the chat template leaves out answers of tools"),
    ],
)  # fmt: skip
def test_a_template_that_leaves_out_what_is_learned_from_is_refused(template, turns, what, model) -> None:
    """The assistant would learn to say nothing where it calls a tool, and to answer what it does not see."""
    with pytest.raises(UsageError, match=what):
        check_shown(Encoder(AutoTokenizer.from_pretrained(model), template).text, [(turns, [])])


def test_thoughts_and_tools_that_a_template_leaves_out_are_told(model) -> None:
    tokenizer, tools = AutoTokenizer.from_pretrained(model), chats.tool_row(0)["tools"]
    with pytest.warns(UserWarning, match="leaves out reasoning_content, so the model does not learn from it; pass a"):
        check_shown(Encoder(tokenizer, chats.WITH_TOOLS).text, [(with_calls(), tools)])
    plain = chats.turns(0)
    with pytest.warns(UserWarning, match="the chat template leaves out tools, so"):
        check_shown(Encoder(tokenizer, chats.TEMPLATE).text, [(plain, tools)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_shown(Encoder(tokenizer, THINKING).text, [(with_calls(), tools), (plain, tools)])


def test_a_run_on_calls_of_tools_needs_a_template_that_shows_them(model, finetune, tmp_path) -> None:
    path = chats.save_rows(tmp_path / "rows.jsonl", [chats.tool_row(seed) for seed in range(8)])
    status, printed = finetune(model, path, "--task", "chat", "--dry_run")
    assert status == 2 and "error: the chat template leaves out calls of tools" in printed, printed
    (tmp_path / "chat.jinja").write_text(chats.WITH_TOOLS)
    status, printed = finetune(model, path, "--task", "chat", "--dry_run", "--chat_template", tmp_path / "chat.jinja")
    assert status == 0 and "leaves out" not in printed, printed
