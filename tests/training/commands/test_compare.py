"""`deep-lora compare`: pairs of runs with the same seeds, a table, a picture, and a sentence that the figures bear."""

from __future__ import annotations

import json
import shutil

import pytest
from scipy import stats

from tests.training import tiny
from tests.training.tiny import results
from training import comparison
from training.cli import main
from training.errors import UsageError
from training.names import COMPARISON, COMPARISON_FIGURE, OUTPUT
from training.results.comparison import OURS, Outcome, caveats, table, verdict

LORA, TUNED = "LoRA (rate 0.001)", "LoRA (tuned rate 0.003)"


@pytest.fixture
def compare(bert, tmp_path, capsys, monkeypatch):
    """Runs the command with tiny runs in this process: (exit status, what it printed)."""
    monkeypatch.setattr("training.results.report.draw", lambda *_: None)
    monkeypatch.setattr("training.results.classes.ClassScores.draw", lambda *_: None)
    data = tiny.save_csv(tmp_path / "reviews.csv")

    def run(*words: object, model=bert):
        options = ["--model", model, "--dataset", data, "--output_dir", tmp_path / "out", "--seeds", 2, *tiny.QUICK]
        status = main(["compare", *map(str, [*options, *words])])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def written(folder) -> dict:
    return json.loads((folder / COMPARISON).read_text())


def test_runs_of_a_pair_have_the_same_seed_and_are_not_repeated(compare, tmp_path, monkeypatch) -> None:
    status, printed = compare()
    assert status == 0, printed
    out = tmp_path / "out"
    runs = {place: results(out / place) for place in ("deep_lora/seed-0", "deep_lora/seed-1", "lora-0.001/seed-0")}
    settings = {place: one["settings"] for place, one in runs.items()}
    assert [one["adapter"] for one in settings.values()] == ["deep_lora", "deep_lora", "lora"]
    assert [(one["seed"], one["sample_seed"]) for one in settings.values()] == [(0, 0), (1, 1), (0, 0)]
    assert {one["learning_rate"] for one in settings.values()} == {1e-3}
    assert "adapter" in (out / "lora-0.001" / "seed-1" / OUTPUT).read_text() and (out / COMPARISON_FIGURE).is_file()
    found = written(out)
    assert found["status"] == "complete" and found["metric"] == "accuracy" and found["data"] == "validation"
    scores = [results(out / f"lora-0.001/seed-{seed}")["metrics"]["validation"]["accuracy"] for seed in (0, 1)]
    assert found["methods"][LORA]["scores"] == scores and found["verdict"] in printed
    assert "there are no test data (--test_data)" in printed

    trained = []
    monkeypatch.setattr(comparison, "run_job", trained.append)
    assert compare()[0] == 0 and not trained
    assert written(out) == found
    status, printed = compare("--validation_fraction", "0.3")
    assert status == 2 and "holds another comparison, with other settings or data; pass another" in printed
    shutil.rmtree(out / "lora-0.001" / "seed-1")
    with pytest.raises(KeyError):  # the run that is missing is the only one that is asked for; nothing trains here
        compare()
    assert [str(job.run.output_dir) for job in trained] == [str(out / "lora-0.001" / "seed-1")]


def test_another_pair_and_a_tuned_rate_are_added_to_a_comparison(compare, bert, tmp_path, monkeypatch) -> None:
    """Runs are replaced by results that are written down: what is asked for, and what follows, is looked at here."""
    accuracy = {"deep_lora": 0.8, 1e-3: 0.7, 3e-3: 0.75, 1e-4: 0.6, 3e-4: 0.6, 1e-2: None}
    asked = []

    def train(job) -> None:
        rate = job.run.learning_rate if job.adapter.adapter == "lora" else "deep_lora"
        score = accuracy[rate]
        asked.append((rate, job.run.seed))
        own = comparison.run_identity(comparison.facts_of(job))
        scores = {"accuracy": score and score + job.run.seed / 100}
        content = {
            "identity": own,
            "settings": {"adapter": job.adapter.adapter},
            "status": "complete" if score else "stopped",
        }
        content["metrics"] = {
            "validation": scores,
            "test": {"accuracy": scores["accuracy"] and scores["accuracy"] - 0.1},
        }
        (comparison.Path(job.run.output_dir) / "results.json").write_text(json.dumps(content))
        if score is None:
            raise comparison.NonFiniteLoss("the loss was not finite")

    monkeypatch.setattr(comparison, "run_job", train)
    test = tiny.save_csv(tmp_path / "test.csv", seed=9)
    status, printed = compare("--test_data", test)
    assert status == 0 and asked == [(rate, seed) for seed in (0, 1) for rate in ("deep_lora", 1e-3)]
    assert "ahead of LoRA (rate 0.001) by the very same 0.1 of accuracy in all 2 pairs" in printed
    asked.clear()
    status, printed = compare("--test_data", test, "--tune", "--seeds", "3")
    assert status == 0 and len(asked) == 3 * 4 + 1 + 1  # four other rates, and a third seed of both that were there
    assert "LoRA (rate 0.01)" in printed and "diverges" in printed and "(from before)" in printed
    assert f"{OURS} is ahead of {TUNED} by the very same 0.05" in printed
    found = written(tmp_path / "out")
    assert list(found["methods"]) == [OURS, LORA, TUNED]
    assert found["methods"][TUNED]["scores"] == pytest.approx([0.65, 0.66, 0.67])  # of the test data
    accuracy.update({rate: None for rate in comparison.RATES})
    shutil.rmtree(tmp_path / "out")
    status, printed = compare("--test_data", test, "--tune", "--seeds", "2")
    assert status == 2 and "at each of the rates 0.0001, 0.0003, 0.001, 0.003, 0.01 a run of LoRA diverges" in printed


def outcome(ours, its, falling=False, split="test", **settings) -> Outcome:
    return Outcome("score", falling, split, list(range(len(ours))), {OURS: ours, LORA: its}, **settings)


def test_the_interval_is_students_of_the_paired_differences() -> None:
    ours, its = [0.9, 0.8, 0.85, 0.7], [0.7, 0.75, 0.8, 0.72]
    wanted = stats.ttest_rel(ours, its).confidence_interval(0.95)
    found = outcome(ours, its).as_json()["methods"][LORA]["difference"]
    assert (found["low"], found["high"]) == pytest.approx((wanted.low, wanted.high))
    assert f"{wanted.low:+.3g} to {wanted.high:+.3g}" in table(outcome(ours, its))


@pytest.mark.parametrize(
    ("ours", "its", "falling", "said"),
    [
        (
            [0.9, 0.91, 0.93],
            [0.5, 0.52, 0.51],
            False,
            "Deep LoRA is ahead of LoRA (rate 0.001) by 0.4033 in score (95 %",
        ),
        (
            [0.9, 0.91, 0.93],
            [0.5, 0.52, 0.51],
            True,
            "LoRA (rate 0.001) is ahead of Deep LoRA by 0.4033 in score (95 %",
        ),
        (
            [0.5, 0.52, 0.51],
            [0.9, 0.91, 0.93],
            True,
            "Deep LoRA is ahead of LoRA (rate 0.001) by 0.4033 in score (95 %",
        ),
        ([0.5, 0.9, 0.7], [0.9, 0.5, 0.69], False, "Level: the difference in score"),
        ([0.5, 0.6], [0.5, 0.6], False, "Level: Deep LoRA and LoRA (rate 0.001) have the same score in all 2 pairs"),
        (
            [0.5, 0.6],
            [0.25, 0.35],
            False,
            "by the very same 0.25 of score in all 2 pairs, so there is",
        ),
    ],
)
def test_the_sentence_says_no_more_than_the_interval(ours, its, falling, said) -> None:
    assert said in verdict(outcome(ours, its, falling))


def test_the_table_fits_a_terminal_and_caveats_are_told() -> None:
    one = Outcome(
        "entity_precision", False, "validation", [0, 1], {OURS: [0.1, 0.2], LORA: [0.2, 0.1], TUNED: [0.3, 0.1]}, True
    )
    assert max(map(len, table(one).splitlines())) <= 88
    assert "was chosen on the very rows that it is scored on" in " ".join(caveats(one))
    assert len(caveats(outcome([1.0, 2.0], [1.0, 2.0]))) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "1"], "--seeds got 1; an interval needs at least 2 pairs"),
        (
            ["--tune", "--learning_rate", "1e-3"],
            "--tune tries the rates 0.0001, 0.0003, 0.001, 0.003, 0.01; leave --learning_rate out",
        ),
        (
            ["--sample_seed", "3"],
            "--sample_seed cannot be used with compare: the rows of each pair are drawn by",
        ),
        (["--push_to_hub", "true"], "--push_to_hub cannot be used with compare: a comparison has many adapters"),
        (["--adapter", "lora"], "unknown option --adapter"),
        (["--text_column", "words"], "there is no column ['words']"),
    ],
)
def test_options_without_a_meaning_are_refused_before_anything_is_trained(words, message, compare, tmp_path) -> None:
    status, printed = compare(*words)
    assert status == 2 and message in printed, printed
    assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_both_kinds_of_runs_and_writes_nothing(compare, tmp_path) -> None:
    status, printed = compare("--dry_run")
    assert status == 0 and "4 such runs would be compared" in printed and not (tmp_path / "out").exists()
    assert printed.count("trained parameters") == 2 and "deep_lora" in printed


def test_a_score_that_is_not_a_number_compares_nothing() -> None:
    with pytest.raises(
        UsageError, match="pearsonr of the test data is not a number in a run of lora, so nothing can be compared"
    ):
        comparison._score(
            {"metrics": {"test": {"pearsonr": None}}, "settings": {"adapter": "lora"}}, "test", "pearsonr"
        )
