"""Streams that can be read once: training sees every batch that it would see without the callback."""

from __future__ import annotations

import copy
import itertools
import pickle
import warnings
from collections import deque

import pytest
import torch
from torch.utils.data import IterableDataset
from transformers import Trainer, TrainingArguments

from deep_lora import DeepLoraCallback, SubspaceInitializationCallback
from deep_lora.subspaces.replay import Replayed
from tests.models import adapt, gpt2, llama


class Counter(IterableDataset):
    """A socket: whatever was read is gone."""

    def __init__(self) -> None:
        self.number = 3

    def __iter__(self):
        while self.number < 30:
            self.number += 1
            yield {"input_ids": torch.full((4,), self.number), "labels": torch.full((4,), self.number)}


class Queue(IterableDataset):
    """A queue whose iterator is itself."""

    def __init__(self) -> None:
        self.items = deque(range(4, 31))

    def __iter__(self):
        return self

    def __next__(self):
        if not self.items:
            raise StopIteration
        number = self.items.popleft()
        return {"input_ids": torch.full((4,), number), "labels": torch.full((4,), number)}


class Again(IterableDataset):
    """A file: every pass begins at its beginning."""

    def __iter__(self):
        for number in range(4, 12):
            yield {"input_ids": torch.full((4,), number), "labels": torch.full((4,), number)}

    def __len__(self) -> int:
        return 8


def collate(items):
    """Take what is needed out of each item, as some collators do."""
    return {
        "input_ids": torch.stack([i.pop("input_ids") for i in items]),
        "labels": torch.stack([i.pop("labels") for i in items]),
    }


def seen_in_training(base, stream, callbacks, folder, **arguments) -> list[list[int]]:
    torch.manual_seed(0)
    target = {"llama": "q_proj", "gpt2": "c_attn"}[base.__name__]
    model = adapt(base(), r=2, target_modules=[target], fan_in_fan_out=base is gpt2)
    seen: list[list[int]] = []

    def note(module, args, kwargs) -> None:
        if module.training:
            seen.append(kwargs["input_ids"][:, 0].tolist())

    model.register_forward_pre_hook(note, with_kwargs=True)
    settings = {"max_steps": 3, "per_device_train_batch_size": 2, "use_cpu": True, "report_to": "none"} | arguments
    args = TrainingArguments(str(folder), save_strategy="no", disable_tqdm=True, **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        Trainer(model, args, train_dataset=stream(), data_collator=collate, callbacks=callbacks).train()
    return seen


@pytest.mark.parametrize(
    ("base", "stream", "workers"),
    [*itertools.product([llama], [Counter, Queue, Again], [0, 1]), (gpt2, Counter, 0)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_training_sees_the_batches_that_the_callback_has_seen(base, stream, workers, tmp_path) -> None:
    arguments = {"dataloader_num_workers": workers, "max_steps": 6 if stream is Again else 3}
    plain = seen_in_training(base, stream, [], tmp_path, **arguments)
    assert plain[:3] == [[4, 5], [6, 7], [8, 9]]
    for callback in (SubspaceInitializationCallback(2), SubspaceInitializationCallback(4), DeepLoraCallback()):
        assert seen_in_training(base, stream, [callback], tmp_path, **arguments) == plain


def test_a_replayed_stream_begins_again_once_and_is_itself_after_that() -> None:
    stream = Replayed(Again())
    first = [item["labels"][0].item() for item in itertools.islice(stream, 3)]
    passes = [[item["labels"][0].item() for item in stream] for _ in range(2)]
    assert first == [4, 5, 6] and passes == [list(range(4, 12))] * 2
    assert len(stream) == 8
    stream.extra = 3
    assert Replayed(stream).extra == 3
    with pytest.raises(TypeError):
        len(Replayed(Counter()))


def test_a_replayed_stream_may_be_tried_twice_as_by_two_adapters() -> None:
    stream = Replayed(Queue())
    assert next(iter(stream))["labels"][0] == 4
    outer = Replayed(stream)
    assert [item["labels"][0].item() for item in itertools.islice(outer, 2)] == [4, 5]
    assert [item["labels"][0].item() for item in outer] == list(range(4, 31))


def test_a_stream_can_be_copied_and_pickled() -> None:
    stream = copy.copy(Replayed([1, 2, 3]))
    assert list(pickle.loads(pickle.dumps(stream))) == [1, 2, 3]
    with pytest.raises(AttributeError, match="the copy of a stream has no stream yet"):
        Replayed.__new__(Replayed).anything  # noqa: B018
