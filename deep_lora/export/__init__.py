"""Deep LoRA adapters as plain LoRA, from a live model or from files."""
