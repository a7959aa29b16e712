"""Base models, their adapters, and the precision they are trained in."""
