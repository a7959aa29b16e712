"""Every task of `deep-lora finetune` says what its model is and how the Hub calls it."""

from __future__ import annotations

import pytest
import transformers
from datasets import Dataset

from training.settings.data import TextDataArguments
from training.tasks.registry import TASKS
from training.trainer.chat import ChatTrainer
from training.trainer.generating import GeneratingTrainer
from training.trainer.preferences import PreferenceTrainer
from training.trainer.trainer import AdapterTrainer

ROWS = {
    "text": ["a film"] * 4, "label": [0, 1, 0, 1], "tags": ["A B"] * 4, "target": ["good"] * 4,
    "number": [0.1, 0.2, 0.3, 0.4], "labels": [["a", "b"], ["a"], [], ["b"]],
}  # fmt: skip
PREFERENCES = {"prompt": ['"a film?"'] * 4, "chosen": ['"a good one"'] * 4, "rejected": ['"none"'] * 4}  # JSON


@pytest.mark.parametrize("name", TASKS)
def test_a_task_has_the_name_it_is_registered_by(name) -> None:
    label = {"regression": "number", "token_classification": "tags", "multilabel": "labels"}.get(name, "label")
    data = TextDataArguments(task=name, target_column="target", label_column=label)
    splits = {"train": Dataset.from_dict(PREFERENCES if name == "dpo" else ROWS)}
    task = TASKS[name](splits, data, "local")
    assert task.name == name and task.pipeline and hasattr(transformers, task.auto_class)
    trainers = {"chat": ChatTrainer, "dpo": PreferenceTrainer}
    assert getattr(task.trainer_class, "func", task.trainer_class) is trainers.get(name, AdapterTrainer)
    assert not task.generates


def test_a_task_that_generates_has_the_trainer_for_it() -> None:
    data = TextDataArguments(task="seq2seq", target_column="target", predict_with_generate=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.tasks.language.text_scorer", lambda source: None)
        task = TASKS["seq2seq"]({"train": Dataset.from_dict(ROWS)}, data, "local")
    assert task.generates and task.trainer_class.func is GeneratingTrainer
