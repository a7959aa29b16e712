"""Adapters in llama.cpp: the same logits as in PEFT, up to what llama.cpp itself differs from torch by."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

pytest.importorskip("gguf")
pytest.importorskip("ik_llama_cpp", reason="no wheel of llama.cpp for this platform")

from benchmarks.llama_cpp import greedy, loaded, logits, write_base
from deep_lora import AdapterFileError, convert_to_gguf, save_as_lora
from tests.deep_lora.export.serving_cases import save
from tests.models import VOCABULARY, adapt, bert_classifier, disturb_, llama

IDS = [1, 7, 30, 12, 5, 40, 2, 9]
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A Llama with fewer heads for keys than for queries, its folder and its file."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    model = llama(**SIZES, tie_word_embeddings=False)
    model.save_pretrained(folder)
    return model, folder, write_base(model, folder / "base.gguf")


def torch_logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.tensor([IDS])).logits[0]


def largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a - b).abs().max().item()


@pytest.mark.parametrize("kind", ["deep_lora", "plain root", "export", "ranks of their own", "lora with a scale"])
def test_llama_cpp_says_what_peft_says(kind, base, tmp_path) -> None:
    model, folder, file = base
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "lm_head"]
    if kind == "lora with a scale":
        config = LoraConfig(r=4, lora_alpha=12, target_modules=targets, init_lora_weights=False)
        adapted = get_peft_model(copy.deepcopy(model), config)
        adapted.save_pretrained(str(tmp_path))
    else:
        adapted = adapt(copy.deepcopy(model), r=4, target_modules=targets, task_type="CAUSAL_LM")
        disturb_(adapted)
        if kind in ("deep_lora", "plain root"):
            adapted.save_pretrained(str(tmp_path), lora_at_root=kind == "plain root")
        else:
            save_as_lora(tmp_path, adapted, ranks="per_module" if "ranks" in kind else "uniform")
    ranks = convert_to_gguf(tmp_path, tmp_path / "adapter.gguf", base_model=str(folder))
    assert len(ranks) == 2 * 7 + 1
    wanted, plain = torch_logits(adapted), torch_logits(model)
    own = largest(logits(file, IDS), plain)  # what llama.cpp differs from torch by, without any adapter
    changed = largest(wanted, plain)
    found = largest(logits(file, IDS, tmp_path / "adapter.gguf"), wanted)
    assert own < 1e-2 * changed and found < 1e-2 * changed, (own, found, changed)


def test_a_tolerance_drops_small_singular_values(base, tmp_path) -> None:
    model, folder, _ = base
    adapted = adapt(copy.deepcopy(model), r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    disturb_(adapted)
    adapted.save_pretrained(str(tmp_path))
    assert set(convert_to_gguf(tmp_path, None, base_model=str(folder)).values()) == {4}
    assert max(convert_to_gguf(tmp_path, None, base_model=str(folder), tolerance=0.99).values()) < 4


def changed_type(folder, kind: str):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": kind}))


@pytest.mark.filterwarnings("ignore")
def test_what_llama_cpp_does_not_load_is_refused_with_the_reason(base, tmp_path) -> None:
    model, folder, _ = base
    for case, text in (
        (
            "a trained head",
            "llama.cpp does not load this adapter: what was trained beside LoRA would be missing: lm_head",
        ),
        ("embeddings", "llama.cpp does not load this adapter: the conversion takes only linear layers"),
    ):
        with pytest.raises(AdapterFileError, match=text):
            convert_to_gguf(save(tmp_path / case, case), None, base_model=str(folder))
    plain = save(tmp_path / "plain", "plain")
    with pytest.raises(AdapterFileError, match="the configuration of the base model 'me/base' is not on this machine"):
        convert_to_gguf(plain, None)
    half, file = save(tmp_path / "half", "plain"), tmp_path / "half" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({name: value for name, value in tensors.items() if "q_proj.lora_B" not in name}, file)
    with pytest.raises(AdapterFileError, match="the update of .*q_proj is not complete: lora_A or lora_B is missing"):
        convert_to_gguf(half, None, base_model=str(folder))
    save_file({name.removesuffix(".weight"): value for name, value in tensors.items()}, file)
    with pytest.raises(AdapterFileError, match="lacks .*q_proj.lora_A.weight.*; llama.cpp takes only linear layers"):
        convert_to_gguf(half, None, base_model=str(folder))
    bert_classifier().save_pretrained(tmp_path / "bert")
    with pytest.raises(
        AdapterFileError,
        match="the base model is a bert; only adapters of llama and mistral models can be written. Export to",
    ):
        convert_to_gguf(plain, None, base_model=str(tmp_path / "bert"))
    llama(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    head = save(tmp_path / "head", "a head")
    with pytest.raises(AdapterFileError, match="llama.cpp has no counterpart of 'lm_head'; train without it"):
        convert_to_gguf(head, tmp_path / "x.gguf", base_model=str(tmp_path / "tied"))
    assert VOCABULARY and not (tmp_path / "x.gguf").exists()


def test_the_adapter_in_the_file_is_the_one_that_peft_loads(base, tmp_path) -> None:
    model, folder, file = base
    adapted = adapt(copy.deepcopy(model), r=4, target_modules=["q_proj", "k_proj"], task_type="CAUSAL_LM")
    disturb_(adapted)
    adapted.save_pretrained(str(tmp_path), lora_at_root=True)
    convert_to_gguf(tmp_path, tmp_path / "adapter.gguf", base_model=str(folder))
    read = PeftModel.from_pretrained(copy.deepcopy(model), str(tmp_path))
    assert largest(logits(file, IDS, tmp_path / "adapter.gguf"), torch_logits(read)) < 1e-3


def test_llama_cpp_writes_what_torch_writes_and_differs_by_how_it_rounds_keys_and_values(base) -> None:
    model, _, file = base
    with loaded(file) as decode:
        usual, written = largest(decode(IDS), torch_logits(model)), greedy(decode, IDS, end=-1, room=6)
    wanted = model.generate(torch.tensor([IDS]), max_new_tokens=6, min_new_tokens=6, do_sample=False)[0, len(IDS) :]
    assert written == wanted.tolist()
    with loaded(file, cache="BF16") as decode:  # which has 3 bits less, an error 8 times as large
        assert 3 * usual < largest(decode(IDS), torch_logits(model)) < 20 * usual
        assert greedy(decode, IDS, end=written[1], room=6) == written[: written.index(written[1]) + 1]
