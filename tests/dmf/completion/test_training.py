"""How `MatrixCompletion` trains: stopping, continuing, and resuming after a kill."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("sklearn")

from dmf import MatrixCompletion
from dmf.completion import fitting
from tests.dmf.completion.cases import ratings, triplets
from tests.fresh_process import run_python

OVERFITTING = {"rank": 8, "weight_decay": 0.0, "learning_rate": 0.05, "max_epochs": 80, "random_state": 0}


def test_early_stopping_restores_the_best_state():
    model = MatrixCompletion(validation_fraction=0.2, patience=15, dtype="float64", **OVERFITTING).fit(
        ratings(noise=1.0)
    )
    errors = [record["validation_rmse"] for record in model.history_]
    best = int(np.argmin(errors))
    assert model.best_epoch_ == best + 1 and model.validation_score_ == -errors[best]
    assert model.n_iter_ == len(errors) == best + 1 + 15 < 80, "it must stop early, or this shows nothing"
    assert errors[-1] > errors[best]
    again = MatrixCompletion(validation_fraction=0.2, dtype="float64", **OVERFITTING)
    split = fitting.split_entries(fitting_entries(), 0.2, seed_of(again))
    held_out = split.validation
    score = model.score(held_out.rows.numpy(), held_out.cols.numpy(), held_out.values.numpy())
    assert score == pytest.approx(model.validation_score_, rel=1e-9)


def fitting_entries():
    from dmf.completion.data import matrix_entries

    return matrix_entries(ratings(noise=1.0)).entries


def seed_of(model: MatrixCompletion) -> int:
    return int(np.random.RandomState(model.random_state).randint(2**31 - 1))


def test_without_validation_all_epochs_are_run_on_all_entries():
    model = MatrixCompletion(rank=4, max_epochs=7, random_state=0).fit(ratings())
    assert model.n_iter_ == model.best_epoch_ == len(model.history_) == 7
    assert model.validation_score_ is None and "validation_rmse" not in model.history_[0]


def test_the_reported_training_error_is_that_of_the_model_before_the_epoch():
    data = ratings()
    settings = {"rank": 4, "random_state": 0, "dtype": "float64", "warm_start": True, "max_epochs": 1}
    model = MatrixCompletion(**settings).fit(data)
    after_one = -model.score(data)
    assert model.fit(data).history_[0]["training_rmse"] == pytest.approx(after_one, rel=1e-9)


def test_the_error_falls_during_training():
    model = MatrixCompletion(rank=4, weight_decay=0.1, random_state=0).fit(ratings())
    errors = [record["training_rmse"] for record in model.history_]
    assert errors[-1] < 0.6 * errors[0]


def test_a_warm_start_continues_and_a_cold_one_starts_again():
    data = ratings()
    settings = {"rank": 4, "weight_decay": 0.1, "random_state": 0}
    cold = MatrixCompletion(max_epochs=20, **settings).fit(data)
    first = cold.complete()
    assert np.array_equal(cold.fit(data).complete(), first)
    warm = MatrixCompletion(max_epochs=20, warm_start=True, **settings).fit(data)
    assert np.array_equal(warm.complete(), first)
    once = warm.score(data)
    assert warm.fit(data).score(data) > once
    assert warm.history_[0]["training_rmse"] == pytest.approx(-once, rel=1e-5)


def test_a_warm_start_takes_new_entries_of_the_same_matrix():
    rows, cols, values = triplets(ratings())
    half = len(rows) // 2
    model = MatrixCompletion(rank=4, max_epochs=20, warm_start=True, random_state=0)
    model.fit(rows[:half], cols[:half], values[:half], shape=(30, 20))
    before = model.score(rows[half:], cols[half:], values[half:])
    model.fit(rows, cols, values, shape=(30, 20))
    assert model.score(rows[half:], cols[half:], values[half:]) > before


OTHER_MODELS = [{"rank": 6}, {"depth": 2}, {"implicit_feedback": True}, {"dtype": "float64"}, {"biases": "rows"}]


@pytest.mark.parametrize("change", [*OTHER_MODELS, {"biases": False}])
def test_a_warm_start_of_another_model_is_refused_and_changes_nothing(change):
    model = MatrixCompletion(rank=4, max_epochs=3, warm_start=True, random_state=0).fit(ratings())
    before = model.complete()
    with pytest.raises(
        ValueError,
        match="warm_start continues with the current model, whose .*rank, depth, implicit.*set warm_start=False",
    ):
        model.set_params(**change).fit(ratings())
    assert np.array_equal(model.complete(), before)


def test_a_batch_of_at_least_all_entries_is_the_full_batch():
    data = ratings()
    whole, large = (
        MatrixCompletion(rank=4, max_epochs=5, random_state=0, batch_size=size).fit(data).complete()
        for size in (None, 10_000)
    )
    assert np.array_equal(whole, large)


def test_mini_batches_use_each_entry_once_in_an_epoch():
    from dmf.completion.training import _batches

    entries = fitting_entries()
    settings = fitting.training_settings(entries, {**MatrixCompletion().get_params(), "batch_size": 50}, seed=3)
    for epoch in (0, 1):
        batches = _batches(entries, settings, epoch)
        keys = np.concatenate([(batch.rows * 20 + batch.cols).numpy() for batch in batches])
        values = np.concatenate([batch.values.numpy() for batch in batches])
        order = np.argsort(keys)
        assert np.array_equal(keys[order], (entries.rows * 20 + entries.cols).numpy())
        assert np.array_equal(values[order], entries.values.numpy()) and not np.array_equal(order, np.sort(order))


# ---- checkpoints -----------------------------------------------------------------------------------------------------


class Killed(BaseException):
    pass


def die_after(epoch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write = fitting.write_checkpoint

    def write_and_die(*arguments):
        write(*arguments)
        if arguments[-1].epoch >= epoch:
            raise Killed

    monkeypatch.setattr(fitting, "write_checkpoint", write_and_die)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"batch_size": 100, "random_state": 3},
        {"implicit_feedback": True, "validation_fraction": 0.2, "patience": 4},
        {"random_state": None, "gamma": 0.0},
    ],
)
def test_a_fit_that_was_killed_goes_on_to_the_same_result(settings, tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    settings = {"rank": 4, "max_epochs": 12, "random_state": 0, **settings}
    if settings["random_state"] is None:
        monkeypatch.setattr(fitting, "check_random_state", lambda _: np.random.RandomState(7))
    whole = MatrixCompletion(**settings).fit(ratings())
    with monkeypatch.context() as patched:
        die_after(6, patched)
        with pytest.raises(Killed):
            MatrixCompletion(checkpoint=str(path), checkpoint_every=3, **settings).fit(ratings())
    assert path.exists()
    # Another seed must not matter: the checkpoint knows the one that it began with.
    monkeypatch.setattr(fitting, "check_random_state", lambda _: np.random.RandomState(8))
    resumed = MatrixCompletion(checkpoint=str(path), checkpoint_every=3, **settings).fit(ratings())
    assert np.array_equal(resumed.complete(), whole.complete())
    assert resumed.history_ == whole.history_ and resumed.n_iter_ == whole.n_iter_
    assert list(tmp_path.iterdir()) == [], "a finished fit leaves no checkpoint"


def test_a_generator_as_random_state_goes_on_with_the_seed_that_was_drawn_from_it(tmp_path, monkeypatch):
    def fitted(**more):
        return MatrixCompletion(rank=4, max_epochs=8, random_state=np.random.RandomState(5), **more).fit(ratings())

    path = {"checkpoint": str(tmp_path / "checkpoint"), "checkpoint_every": 2}
    with monkeypatch.context() as patched, pytest.raises(Killed):
        die_after(4, patched)
        fitted(**path)
    assert np.array_equal(fitted(**path).complete(), fitted().complete())


def test_a_warm_start_that_was_killed_goes_on_to_the_same_result(tmp_path, monkeypatch):
    def warm(**more):
        return MatrixCompletion(rank=4, max_epochs=8, random_state=0, warm_start=True, **more)

    whole = warm().fit(ratings()).fit(ratings())
    model = warm(checkpoint=str(tmp_path / "checkpoint"), checkpoint_every=2).fit(ratings())
    with monkeypatch.context() as patched:
        die_after(4, patched)
        with pytest.raises(Killed):
            model.fit(ratings())
    assert np.array_equal(model.fit(ratings()).complete(), whole.complete())


def test_a_process_that_was_killed_leaves_a_checkpoint_to_go_on_from(tmp_path):
    path = tmp_path / "checkpoint"
    died = run_python(
        f"""
        import os, signal, subprocess, sys
        code = '''
        import os, signal
        from dmf import MatrixCompletion
        from dmf.completion import fitting
        from tests.dmf.completion.cases import ratings
        write = fitting.write_checkpoint
        def write_and_die(*arguments):
            write(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        fitting.write_checkpoint = write_and_die
        MatrixCompletion(rank=4, max_epochs=12, random_state=0, checkpoint={str(path)!r}).fit(ratings())
        '''
        import textwrap
        print(subprocess.run([sys.executable, "-c", textwrap.dedent(code)]).returncode)
        """
    )
    assert int(died) == -9 and path.exists()
    resumed = MatrixCompletion(rank=4, max_epochs=12, random_state=0, checkpoint=str(path)).fit(ratings())
    whole = MatrixCompletion(rank=4, max_epochs=12, random_state=0).fit(ratings())
    assert np.array_equal(resumed.complete(), whole.complete())


@pytest.mark.parametrize("change", [{"rank": 6}, {"max_epochs": 20}, {"random_state": 1}, {"weight_decay": 0.5}])
def test_a_checkpoint_of_another_fit_is_refused(change, tmp_path, monkeypatch):
    path = str(tmp_path / "checkpoint")
    settings = {"rank": 4, "max_epochs": 12, "random_state": 0, "checkpoint": path, "checkpoint_every": 3}
    with monkeypatch.context() as patched:
        die_after(3, patched)
        with pytest.raises(Killed):
            MatrixCompletion(**settings).fit(ratings())
    with pytest.raises(
        ValueError, match="other settings or other data; delete it to start again, or pass another path"
    ):
        MatrixCompletion(**{**settings, **change}).fit(ratings())
    with pytest.raises(ValueError, match="other settings or other data"):
        MatrixCompletion(**settings).fit(ratings(seed=9))


@pytest.mark.parametrize("max_epochs", [1, 100])
@pytest.mark.parametrize("validation_fraction", [0.0, 0.2])
def test_a_training_that_diverges_says_so(max_epochs, validation_fraction):
    settings = {"rank": 4, "max_epochs": max_epochs, "validation_fraction": validation_fraction, "random_state": 0}
    with pytest.raises(
        FloatingPointError,
        match=r"diverged in epoch \d+: the loss or the factors are no longer finite; lower learning_rate",
    ):
        MatrixCompletion(learning_rate=1e37 if max_epochs == 1 else 1e12, **settings).fit(ratings())


def test_verbose_shows_progress_and_the_default_is_silent(capfd):
    MatrixCompletion(rank=4, max_epochs=3, random_state=0).fit(ratings())
    assert capfd.readouterr() == ("", "")
    MatrixCompletion(rank=4, max_epochs=3, random_state=0, validation_fraction=0.1, verbose=1).fit(ratings())
    shown = capfd.readouterr().err
    assert "3/3" in shown and "validation_rmse" in shown
