"""Contrastive training on pairs: what `deep-lora contrastive` has beyond the other commands."""

from training.pairs.files import load_contrastive

__all__ = ["load_contrastive"]
