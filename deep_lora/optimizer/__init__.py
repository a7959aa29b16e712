"""Parameter groups for any optimizer."""
