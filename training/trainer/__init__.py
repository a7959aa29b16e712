"""The Trainer, its optimizer and its checkpoints."""
