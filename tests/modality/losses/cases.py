"""Uneven shares of rows on two processes, and the gradients that each has."""

from __future__ import annotations

import torch
from torch import nn

from modality import DualEncoder, Temperature, contrastive_loss, sigmoid_loss
from modality.losses import gather_features
from modality.losses.gather import gather_rows

SHARES = (5, 3)
TOTAL, WIDTH = sum(SHARES), 4
IDS = torch.tensor([0, 1, 2, 0, 3, 4, 1, 0])
LOSSES = ("contrastive", "tiled", "duplicates", "sigmoid", "negatives", "one way")


def rows():
    return torch.randn(2, TOTAL, WIDTH, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def encoder():
    torch.manual_seed(1)
    return nn.ModuleDict(
        {"x": nn.Linear(WIDTH, 3), "y": nn.Linear(WIDTH, 3), "temperature": Temperature(0.2, "exp")}
    ).double()


class Loss(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.encoder, self.kind = encoder(), kind
        self.bias = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))

    def forward(self, x, y, ids, gather):
        others = self.encoder["y"](x)  # negatives, in uneven shares too
        x, y, inverse = self.encoder["x"](x), self.encoder["y"](y), self.encoder["temperature"]()
        if self.kind == "sigmoid":
            return sigmoid_loss(x, y, inverse, self.bias, ids=ids, gather=gather, block_size=2)
        settings = {
            "tiled": {"block_size": 2},
            "duplicates": {"ids": ids, "duplicates": "exclude"},
            "negatives": {"negatives": others, "ids": ids, "block_size": 2},
            "one way": {"direction": "y_to_x"},
        }.get(self.kind, {})
        return contrastive_loss(x, y, inverse, gather=gather, label_smoothing=0.1, **settings) + 0 * self.bias


def gradients(model):
    return {name.removeprefix("module."): p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def on_ranks(rank):
    own = slice(0, SHARES[0]) if rank == 0 else slice(SHARES[0], TOTAL)
    x, y = rows()[:, own]
    found = {}
    for kind in LOSSES:
        model = nn.parallel.DistributedDataParallel(Loss(kind))
        loss = model(x, y, IDS[own], True)
        loss.backward()
        found[kind] = (loss.item(), gradients(model))
    found["dual encoder"] = dual_encoder_gradients(x, y, wrap=True)
    leaf = x.clone().requires_grad_()
    gathered = gather_rows(leaf)
    (gathered.rows * (rank + 1)).sum().backward()
    found["gather"] = (gathered.rows.detach(), gathered.offset, leaf.grad)
    found["integers"] = gather_features(IDS[own])
    found["nothing"] = gather_features(x if rank else x[:0])
    return found


def dual_encoder_gradients(x, y, wrap):
    torch.manual_seed(2)
    model = DualEncoder(nn.Identity(), nn.Identity(), x_width=WIDTH, y_width=WIDTH, width=3, chunk_size=2).double()
    run = nn.parallel.DistributedDataParallel(model) if wrap else model
    loss = run(x, y).loss
    loss.backward()
    return loss.item(), gradients(model)
