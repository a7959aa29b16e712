"""Adapters as GGUF files, for llama.cpp and what is built on it.

The names of the tensors are those of the package `gguf`. llama.cpp keeps the rows of the query and key projections of
Llama in another order (halves of a head interleaved), so those of B are brought into it; `convert_lora_to_gguf.py` of
llama.cpp does the same.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from deep_lora.export.conversion import convert_folder
from deep_lora.export.folders import AdapterFiles, read_adapter
from deep_lora.export.gguf_bases import ARCHITECTURES, base_config
from deep_lora.export.scales import lora_scale
from deep_lora.export.serving import check_serving
from deep_lora.export.target_names import plain_name
from deep_lora.files import AdapterFileError
from dmf.files import complete_file

_RANKS = 8
_INTERLEAVED = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}


def convert_to_gguf(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str] | None,
    *,
    tolerance: float = 0.0,
    base_model: str | None = None,
) -> dict[str, int]:
    """Write a saved Deep LoRA or LoRA adapter of a Llama as a GGUF file; `pip install gguf` first.

    The configuration of the base model is needed for the number of heads. Nothing in the folder is executed.

    Args:
        path: folder of the adapter.
        out: the file, which is replaced if it is there; None writes nothing and only finds the ranks.
        tolerance: of a Deep LoRA adapter, singular values below this fraction of a module's largest are dropped.
        base_model: name or folder of the base model; the one in the adapter's config if None.

    Returns:
        The rank in each module.

    Raises:
        AdapterFileError: a `ValueError`: no sound adapter, a base model of another architecture, or what llama.cpp does
            not load; the text says why.
        ImportError: the package `gguf` is not installed.
    """
    folder = Path(path)
    with tempfile.TemporaryDirectory() as place:
        files = read_adapter(folder)
        if files.peft_type == "DEEP_LORA":
            folder = Path(place)
            convert_folder(path, folder, tolerance=tolerance, base_model=base_model, overwrite=True)
            files = read_adapter(folder, root=True)
        _check(folder)
    pairs = _pairs(files)
    base = _known_base(files.config, base_model)
    tensors = {name: (A, _reordered(name, B, base)) for name, (A, B) in pairs.items()}
    if out is not None:
        _write(Path(out), _padded(tensors), base)
    return {name: A.shape[0] for name, (A, _) in tensors.items()}


def _check(folder: Path) -> None:
    (found,) = [one for one in check_serving(folder) if one.program == "llama.cpp"]
    if found.reasons:
        raise AdapterFileError(f"llama.cpp does not load this adapter: {'; '.join(found.reasons)}")


def _pairs(files: AdapterFiles) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B of each module, with its scale in B."""
    names = sorted({name.split(".lora_")[0] for name in files.tensors if ".lora_" in name})
    found = {}
    for path in names:
        try:
            A, B = (files.tensors[f"{path}.lora_{part}.weight"] for part in "AB")
        except KeyError as error:
            raise AdapterFileError(f"module {path[:80]!r} lacks {error}; llama.cpp takes only linear layers") from error
        name = plain_name(path)
        found[name] = (A.float(), B.float() * lora_scale(files.config, name, A.shape[0]))
    return found


def _padded(pairs: dict[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Return the pairs at one rank, a multiple of 8, with zeros: with others ik_llama.cpp computes something else."""
    rank = -(-max(len(A) for A, _ in pairs.values()) // _RANKS) * _RANKS
    pad = torch.nn.functional.pad
    return {name: (pad(A, (0, 0, 0, rank - len(A))), pad(B, (0, rank - len(A)))) for name, (A, B) in pairs.items()}


def _known_base(config: dict[str, Any], base_model: str | None) -> Any:
    found = base_config(config, base_model)
    if found.model_type not in ARCHITECTURES:
        raise AdapterFileError(
            f"the base model is a {found.model_type}; only adapters of {' and '.join(ARCHITECTURES)} models can "
            "be written. Export to plain LoRA, and convert that with llama.cpp's convert_lora_to_gguf.py"
        )
    return found


def _reordered(name: str, B: Tensor, base: Any) -> Tensor:
    """Return B with its rows in the order of llama.cpp.

    >>> from transformers import LlamaConfig
    >>> base = LlamaConfig(num_attention_heads=1, num_key_value_heads=1)
    >>> _reordered("layers.0.q_proj", torch.arange(4.0)[:, None], base).flatten()
    tensor([0., 2., 1., 3.])
    """
    heads = _INTERLEAVED.get(name.rpartition(".")[2])
    if heads is None:
        return B
    count = getattr(base, heads, None) or base.num_attention_heads
    return B.reshape(count, 2, len(B) // count // 2, -1).transpose(1, 2).reshape(B.shape)


def _write(out: Path, tensors: dict[str, tuple[Tensor, Tensor]], base: Any) -> None:
    import gguf

    architecture = ARCHITECTURES[base.model_type]
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], base.num_hidden_layers)
    named = {}
    for name, pair in tensors.items():
        found = known.get_name(name)
        if found is None or (found == "output" and base.tie_word_embeddings):
            raise AdapterFileError(f"llama.cpp has no counterpart of {name[:80]!r}; train without it")
        named[found] = pair
    out.parent.mkdir(parents=True, exist_ok=True)
    with complete_file(out) as partial:
        writer = gguf.GGUFWriter(partial, architecture)
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(next(iter(named.values()))[0].shape[0]))  # a scale of 1
        for name, (A, B) in named.items():
            writer.add_tensor(f"{name}.weight.lora_a", A.contiguous().numpy())
            writer.add_tensor(f"{name}.weight.lora_b", B.contiguous().numpy())
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
