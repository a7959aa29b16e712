"""The tasks of the few-shot study: paired examples, losses and scores as they are defined."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import pearsonr, spearmanr

from benchmarks.few_shot.methods import Method, optimizer_of
from benchmarks.few_shot.one_run import schedule_of
from benchmarks.few_shot.tasks import TASKS
from benchmarks.few_shot.tasks.base import PooledEncoder, Task, TaskSettings, split_by_seed
from benchmarks.few_shot.tasks.encoders import correlation
from tests.benchmarks.cases import SMALL

ENCODER_TASKS = [name for name in TASKS if name not in ("e2e", "glosses")]


@pytest.fixture
def sentence_pairs(tmp_path, monkeypatch) -> Path:
    """A folder in the form of STS-B, with 40 made-up pairs in each file."""
    for part, file in enumerate(("sts-train.csv", "sts-dev.csv", "sts-test.csv")):
        rows = [f'news\tx\t2012\t{i}\t{i % 6}.0\ta man {i} "sings\tthe man {part} sings' for i in range(40)]
        (tmp_path / file).write_text("\n".join(rows) + "\n", encoding="utf8")
    monkeypatch.setenv("STSB_FOLDER", str(tmp_path))
    return tmp_path


@pytest.fixture
def more_word_pairs(tmp_path, monkeypatch) -> Path:
    """A folder in the form of Rare Words and MEN, with 40 made-up pairs in each file."""
    for file, gap, highest in (("rareword.txt", "\t", 10), ("men.txt", " ", 50)):
        rows = [gap.join([f"untie{i}", f"unbind{i}", f"{highest * i / 39:.6f}"]) for i in range(40)]
        (tmp_path / file).write_text("\n".join(rows) + "\n", encoding="utf8")
    monkeypatch.setenv("WORD_PAIRS_FOLDER", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ENCODER_TASKS)
@pytest.mark.usefixtures("sentence_pairs", "more_word_pairs")
def test_parts_are_disjoint_and_depend_on_the_seed_alone_but_validation_is_the_same_for_all(name: str) -> None:
    task = TASKS[name](TaskSettings(name=name, **SMALL))
    first, again, other = task.split(0), task.split(0), task.split(1)
    assert [len(first[part]) for part in ("train", "validation", "test")] == [8, 10, 10]
    assert len(np.unique(np.concatenate(list(first.values())))) == 28
    assert all(np.array_equal(first[part], again[part]) for part in first)
    assert np.array_equal(first["validation"], other["validation"]) and not np.array_equal(first["test"], other["test"])
    assert not set(first["validation"]) & (set(other["train"]) | set(other["test"]))


@pytest.mark.usefixtures("sentence_pairs")
def test_a_cross_encoder_reads_both_sentences_and_draws_from_the_usual_parts() -> None:
    task = TASKS["stsb"](TaskSettings(name="stsb", **SMALL))
    parts = task.split(0)
    assert all(
        low <= part.min() and part.max() < low + 40 for part, low in zip(parts.values(), (0, 40, 80), strict=True)
    )
    assert task.targets[7] == 1 / 5  # the eighth row of the first file, whose text holds a quotation mark
    model = task.model(0).eval()
    encoded = task.tokenizer('a man 7 "sings', "the man 0 sings", return_tensors="pt")
    hidden = model.encoder(**encoded).last_hidden_state
    torch.testing.assert_close(model([task.tokens[7], [5] * 20])[:1], model.head(hidden.mean(1)))
    assert task.loss(model, parts["train"], 0).item() == pytest.approx(
        (model([task.tokens[i] for i in parts["train"]])[:, 0] - torch.tensor(task.targets[parts["train"]]))
        .square().mean().item(), rel=1e-4
    )  # fmt: skip
    with torch.no_grad():
        one_by_one = [model([task.tokens[i]]).item() for i in parts["test"]]
    expected = pearsonr(one_by_one, task.targets[parts["test"]]).statistic
    assert task.score(model, parts)["test"] == pytest.approx(expected, abs=1e-4)  # float32, other batches


def test_stsb_needs_a_folder_and_enough_short_pairs(sentence_pairs: Path, monkeypatch) -> None:
    with pytest.raises(ValueError, match="8 examples are needed, but only 0 are short enough"):
        TASKS["stsb"](TaskSettings(name="stsb", **SMALL, max_tokens=5)).split(0)
    (sentence_pairs / "sts-dev.csv").unlink()
    with pytest.raises(
        FileNotFoundError,
        match="STS-B is missing: set the environment variable STSB_FOLDER to a folder with",
    ):
        TASKS["stsb"](TaskSettings(name="stsb", **SMALL))
    monkeypatch.delenv("STSB_FOLDER")
    with pytest.raises(FileNotFoundError, match="; it is None now"):
        TASKS["stsb"](TaskSettings(name="stsb", **SMALL))


@pytest.mark.parametrize("name", ["rare_words", "men"])
def test_scores_of_word_pairs_of_a_folder_are_shares_of_the_highest(name: str, more_word_pairs: Path) -> None:
    task = TASKS[name](TaskSettings(name=name, **SMALL))
    np.testing.assert_allclose(task.targets, np.linspace(0, 1, 40), atol=1e-6)
    assert len(task.pairs) == 40 and len({*task.pairs.ravel()}) == 80
    (more_word_pairs / TASKS[name].file).unlink()
    with pytest.raises(
        FileNotFoundError,
        match=f"WORD_PAIRS_FOLDER to a folder with the files {TASKS[name].file}",
    ):
        TASKS[name](TaskSettings(name=name, **SMALL))


@pytest.mark.usefixtures("sentence_pairs", "more_word_pairs")
@pytest.mark.parametrize("name", ENCODER_TASKS)
def test_noise_changes_the_labels_that_are_trained_on_and_repeats_with_the_seed(name: str) -> None:
    clean, noisy = (TASKS[name](TaskSettings(name=name, **SMALL, noise=noise)) for noise in (0.0, 1.0))
    model, chosen = clean.model(0).eval(), clean.split(0)["train"]
    first, again = (noisy.loss(model, chosen, 0).item() for _ in range(2))
    assert first == again != clean.loss(model, chosen, 0).item()


def test_a_head_of_rate_zero_stays_at_its_start() -> None:
    task = TASKS["rotten_tomatoes"](TaskSettings(name="rotten_tomatoes", **SMALL, head_rate=0.0))
    model = task.model(0)
    assert isinstance(model, PooledEncoder) and not any(p.requires_grad for p in model.head.parameters())
    before = model.head.weight.clone()
    optimizer = optimizer_of(Method("full"), model, 1e-3, task)
    task.loss(model, task.split(0)["train"], 0).backward()
    optimizer.step()
    assert torch.equal(model.head.weight, before)


def test_the_rate_falls_to_zero_or_stays_for_every_group(word_pairs: Task) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    rates = {
        "constant": [1.0, 1.0, 1.0, 1.0],
        "linear": [1.0, 2 / 3, 1 / 3, 0.0],
        "cosine": [1.0, 0.75, 0.25, 0.0],  # cos of 0, 60, 120 and 180 degrees, from [-1, 1] to [0, 1]
    }
    for schedule, expected in rates.items():
        optimizer = torch.optim.SGD([{"params": [parameters[0]]}, {"params": [parameters[1]], "lr": 0.1}], lr=1.0)
        word_pairs.settings = TaskSettings(name="simlex", **SMALL | {"steps": 3}, schedule=schedule)
        scheduled = schedule_of(word_pairs, optimizer)
        for share in expected:
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([share, 0.1 * share])
            optimizer.step()
            scheduled.step()
    with pytest.raises(ValueError, match="`schedule` must be 'constant', 'linear' or 'cosine', got 'step'"):
        TaskSettings(name="simlex", **SMALL, schedule="step")


@pytest.mark.parametrize("predicted", [[0.5, 0.5, 0.5], [0.1, float("nan"), 0.2], [0.1, float("inf"), 0.2]])
def test_predictions_that_say_nothing_have_no_correlation(predicted: list[float]) -> None:
    for statistic in (spearmanr, pearsonr):
        assert correlation(statistic, np.array(predicted), np.array([0.0, 0.5, 1.0])) == 0.0
    assert correlation(pearsonr, np.array([0.0, 1.0, 2.0]), np.array([0.0, 0.5, 1.0])) == pytest.approx(1.0)


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(
        ValueError,
        match="20 examples .* 8 to train on, .* for the test; lower one of these numbers in",
    ):
        split_by_seed(20, TaskSettings(name="simlex", **SMALL), seed=0)


def test_every_epoch_shows_every_example_once(word_pairs: Task) -> None:
    train = word_pairs.split(3)["train"]
    assert sorted(np.concatenate(word_pairs.batches(train, 3))) == sorted(train)


@pytest.mark.parametrize(("name", "count", "first"), [("simlex", 999, 0.158), ("wordsim", 353, 0.677)])
def test_word_pairs_are_those_of_the_published_tables(name: str, count: int, first: float) -> None:
    """The first rows are "old new 1.58" and "love sex 6.77"."""
    task = TASKS[name](TaskSettings(name=name, **SMALL))
    assert task.pairs.shape == (count, 2) and task.targets[0] == pytest.approx(first)
    assert 0 <= task.targets.min() and task.targets.max() <= 1


def test_scores_are_rank_correlations_of_every_part_by_itself(word_pairs: Task) -> None:
    model, parts = word_pairs.model(0).eval(), word_pairs.split(0)
    together = word_pairs.score(model, parts)
    assert together.keys() == parts.keys()
    for name, part in parts.items():
        cosines = [
            torch.cosine_similarity(*model([word_pairs.tokens[i] for i in pair]), dim=0).item()
            for pair in word_pairs.pairs[part]
        ]
        assert together[name] == pytest.approx(spearmanr(cosines, word_pairs.targets[part]).statistic, abs=1e-6)
