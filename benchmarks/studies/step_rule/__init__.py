"""A search for a step rule that leaves no learning rate to choose."""
