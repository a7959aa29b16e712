"""The few-shot study: fine-tuning on a few examples, Deep LoRA against LoRA and others, tuned on validation scores."""
