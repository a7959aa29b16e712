"""Models that return their contrastive loss, and how they are saved."""

from modality.models.contrastive_model import ContrastiveModel
from modality.models.dual_encoder import DualEncoder, Projection
from modality.models.pooling import Pooling, output_mask, tower_features

__all__ = ["ContrastiveModel", "DualEncoder", "Pooling", "Projection", "output_mask", "tower_features"]
