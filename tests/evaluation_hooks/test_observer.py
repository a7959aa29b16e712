"""An observer collects from the model it points at, while it is attached and started."""

from __future__ import annotations

import pytest
import torch

from tests.evaluation_hooks.cases import Line, RowObserver


def show(model, *rows):
    model.eval()(x=torch.tensor(rows), labels=torch.tensor(rows))


def test_rows_count_between_start_and_stop_while_the_hooks_are_on() -> None:
    model = Line()
    observer = RowObserver(model)
    show(model, 1.0)
    observer.attach()
    show(model, 2.0)
    observer.start()
    show(model, 3.0)
    observer.stop()
    show(model, 4.0)
    assert observer.rows == [3.0]
    observer.start()
    assert observer.rows == []
    observer.detach()
    show(model, 5.0)
    assert observer.rows == [] and not model._forward_hooks


def test_attaching_twice_is_attaching_once() -> None:
    model = Line()
    observer = RowObserver(model)
    for _ in range(2):
        observer.attach()
    observer.start()
    show(model, 1.0)
    assert observer.rows == [1.0]
    observer.detach()
    assert not model._forward_hooks


def test_hooks_move_to_the_model_it_points_at() -> None:
    old, new = Line(), Line()
    observer = RowObserver(old)
    observer.point_at(new)
    assert not observer.observes(new)
    observer.attach()
    assert observer.observes(new) and not observer.observes(old)
    observer.point_at(old)
    assert observer.observes(old) and old._forward_hooks and not new._forward_hooks


def test_a_block_that_fails_leaves_no_hooks() -> None:
    model = Line()
    observer = RowObserver(model)
    with pytest.raises(KeyError), observer.watching():
        show(model, 1.0)
        raise KeyError
    show(model, 2.0)
    assert observer.rows == [1.0] and not model._forward_hooks
