"""Who loads which adapter, and why not. `published_rules` holds the rules for vLLM and SGLang against their source."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from deep_lora import AdapterFileError, check_serving, save_as_lora
from tests.deep_lora.export.serving_cases import ALWAYS, CASES, save, save_classifier, save_deep_lora, with_fields
from tests.models import adapt, disturb_, llama


def reasons(folder) -> dict[str, str]:
    return {one.program: "; ".join(one.reasons) for one in check_serving(folder)}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_adapter_is_refused_by_the_right_programs(case, tmp_path) -> None:
    found = reasons(save(tmp_path, case))
    assert {name for name, text in found.items() if text} == CASES[case][1] | set(ALWAYS)
    assert all(text in found[name] for name, text in ALWAYS.items())


@pytest.mark.parametrize(
    ("case", "program", "text"),
    [
        ("a regular expression", "SGLang", "it takes names as target_modules, not '.*self_attn"),
        ("ranks of their own", "SGLang", "it takes one rank for all modules; export with `ranks='uniform'`"),
        ("a trained head", "vLLM", "of the modules trained whole it takes only classifier and score, not lm_head"),
        ("a trained head", "llama.cpp", "what was trained beside LoRA would be missing: lm_head.weight"),
        ("trained biases", "vLLM", "it does not take trained biases (bias='lora_only')"),
        ("token rows", "vLLM", "it takes only the tensors of LoRA, not model.embed_tokens"),
        ("embeddings", "llama.cpp", "takes only linear layers, not the embeddings model.embed_tokens"),
        ("embeddings", "TGI", "it silently leaves out the updates of the layers embed_tokens"),
        ("DoRA", "TGI", "it does not know DoRA (use_dora)"),
        (
            "one block alone",
            "TGI",
            "it silently leaves out the updates of a kind of layer that is not adapted in every",
        ),
        ("a scale of its own", "vLLM", "it scales all updates by 1 (lora_alpha and r), and that of"),
        (
            "a rank and thus a scale of its own",
            "vLLM",
            "model.layers.0.self_attn.q_proj needs 2; export again with one",
        ),
        ("rsLoRA", "SGLang", "it scales all updates by 1 (lora_alpha and r), and that of"),
        ("rank 600", "vLLM", "its ranks end at 512, and the adapter has 600; raise --tolerance"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_the_reason_says_what_and_what_to_do(case, program, text, tmp_path) -> None:
    assert text in reasons(save(tmp_path, case))[program]


@pytest.mark.parametrize(
    ("fields", "lost", "text"),
    [
        (
            {"r": 16},
            None,
            "q_proj the rank 16, and its tensors have 4; correct adapter_config.json, or save the adapter",
        ),
        ({"r": "4"}, None, "the config gives model.layers.0.self_attn.q_proj the rank '4', and its tensors have 4"),
        ({"r": 0}, None, "the config gives model.layers.0.self_attn.q_proj the rank 0, and its tensors have 4"),
        ({"rank_pattern": {"v_proj": 2}}, None, "v_proj the rank 2, and its tensors have 4"),
        ({}, "lora_B", "the update of model.layers.0.self_attn.q_proj is not complete: lora_A or lora_B is missing"),
        ({}, "lora_A", "the update of model.layers.0.self_attn.q_proj is not complete: lora_A or lora_B is missing"),
    ],
)
def test_an_adapter_whose_files_contradict_each_other_is_loaded_by_nobody(fields, lost, text, tmp_path) -> None:
    """PEFT fails on another rank, and without one of two tensors it goes on with an update of zero."""
    save(tmp_path, "plain")
    with_fields(tmp_path, **fields)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    gone = next((name for name in sorted(tensors) if lost and lost in name), None)
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, path)
    found = reasons(tmp_path)
    assert all(text in found[name] for name in found if name != "diffusers"), found


def test_vllm_takes_an_encoder_with_a_head_and_programs_that_only_generate_do_not(tmp_path) -> None:
    found = reasons(save_classifier(tmp_path))
    assert {name for name, text in found.items() if not text} == {"PEFT", "transformers", "vLLM"}
    assert "it has no LoRA for the layers query" in found["SGLang"]
    (tmp_path / "tokenizer.json").write_text("{}")
    assert reasons(tmp_path)["sentence-transformers"] == ""


def test_deep_lora_itself_needs_peft_and_an_import(tmp_path) -> None:
    found = reasons(save_deep_lora(tmp_path))
    assert "needs `import deep_lora` before loading" in found["PEFT"]
    assert "the config names no base model" in found["transformers"]
    assert all("it does not know DEEP_LORA: write the same update" in found[name] for name in ("vLLM", "SGLang", "TGI"))


def test_added_tokens_and_the_file_of_diffusers_are_seen(tmp_path) -> None:
    save(tmp_path, "plain")
    (tmp_path / "added_tokens.json").write_text("{}")
    assert "it does not take adapters with tokens of their own" in reasons(tmp_path)["SGLang"]
    for name, text in (
        ("unet.a.lora_A.weight", ""),
        ("a.lora_A.weight", "pytorch_lora_weights.safetensors names no part"),
    ):
        save_file({name: torch.zeros(2, 2)}, tmp_path / "pytorch_lora_weights.safetensors")
        assert reasons(tmp_path)["diffusers"] == text


def test_every_server_takes_the_export_of_a_pattern(tmp_path) -> None:
    model = adapt(llama(), r=4, target_modules=r".*\.(q|v|down)_proj", task_type="CAUSAL_LM")
    disturb_(model)
    save_as_lora(tmp_path, model)
    found = reasons(tmp_path)
    assert {name for name, text in found.items() if not text} >= {"PEFT", "vLLM", "SGLang", "TGI", "llama.cpp"}


@pytest.mark.parametrize(
    ("kind", "advice", "unknown"),
    [
        ("mistral", "after deep-lora convert --to gguf", ""),
        ("qwen2_moe", "after llama.cpp's convert_lora_to_gguf.py", ""),
        ("clip", "", "the base model is a clip, which the package gguf does not list under this name"),
        ("distilbert", "", "the base model is a distilbert, which the package gguf does not list under this name"),
        (None, "", "the configuration of the base model 'me/base' is not on this machine"),
    ],
)
def test_llama_cpp_is_answered_for_by_the_type_of_the_base(kind, advice, unknown, tmp_path) -> None:
    pytest.importorskip("gguf")
    save(tmp_path, "plain")
    if kind is not None:
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "config.json").write_text(json.dumps({"model_type": kind}))
        with_fields(tmp_path, base_model_name_or_path=str(tmp_path / "base"))
    found = next(one for one in check_serving(tmp_path) if one.program == "llama.cpp")
    assert (found.reasons, found.advice, found.unknown, found.loads) == ([], advice, unknown, bool(advice))


def test_without_the_package_gguf_only_the_bases_that_we_convert_are_answered_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with_fields(save(tmp_path, "plain"), base_model_name_or_path=str(tmp_path))
    found = next(one for one in check_serving(tmp_path) if one.program == "llama.cpp")
    assert found.unknown == "the base model is a qwen2; `pip install gguf` to look for it among the models of llama.cpp"


def test_what_servers_leave_out_is_named_before_it_is_saved(tmp_path) -> None:
    model = adapt(llama(), r=2, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM")
    with pytest.warns(
        UserWarning, match="beside LoRA the adapter holds lm_head.weight; PEFT and transformers load that"
    ):
        save_as_lora(tmp_path, model)


@pytest.mark.parametrize(
    ("break_", "message"),
    [
        (
            lambda folder: (folder / "adapter_config.json").unlink(),
            "not the folder of an adapter: it has no adapter_conf",
        ),
        (
            lambda folder: (folder / "adapter_model.safetensors").unlink(),
            "has no adapter_model.safetensors, so there is",
        ),
        (
            lambda folder: (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin"),
            "adapter_model.bin is a pickle, which can run code",
        ),
        (
            lambda folder: with_fields(folder, peft_type="IA3"),
            "holds an adapter of type IA3; only LORA and DEEP_LORA can",
        ),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "too few for a safetensors file"),
    ],
)
def test_a_folder_without_a_sound_adapter_is_refused(break_, message, tmp_path) -> None:
    save(tmp_path, "plain")
    break_(tmp_path)
    with pytest.raises(AdapterFileError, match=message):
        check_serving(tmp_path)
