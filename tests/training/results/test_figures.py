"""`training.png` and the table of `inspect`: nothing empty, shares end at 1, 80 columns."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import matplotlib.pyplot as plt
import pytest

from training.commands import inspect
from training.results import report

LOG = [{"step": step, "loss": 1 / step, "eval_accuracy": 0.9 + step / 100, "eval_loss": 0.5} for step in range(1, 11)]


@pytest.fixture
def drawn(monkeypatch):
    """The axes of a figure, before it is saved."""

    def draw(module, *arguments):
        found = []

        @contextmanager
        def figure(path, rows=1, columns=1, **_):
            _, axes = plt.subplots(rows, columns, squeeze=False)
            found.extend(axes.flat)
            yield list(axes.flat)

        monkeypatch.setattr(module, "figure", figure)
        module.draw("x.png", *arguments)
        return found

    yield draw
    plt.close("all")


def test_panels_without_values_are_not_drawn(drawn) -> None:
    axes = drawn(report, LOG, [("f1",), ("accuracy",)])
    assert [place.get_title() for place in axes] == ["loss", "accuracy"]
    assert axes[0].get_lines()[0].get_xydata().tolist() == [[step, 1 / step] for step in range(1, 11)]
    assert axes[1].get_ylim()[1] == 1.0 and axes[0].get_ylim()[1] > 1.0
    (only,) = drawn(report, [{"step": 1, "loss": 3.0}], [("accuracy",)])
    assert only.get_title() == "loss" and only.get_xlim()[0] == 0 and only.get_xlim()[1] == pytest.approx(1.03)
    assert all(tick == round(tick) for tick in only.get_xticks())


def test_the_table_of_spectra_fits_a_terminal_and_bars_have_names(drawn) -> None:
    name = "base_model.model.bert.encoder.layer.0.attention.self.query"
    module = SimpleNamespace(
        module=name, out_features=10_000, in_features=10_000, rank=64, effective_rank=12.3, singular_values=[1.0, 0.1]
    )
    other = SimpleNamespace(**vars(module) | {"module": name.replace("layer.0", "layer.11")})
    found = SimpleNamespace(modules=[module, other], parameters=10**9, bytes=10**10)
    lines = inspect.table(found).splitlines()
    assert max(map(len, lines)) <= 80 and "attention.self.query" in lines[1]
    labels = [label.get_text() for label in drawn(inspect, found)[1].get_xticklabels()]
    assert labels == [line.split()[0] for line in lines[1:3]] and len(set(labels)) == 2, "the layer stays"
