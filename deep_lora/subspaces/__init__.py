"""The subspaces U and V from the first gradients of a model."""
