"""Two gloo processes have the gradients of one process with all rows, for uneven shares too."""

from __future__ import annotations

import pytest
import torch

from modality.losses import gather_features
from tests.modality.losses.cases import IDS, LOSSES, SHARES, WIDTH, Loss, dual_encoder_gradients, gradients, rows


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*LOSSES, "dual encoder"])
def test_averaged_gradients_of_two_uneven_processes_are_those_of_one_with_all_rows(ranks, kind) -> None:
    x, y = rows()
    if kind == "dual encoder":
        value, expected = dual_encoder_gradients(x, y, wrap=False)
    else:
        model = Loss(kind)
        loss = model(x, y, IDS, False)
        loss.backward()
        value, expected = loss.item(), gradients(model)
    (mine, first), (theirs, second) = (found["gather"][kind] for found in ranks)
    assert (mine + theirs) / 2 == pytest.approx(value, rel=1e-12)
    assert len(expected) >= 3 and set(first) == set(expected)
    for name, gradient in expected.items():
        torch.testing.assert_close(first[name], gradient, rtol=1e-10, atol=1e-13)
        assert torch.equal(first[name], second[name])


@pytest.mark.slow
def test_rows_arrive_in_rank_order_and_gradients_are_summed_where_they_came_from(ranks) -> None:
    for rank, found in enumerate(run["gather"] for run in ranks):
        gathered, offset, gradient = found["gather"]
        assert torch.equal(gathered, rows()[0]) and offset == (0, SHARES[0])[rank]
        assert torch.equal(gradient, torch.full((SHARES[rank], WIDTH), 3.0, dtype=torch.float64))
        assert torch.equal(found["integers"], IDS)
        assert torch.equal(found["nothing"], rows()[0][SHARES[0] :])


def test_one_process_gets_its_own_rows_back() -> None:
    x = torch.randn(3, 2)
    assert gather_features(x) is x
