"""What differs between kinds of models: columns, labels, encoding, batches and metrics. One module for each task."""
