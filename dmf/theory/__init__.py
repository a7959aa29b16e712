"""What is proved and observed about the training of deep factorizations, as functions."""
