"""Names of the files and folders that a run writes, each once."""

ADAPTER = "adapter"
TRAINABLE = "deep_lora"  # in a folder of an adapter: what Deep LoRA trains on; at the root lies the plain LoRA
EXPORT = "lora_export"  # where runs of earlier versions have their plain LoRA
CONTRASTIVE = "contrastive"  # .safetensors: what is trained beside adapters; .json: how the model is put together
ADAPTER_CONFIG, CONTRASTIVE_CONFIG = "adapter_config.json", f"{CONTRASTIVE}.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
RESULTS, FIGURE = "results.json", "training.png"
CONFUSION, SCORES_BY_LABEL = "confusion.png", "scores_by_label.png"
CHECKPOINT, MANIFEST, STATE = "checkpoint-", "manifest.json", "trainer_state.json"
PARTIAL = ".partial"  # a folder; what lies in it is never read
CARD = "README.md"
# A pickle, which nobody should load from others.
TRAINING_ARGUMENTS = "training_args.bin"
# Of `deep-lora complete`.
MODEL, MATRIX_NAMES, PREDICTIONS, FIT = "model.safetensors", "names.json", "predictions.csv", "checkpoint.safetensors"
GGUF = "adapter.gguf"  # of `deep-lora convert --to gguf`
# Of `deep-lora inspect`.
INSPECTION, SPECTRA = "inspection.json", "spectra.png"
# Of `deep-lora compare`.
COMPARISON, COMPARISON_FIGURE, OUTPUT = "comparison.json", "comparison.png", "output.txt"
