"""What of a completion is kept on disk: fitted models, and the checkpoints of fits that were interrupted."""
