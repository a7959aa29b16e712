"""The benchmarks of contrastive steps run on tiny models and say what they measured."""

from __future__ import annotations

from benchmarks.speed import contrastive_memory, contrastive_overhead

TEXT = {
    "vocab_size": 20, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 8, "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip
VISION = {
    "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 8,
    "patch_size": 4,
}  # fmt: skip


def test_the_overhead_of_training_and_of_evaluation_is_measured_in_our_own_methods() -> None:
    settings = {
        "clip": {"projection_dim": 8, "text_config": TEXT, "vision_config": VISION}, "batch": 4, "tokens": 6,
        "steps": 2, "evaluated_pairs": 8, "repeats": 2, "warmup": 0, "seed": 0,
    }  # fmt: skip
    measured = contrastive_overhead.measure(settings)
    assert measured.keys() == {"training step", "evaluation"}
    for phase in measured.values():
        assert phase["runs"].keys() == {"plain", "ours"} and phase["seconds_in_our_methods"] > 0


def test_a_step_in_chunks_needs_less_memory_than_one_at_once() -> None:
    tower = {
        "vocab_size": 20, "hidden_size": 32, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2,
    }  # fmt: skip
    settings = {"threads": 1, "seed": 0, "tower": tower, "width": 8, "batch": 64, "tokens": 16}
    chunked, at_once = (contrastive_memory.one_batch({**settings, "chunk_size": size}) for size in (8, None))
    assert chunked["peak_allocated_bytes"] < at_once["peak_allocated_bytes"]
    assert chunked["peak_resident_bytes"] > 0
