"""What a finished run predicts for new data: classes, numbers, tags and texts."""
