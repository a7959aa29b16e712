"""Contrastive losses: of whole batches, in tiles, in chunks and over all ranks."""

from modality.losses.chunks import encode_in_chunks
from modality.losses.contrastive import Direction, Duplicates, contrastive_loss, duplicate_mask, sigmoid_loss
from modality.losses.gather import gather_features
from modality.losses.objective import ContrastiveObjective, Loss

__all__ = [
    "ContrastiveObjective",
    "Direction",
    "Duplicates",
    "Loss",
    "contrastive_loss",
    "duplicate_mask",
    "encode_in_chunks",
    "gather_features",
    "sigmoid_loss",
]
