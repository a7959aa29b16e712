"""Heads and labels that have no classes are refused: when the head is replaced, at the start, or at the first batch."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch
import transformers as hf
from torch.utils.data import DataLoader, IterableDataset
from transformers import default_data_collator

from collapse import HeadObserver, NeuralCollapseCallback, NormalizedClassifier, normalize_classifier_, normalized_class
from tests.collapse.architectures import ARCHITECTURES, BART, DISTIL, ENCODER, IMAGE, VISION, XLNET
from tests.collapse.trainers import BERT, Sentences, trainer

QUESTIONS = {
    "bert": lambda: hf.BertForQuestionAnswering(hf.BertConfig(**ENCODER)),
    "roberta": lambda: hf.RobertaForQuestionAnswering(hf.RobertaConfig(**ENCODER)),
    "distilbert": lambda: hf.DistilBertForQuestionAnswering(hf.DistilBertConfig(**DISTIL)),
    "bart": lambda: hf.BartForQuestionAnswering(hf.BartConfig(**BART)),
    "xlnet": lambda: hf.XLNetForQuestionAnsweringSimple(hf.XLNetConfig(**XLNET)),
}
SEQUENCES = [a for a in ARCHITECTURES if "Sequence" in a.model or "Image" in a.model]


@pytest.mark.parametrize("build", QUESTIONS.values(), ids=QUESTIONS.keys())
def test_question_answering_has_no_classes(build) -> None:
    model = build()
    with pytest.raises(
        ValueError, match="answers questions: its head scores every token.*take a model that classifies"
    ):
        normalize_classifier_(model)
    assert not any(isinstance(module, NormalizedClassifier) for module in model.modules())
    with pytest.raises(ValueError, match="answers questions"):
        HeadObserver(model)


@pytest.mark.parametrize("architecture", SEQUENCES, ids=lambda a: a.model)
@pytest.mark.parametrize("loaded", [False, True])
def test_multi_label_targets_are_refused_at_the_first_batch_where_nothing_told_before(architecture, loaded) -> None:
    model = architecture.build()
    if loaded:
        model = normalized_class(type(model))(model.config)
    else:
        normalize_classifier_(model)
    batch = architecture.batch()
    for labels in (torch.ones(4, 3), torch.rand(4)):
        with pytest.raises(
            TypeError, match="one integer label for each sample, got torch.float32 of shape .*multi-label"
        ):
            copy.deepcopy(model)(**{**batch, "labels": labels})
    assert model(**batch).loss.isfinite()


def by_position(model, batch, labels):
    """The inputs of a call in which no argument has a name."""
    names = list(inspect.signature(model.forward).parameters)
    given = batch | {"labels": labels}
    return [given.get(name) for name in names[: names.index("labels") + 1]]


@pytest.mark.parametrize("architecture", SEQUENCES, ids=lambda a: a.model)
def test_labels_that_are_passed_by_position_are_labels(architecture) -> None:
    batch, model = architecture.batch(), architecture.build()
    plain = copy.deepcopy(model).eval()
    observer = HeadObserver(plain)
    with observer.watching(), torch.no_grad():
        plain(*by_position(plain, batch, batch["labels"]))
    assert observer.statistics.num_samples == 4 and observer.unlabeled == 0
    normalize_classifier_(model, margin=0.3)
    with pytest.raises(TypeError, match="one integer label for each sample, got torch.float32"):
        copy.deepcopy(model)(*by_position(model, batch, torch.ones(4, 3)))
    model.train()
    torch.manual_seed(0)
    wanted = copy.deepcopy(model)(**batch).loss
    torch.manual_seed(0)
    assert torch.equal(model(*by_position(model, batch, batch["labels"])).loss, wanted)


def visual_questions():
    """Several right answers for a question, with the loss of several labels."""
    sizes = VISION | IMAGE | {"vocab_size": 32, "max_position_embeddings": 40, "modality_type_vocab_size": 2}
    return hf.ViltForQuestionAnswering(hf.ViltConfig(**sizes, num_labels=3, max_image_length=-1))


def test_soft_targets_of_visual_questions_are_refused() -> None:
    model = visual_questions()
    normalize_classifier_(model)
    with pytest.raises(TypeError, match="got torch.float32 of shape"):
        model(torch.ones(2, 4).long(), pixel_values=torch.randn(2, 3, 8, 8), labels=torch.rand(2, 3))


STARTS = [({"num_labels": 1}, "regression model"), ({"problem_type": "multi_label_classification"}, "several labels")]


@pytest.mark.parametrize(("settings", "text"), STARTS)
def test_a_callback_refuses_models_without_classes_at_the_start(settings, text, tmp_path) -> None:
    with pytest.raises(ValueError, match=text):
        NeuralCollapseCallback(trainer(tmp_path, BERT.build(**settings)))


class Relabeled(Sentences):
    """Sentences with labels of another kind."""

    def __init__(self, count, seed, change):
        super().__init__(count, seed)
        self.change = change

    def __getitem__(self, index):
        return super().__getitem__(index) | {"labels": self.change(self.labels[index])}


def several(label):
    return torch.nn.functional.one_hot(label, 3).float()


class Streamed(IterableDataset):
    """The same rows, which can be read once."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return (self.rows[index] for index in range(len(self.rows)))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("by_loader", [False, True])
def test_labels_of_a_stream_that_turn_out_not_to_be_classes_do_not_end_a_training(by_loader, tmp_path) -> None:
    run = trainer(tmp_path, eval_strategy="epoch" if by_loader else "steps")
    stream = Streamed(Relabeled(10, 2, several))
    run.train_dataset, run.eval_dataset = Relabeled(16, 1, several), stream
    loaders = {"probe": DataLoader(stream, batch_size=4)} if by_loader else None
    run.add_callback(NeuralCollapseCallback(run, loaders, piggyback=not by_loader))
    with pytest.warns(UserWarning, match="3 batches were left out: labels must be integer class indices"):
        run.train()
    assert run.state.global_step == 4


class Texts(Relabeled):
    """Rows with a column of text beside what the model reads, as tables have."""

    def __getitem__(self, index):
        return super().__getitem__(index) | {"text": "a film"}


NOT_CLASSES = {"several": (several, r"\[1.0, 0.0, 0.0\]"), "score": (lambda label: label.float() + 0.5, "0.5")}


@pytest.mark.parametrize(("change", "text"), NOT_CLASSES.values(), ids=NOT_CLASSES.keys())
@pytest.mark.parametrize("where", ["evaluation", "one of two evaluations", "loader"])
def test_a_callback_refuses_data_whose_first_label_is_not_a_class_at_the_start(where, change, text, tmp_path) -> None:
    run, rows = trainer(tmp_path), Texts(10, 2, change)
    loaders = {"probe": DataLoader(Relabeled(10, 2, change), batch_size=4)} if where == "loader" else None
    if loaders is None:
        run.eval_dataset = rows if where == "evaluation" else {"right": Sentences(10), "wrong": rows}
    which = "of 'probe'" if loaders else "to evaluate on"
    with pytest.raises(TypeError, match=f"first label of the data {which} is {text}.*leave the callback out"):
        NeuralCollapseCallback(run, loaders)


def test_looking_at_the_first_label_draws_no_random_number_and_leaves_other_data_alone(tmp_path) -> None:
    class Augmented(Sentences):
        def __getitem__(self, index):
            return super().__getitem__(index) | {"inputs_embeds": torch.rand(6, 8)}

    def picky(rows):
        raise KeyError("two rows")

    run = trainer(tmp_path)
    for rows, collate in (
        (Augmented(10), default_data_collator),
        (Relabeled(4, 1, several), picky),
        (Sentences(0), picky),
    ):
        run.eval_dataset, run.data_collator = rows, collate
        before = torch.get_rng_state()
        NeuralCollapseCallback(run)
        assert torch.equal(torch.get_rng_state(), before)


def test_labels_out_of_range_in_an_evaluation_are_left_out_with_a_warning(tmp_path) -> None:
    run = trainer(tmp_path, eval_count=4)
    callback = NeuralCollapseCallback(run, head="classifier")
    observer = callback.observer
    with observer.watching(), torch.no_grad():
        run.model.eval()(Sentences(4).tokens)
        observer._features = torch.ones(4, 8)
        observer._take_batch(run.model, (), {"labels": torch.tensor([0, 1, 2, 7])}, None)
    assert observer.unusable.total() == 1 and "labels must lie in" in callback.skipped()[-1]


def test_an_observer_by_itself_raises() -> None:
    model = BERT.build()
    with HeadObserver(model).watching(), pytest.raises(TypeError, match="must be integer class indices"):
        model(Sentences(4).tokens, labels=torch.rand(4, 3))
