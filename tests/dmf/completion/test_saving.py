"""A saved `MatrixCompletion` comes back as it was, and files appear complete or not at all."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

pytest.importorskip("sklearn")

from dmf import MatrixCompletion
from dmf.completion.storage import files
from tests.dmf.completion.cases import ratings


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"implicit_feedback": True, "clip": (1, 5), "depth": 2},
        {"dtype": "float64", "biases": "rows", "validation_fraction": 0.2, "clip": True},
        {"biases": False, "random_state": None, "rank": np.int64(4)},
    ],
)
def test_a_saved_model_predicts_the_same_to_the_bit_and_trains_on(settings, tmp_path):
    path = tmp_path / "folder" / "model.safetensors"
    model = MatrixCompletion(**{"rank": 4, "max_epochs": 5, "warm_start": True, "random_state": 0, **settings})
    model.fit(ratings()).save(path)
    loaded = MatrixCompletion.load(path)
    assert loaded.get_params() == model.get_params()
    assert np.array_equal(loaded.complete(), model.complete())
    assert (loaded.history_, loaded.n_iter_, loaded.best_epoch_) == (model.history_, model.n_iter_, model.best_epoch_)
    assert loaded.validation_score_ == model.validation_score_ and loaded.n_features_in_ == 20
    if settings.get("random_state", 0) is not None:
        assert np.array_equal(loaded.fit(ratings()).complete(), model.fit(ratings()).complete())
    assert [entry.name for entry in path.parent.iterdir()] == ["model.safetensors"]


def test_column_names_of_a_data_frame_are_kept(tmp_path):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame(ratings()[:, :3], columns=["a", "b", "c"])
    model = MatrixCompletion(rank=2, max_epochs=2, random_state=0).fit(frame)
    model.save(tmp_path / "model")
    assert MatrixCompletion.load(tmp_path / "model").feature_names_in_.tolist() == ["a", "b", "c"]


def test_a_fitted_model_survives_pickling():
    model = MatrixCompletion(rank=4, max_epochs=3, random_state=0).fit(ratings())
    assert np.array_equal(pickle.loads(pickle.dumps(model)).complete(), model.complete())


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "model"
    model = MatrixCompletion(rank=4, max_epochs=3, random_state=0).fit(ratings())
    model.save(path)
    before = path.read_bytes()

    def half_written(tensors, name, metadata):
        with open(name, "wb") as opened:
            opened.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(files, "save_file", half_written)
    with pytest.raises(OSError, match="disk full"):
        model.save(path)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="file not found: .*none; pass the path the model was saved to"):
        MatrixCompletion.load(tmp_path / "none")
    damaged = tmp_path / "damaged"
    damaged.write_bytes(b"\x00" * 100)
    with pytest.raises(ValueError, match="is not a safetensors file, or it is damaged"):
        MatrixCompletion.load(damaged)
    other = tmp_path / "other"
    save_file({"weight": torch.zeros(2)}, other)
    with pytest.raises(ValueError, match="holds 'something else', but 'dmf.MatrixCompletion' is needed"):
        MatrixCompletion.load(other)


def test_what_json_does_not_know_is_refused(tmp_path):
    with pytest.raises(TypeError, match="set cannot be written as JSON; pass numbers"):
        files.write_file(tmp_path / "file", "kind", {"x": torch.zeros(1)}, {"value": {1, 2}})
    assert list(tmp_path.iterdir()) == []


def test_a_generator_as_random_state_cannot_be_saved(tmp_path):
    model = MatrixCompletion(rank=4, max_epochs=3, random_state=np.random.RandomState(0)).fit(ratings())
    with pytest.raises(ValueError, match="random_state is a RandomState, which cannot be saved; set it to an integer"):
        model.save(tmp_path / "model")
    model.set_params(random_state=np.int64(4)).save(tmp_path / "model")
    assert MatrixCompletion.load(tmp_path / "model").random_state == 4
