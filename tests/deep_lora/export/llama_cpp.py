"""Llama models in llama.cpp: written as GGUF without a rounding, and asked for their logits.

python -m tests.deep_lora.export.llama_cpp MODEL ADAPTER    (folders; what the documentation quotes of SmolLM2)
"""

from __future__ import annotations

import ctypes
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from deep_lora import convert_to_gguf

TEXTS = ("The capital of France is", "def add(a, b):\n    return", "A recipe for bread needs flour, water,")


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


def logits(base: Path, ids: list[int], adapter: Path | None = None) -> Tensor:
    """Return llama.cpp's logits (tokens x vocabulary), with keys and values in float16, its default."""
    api = library()
    api._lib.llama_log_set(_silent, None)
    model = api.llama_model_load_from_file(str(base).encode(), api.llama_model_default_params())
    assert model, f"llama.cpp does not load {base}"
    settings = api.llama_context_default_params()
    settings.n_ctx, settings.n_threads, settings.n_threads_batch = 512, 1, 1
    settings.flash_attn = False  # with it, the fork takes no adapters
    settings.fused_up_gate = False  # the fork's own, which leaves the adapters of up_proj and gate_proj out
    context = api.llama_init_from_model(model, settings)
    if adapter is not None:
        loaded = api._lib.llama_lora_adapter_init(model, str(adapter).encode())
        assert loaded, f"llama.cpp does not load {adapter}"
        assert api._lib.llama_lora_adapter_set(context, loaded, 1.0) == 0
    batch = api.llama_batch_init(len(ids), 0, 1)
    batch.n_tokens = len(ids)
    for place, token in enumerate(ids):
        batch.token[place], batch.pos[place], batch.n_seq_id[place], batch.logits[place] = token, place, 1, 1
        batch.seq_id[place][0] = 0
    assert api.llama_decode(context, batch) == 0
    width = api.llama_vocab_n_tokens(api.llama_model_get_vocab(model))
    found = [torch.tensor(api.llama_get_logits_ith(context, place)[:width]) for place in range(len(ids))]
    api.llama_batch_free(batch)
    api.llama_free(context)
    api.llama_free_model(model)
    return torch.stack(found)


def compare(folder: Path, adapter: Path) -> dict[str, float]:
    """Return the largest differences of logits between torch and llama.cpp, of the base alone and with the adapter."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = {"base": 0.0, "adapter": 0.0, "what the adapter changes": 0.0}
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        written = write_base(base, Path(place, "base.gguf"))
        convert_to_gguf(adapter, Path(place, "adapter.gguf"), base_model=str(folder))
        for text in TEXTS:
            ids = tokenizer(text)["input_ids"]
            plain = base(torch.tensor([ids])).logits[0]
            model = PeftModel.from_pretrained(base, str(adapter)).eval()
            adapted = model(torch.tensor([ids])).logits[0]
            model.unload()
            theirs = logits(written, ids), logits(written, ids, Path(place, "adapter.gguf"))
            for name, a, b in zip(found, (plain, adapted, plain), (*theirs, adapted), strict=True):
                found[name] = max(found[name], (a - b).abs().max().item())
    return found


if __name__ == "__main__":
    print(json.dumps(compare(Path(sys.argv[1]), Path(sys.argv[2])), indent=1))
