"""Llama models in llama.cpp: written as GGUF without a rounding, and asked for their logits."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import torch
from torch import Tensor

Decode = Callable[..., Tensor]


def write_base(model: Any, path: Path) -> Path:
    """Write a Llama in float32, with its rows in the order of llama.cpp, and without a tokenizer."""
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float(config.rope_parameters["rope_theta"]))
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("none")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for kind, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if f"{kind}.weight" in name:
                tensor = tensor.reshape(heads, 2, -1, tensor.shape[1]).transpose(1, 2).reshape(tensor.shape)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), tensor.float().contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def library() -> Any:
    """Return the functions of llama.cpp, as ik_llama.cpp has them: a fork whose wheel runs on glibc 2.28."""
    from ik_llama_cpp import _ctypes_api as api

    pointer = ctypes.c_void_p
    for name, arguments, result in (
        ("llama_lora_adapter_init", [pointer, ctypes.c_char_p], pointer),
        ("llama_lora_adapter_set", [pointer, pointer, ctypes.c_float], ctypes.c_int32),
        ("llama_log_set", [pointer, pointer], None),
    ):
        function = getattr(api._lib, name)
        function.argtypes, function.restype = arguments, result
    return api


@ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)
def _silent(level: int, text: bytes, data: Any) -> None:
    """Print nothing."""


@contextmanager
def loaded(base: Path, adapter: Path | None = None, *, cache: str = "F16") -> Iterator[Decode]:
    """Load files into llama.cpp.

    Args:
        base: the model.
        adapter: on top of it, if there is one.
        cache: type of the keys and values that are kept, F16 or BF16; with F32 the fork crashes.

    Yields:
        A function of tokens, and of how many went before them, that returns the logits (tokens x vocabulary).
    """
    api = library()
    api._lib.llama_log_set(_silent, None)
    model = api.llama_model_load_from_file(str(base).encode(), api.llama_model_default_params())
    assert model, f"llama.cpp does not load {base}"
    settings = api.llama_context_default_params()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 512, 1, 1
    settings.flash_attn = False  # with it, the fork takes no adapters
    settings.fused_up_gate = False  # the fork's own, which leaves the adapters of up_proj and gate_proj out
    settings.type_k = settings.type_v = gguf.GGMLQuantizationType[cache]
    context = api.llama_init_from_model(model, settings)
    if adapter is not None:
        file = api._lib.llama_lora_adapter_init(model, str(adapter).encode())
        assert file, f"llama.cpp does not load {adapter}"
        assert api._lib.llama_lora_adapter_set(context, file, 1.0) == 0
    try:
        yield partial(_decode, api, model, context)
    finally:
        api.llama_free(context)
        api.llama_free_model(model)


def _decode(api: Any, model: Any, context: Any, ids: Sequence[int], before: int = 0) -> Tensor:
    if not before:
        api.llama_kv_cache_clear(context)
    batch = api.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place], batch.pos[place], batch.n_seq_id[place], batch.logits[place] = token, before + place, 1, 1
        batch.seq_id[place][0] = 0
    assert api.llama_decode(context, batch) == 0
    width = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    found = [torch.tensor(api.llama_get_logits_ith(context, place)[:width]) for place in range(len(ids))]
    api.llama_batch_free(batch)
    return torch.stack(found)


def logits(base: Path, ids: Sequence[int], adapter: Path | None = None) -> Tensor:
    """Return llama.cpp's logits (tokens x vocabulary)."""
    with loaded(base, adapter) as decode:
        return decode(ids)


def greedy(decode: Decode, ids: Sequence[int], end: int, room: int) -> list[int]:
    """Continue a text with the likeliest tokens, up to one that ends it or until there is no room."""
    written: list[int] = []
    scores = decode(ids)[-1]
    while len(written) < room:
        written.append(int(scores.argmax()))
        if written[-1] == end:
            break
        scores = decode(written[-1:], len(ids) + len(written) - 1)[-1]
    return written
