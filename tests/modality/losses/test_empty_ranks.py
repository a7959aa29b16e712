"""A process without rows takes part in every collective, so that the others do not wait for it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from modality import DualEncoder, contrastive_loss, sigmoid_loss
from modality.metrics.observer import PairObserver
from modality.swapping.swap import SwapRule
from tests.modality.losses.cases import IDS, WIDTH, gradients, rows
from tests.processes import results_of_two

KINDS = ("contrastive", "exclude", "sigmoid", "swapped")


def of(kind, x, y, ids, gather):
    torch.manual_seed(2)
    loss = "sigmoid" if kind == "sigmoid" else "contrastive"
    settings = {"loss": loss, "duplicates": "exclude" if kind == "exclude" else "share", "gather": gather}
    model = DualEncoder(
        nn.Identity(), nn.Identity(), x_width=WIDTH, y_width=WIDTH, width=3, chunk_size=2, **settings
    ).double()
    run = nn.parallel.DistributedDataParallel(model) if gather else model
    rule = {"modality_swap": SwapRule("row", 1.0).encode(len(x))} if kind == "swapped" else {}
    found = run(x, y, ids=ids, **rule).loss
    found.backward()
    return found.item(), gradients(model)


def on_ranks(rank, folder):
    own = slice(0, 0) if rank == 0 else slice(None)
    x, y = rows()[:, own]
    found = {kind: of(kind, x, y, IDS[own], True) for kind in KINDS}
    observer = PairObserver(nn.Linear(1, 1), pool_size=20)
    if rank == 1:
        observer.take(x, y, IDS)
    found["metrics"] = observer.metrics()
    errors = []
    for loss in (contrastive_loss, lambda *args, **settings: sigmoid_loss(*args, 0.0, **settings)):
        try:
            loss(x[:0], y[:0], 5.0, gather=True)
        except ValueError as error:
            errors.append(str(error))
    return found | {"errors": errors}


@pytest.mark.slow
def test_a_process_without_rows_does_not_hang_the_other_and_changes_nothing(tmp_path) -> None:
    found = results_of_two(on_ranks, tmp_path)
    x, y = rows()
    for kind in KINDS:
        value, expected = of(kind, x, y, IDS, False)
        assert sum(rank[kind][0] for rank in found) / 2 == pytest.approx(value, rel=1e-12)
        for rank in found:
            for name, gradient in expected.items():
                torch.testing.assert_close(rank[kind][1][name], gradient, rtol=1e-10, atol=1e-13)
    alone = PairObserver(nn.Linear(1, 1), pool_size=10)
    alone.take(x, y, IDS)
    for rank in found:
        assert rank["metrics"] == pytest.approx(alone.metrics(), rel=1e-9)
        assert len(rank["errors"]) == 2 and all("there is no pair on any rank" in text for text in rank["errors"])
