"""For sentence-transformers, which has to be installed: our losses in its Trainer, and alignments in its models."""

from modality.sentence_transformers.aligned import AlignedEmbeddings
from modality.sentence_transformers.losses import ContrastivePairsLoss

__all__ = ["AlignedEmbeddings", "ContrastivePairsLoss"]
