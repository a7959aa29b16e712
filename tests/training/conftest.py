"""Folders with tiny models, made once, and the command as a function."""

from __future__ import annotations

import pytest

pytest.importorskip("datasets")
pytest.importorskip("sklearn")
pytest.importorskip("matplotlib")

from tests.training import tiny
from tests.training.tiny import QUICK
from training.cli import main


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory, request):
    """Prepared data sets go into a folder of the tests."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")
    datasets.disable_progress_bars()
    yield
    datasets.config.HF_DATASETS_CACHE = before


@pytest.fixture(scope="session")
def bert(tmp_path_factory):
    return tiny.save_bert(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    return tiny.save_llama(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="session")
def t5(tmp_path_factory):
    return tiny.save_t5(tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="session")
def vit(tmp_path_factory):
    return tiny.save_vit(tmp_path_factory.mktemp("vit"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    return tiny.save_clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture
def pictures(tmp_path):
    return tiny.save_pictures(tmp_path / "pictures")


@pytest.fixture
def reviews(tmp_path):
    return tiny.save_csv(tmp_path / "reviews.csv")


@pytest.fixture
def contrastive(capsys, tmp_path, monkeypatch):
    """Runs `deep-lora contrastive` in this process with a few small steps: (exit status, what it printed)."""

    def run(data, *words: object, output=tmp_path / "run", picture: bool = False):
        if not picture:
            monkeypatch.setattr("training.results.report.draw", lambda *_: None)
        quick = [word for word in QUICK if "--adapter_config" not in words or word not in ("--rank", "2")]
        options = ["--dataset", data, "--output_dir", output, *quick, "--validation_fraction", "0.25", *words]
        status = main(["contrastive", *map(str, options)])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


@pytest.fixture
def finetune(capsys, tmp_path, monkeypatch):
    """Runs `deep-lora finetune` in this process with a few small steps: (exit status, what it printed)."""

    def run(model, data, *words: object, output=tmp_path / "run", command: str = "finetune", picture: bool = False):
        if not picture:  # drawing takes half of such a short run
            monkeypatch.setattr("training.results.report.draw", lambda *_: None)
        quick = [word for word in QUICK if "--adapter_config" not in words or word not in ("--rank", "2")]
        options = ["--output_dir", output, *quick, *words]
        status = main([command, "--model", str(model), "--dataset", str(data), *map(str, options)])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run
