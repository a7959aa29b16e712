"""What an adapted layer holds and where it lies: its tensors, and the weight of its base layer."""
