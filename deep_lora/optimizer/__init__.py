"""Parameter groups and steps for any optimizer."""
