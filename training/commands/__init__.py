"""One module for each command of `deep-lora`."""
