"""Heads of classification models: found by structure, and replaced by normalized ones."""
