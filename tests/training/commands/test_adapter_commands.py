"""`inspect` and `convert` as commands: exit statuses, what they print and write, errors that name their options."""

from __future__ import annotations

import json
import os

import pytest
import torch
from peft import PeftModel, get_peft_model
from peft.utils import CONFIG_NAME as CONFIG
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from deep_lora import DeepLoraConfig, save_as_lora
from tests.deep_lora.export import fuzz_adapters as fuzz
from tests.models import disturb_, gpt2, ids
from training.cli import main
from training.commands import inspect


def base(folder):
    torch.manual_seed(3)
    return AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2)


@pytest.fixture
def saved(bert, tmp_path):
    """A trained-looking adapter on linear layers and an embedding, and the model that holds it."""
    settings = {"rank_pattern": {"query": 2}, "init_scale": 0.5, "task_type": "SEQ_CLS"}
    config = DeepLoraConfig(r=4, target_modules=["query", "dense", "word_embeddings"], **settings)
    model = get_peft_model(base(bert), config).eval()
    disturb_(model)
    model.save_pretrained(tmp_path / "adapter")
    return model


def with_config(folder, **fields) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def test_convert_writes_what_the_library_exports_from_the_model(saved, tmp_path, capsys) -> None:
    save_as_lora(tmp_path / "expected", saved)
    assert main(["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")]) == 0
    assert f"10 modules, largest rank 4, written to {tmp_path / 'lora'}" in capsys.readouterr().out
    expected, found = (load_file(tmp_path / name / WEIGHTS) for name in ("expected", "lora"))
    assert expected.keys() == found.keys() and len(found) > 10
    assert all(torch.equal(expected[name], found[name]) for name in found)


def test_convert_passes_the_tolerance_on(saved, tmp_path, capsys) -> None:
    words = ["convert", "--adapter", str(tmp_path / "adapter"), "--dry_run"]
    assert main(words) == 0 and capsys.readouterr().out == "10 modules, largest rank 4\n"
    assert main([*words, "--tolerance", "0.99"]) == 0 and capsys.readouterr().out == "10 modules, largest rank 1\n"


def test_inspect_writes_a_table_and_a_picture(saved, tmp_path, capsys) -> None:
    assert main(["inspect", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "out")]) == 0
    assert "10 modules, mean effective rank" in capsys.readouterr().out
    assert (tmp_path / "out" / "spectra.png").read_bytes().startswith(b"\x89PNG")
    written = json.loads((tmp_path / "out" / "inspection.json").read_text())
    assert len(written["modules"]) == 10 and written["peft_type"] == "DEEP_LORA"
    assert written["bytes"] == (tmp_path / "adapter" / WEIGHTS).stat().st_size


def test_inspect_refuses_a_folder_that_it_cannot_write_to_and_tells_of_a_full_disk(
    saved, tmp_path, capsys, monkeypatch
) -> None:
    (tmp_path / "file").write_text("x")
    words = ["inspect", "--adapter", str(tmp_path / "adapter"), "--output_dir"]
    assert (
        main([*words, str(tmp_path / "file")]) == 2
        and "is a file; pass the name of a folder" in capsys.readouterr().err
    )

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(inspect, "write_json", full)
    assert main([*words, str(tmp_path / "out")]) == 1
    assert "out cannot be written: No space left on device; what is above is complete" in capsys.readouterr().err


def test_inspect_reads_lora(saved, tmp_path, capsys) -> None:
    save_as_lora(tmp_path / "lora", saved)
    assert main(["inspect", "--adapter", str(tmp_path / "lora")]) == 0
    assert "10 modules, mean effective rank" in capsys.readouterr().out


def test_convert_refuses_to_overwrite_and_dry_run_writes_nothing(saved, tmp_path, capsys) -> None:
    words = ["convert", "--adapter", str(tmp_path / "adapter")]
    before = sorted(tmp_path.rglob("*"))
    assert main([*words, "--dry_run"]) == 0 and sorted(tmp_path.rglob("*")) == before
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    assert main([*words, "--output_dir", str(tmp_path / "full")]) == 2
    assert "is not empty; pass another --output_dir, or --overwrite" in capsys.readouterr().err
    assert os.listdir(tmp_path / "full") == ["mine.txt"]
    assert main([*words, "--output_dir", str(tmp_path / "full"), "--overwrite"]) == 0
    assert main(words) == 2 and "convert needs --adapter and --output_dir" in capsys.readouterr().err
    assert main(["inspect"]) == 2 and "inspect needs --adapter" in capsys.readouterr().err


def test_what_cannot_be_written_is_told_from_what_cannot_be_asked(tmp_path, capsys) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    config, content = fuzz.sound_adapter()
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / WEIGHTS).write_bytes(content)
    words = ["convert", "--adapter", str(folder), "--assume_linear"]
    assert main([*words, "--dry_run", "--tolerance", "2"]) == 2
    assert "the adapter cannot be converted: `tolerance`" in capsys.readouterr().err
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main([*words, "--output_dir", str(blocked / "under")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert main([*words, "--output_dir", str(blocked), "--overwrite"]) == 2
    assert "file is a file; pass another --output_dir" in capsys.readouterr().err
    with_config(folder, peft_type="LORA")
    assert main([*words, "--output_dir", str(tmp_path / "out")]) == 2
    assert "is a LORA, not a DEEP_LORA; there is nothing to convert" in capsys.readouterr().err


def test_kinds_of_layers_are_not_guessed(saved, tmp_path, capsys) -> None:
    with_config(tmp_path / "adapter", base_model_name_or_path="gone/away")
    words = ["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")]
    assert main(words) == 2
    assert "pass --model, or --assume_linear if all of them are linear" in capsys.readouterr().err
    assert main([*words, "--model", "no/model"]) == 2
    assert "the base model no/model cannot be built" in capsys.readouterr().err


def test_a_bias_that_there_is_not_is_refused(saved, tmp_path, capsys) -> None:
    with_config(tmp_path / "adapter", bias="x" * 5000)
    assert main(["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")]) == 2
    printed = capsys.readouterr().err
    assert "the adapter's config has the bias" in printed and len(printed) < 300
    assert "it must be one of ['none', 'all', 'deep_lora_only']" in printed and not (tmp_path / "lora").exists()


def test_a_tied_head_is_converted_with_the_base_model_and_not_without(tmp_path, capsys) -> None:
    gpt2().save_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    config = DeepLoraConfig(r=4, target_modules=["wte", "c_attn"], ensure_weight_tying=True)
    model = get_peft_model(model, config).eval()
    disturb_(model)
    model.save_pretrained(tmp_path / "adapter")
    words = ["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path / "lora")]
    assert main([*words, "--model", str(tmp_path / "base")]) == 0
    fresh = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    lora = PeftModel.from_pretrained(fresh, tmp_path / "lora").eval()
    assert torch.allclose(model(ids()).logits, lora(ids()).logits, atol=1e-5)
    assert main([*words, "--assume_linear", "--overwrite"]) == 2
    assert "ties a head to an embedding, whose scale is not that of a linear layer; pass --model" in (
        capsys.readouterr().err
    )


def test_an_adapter_becomes_a_file_of_llama_cpp(tmp_path, llama, capsys) -> None:
    gguf = pytest.importorskip("gguf")
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(llama),
        DeepLoraConfig(r=3, target_modules=["q_proj"], task_type="CAUSAL_LM"),
    )
    disturb_(model)
    model.save_pretrained(tmp_path / "adapter", lora_at_root=True)
    words = ["convert", "--adapter", str(tmp_path / "adapter"), "--output_dir", str(tmp_path), "--to", "gguf"]
    assert main(words) == 0
    assert f"1 modules, largest rank 3, written to {tmp_path / 'adapter.gguf'}" in capsys.readouterr().out
    names = {one.name for one in gguf.GGUFReader(tmp_path / "adapter.gguf").tensors}
    assert names == {"blk.0.attn_q.weight.lora_a", "blk.0.attn_q.weight.lora_b"}
    assert main(words) == 2
    assert "adapter.gguf is there already; pass another --output_dir, or --overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite"]) == 0
    assert main([*words, "--ranks", "per_module"]) == 2
    assert "--ranks has no effect here; it needs --to lora" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_damaged_folders_end_a_command_with_a_sentence(tmp_path, capsys) -> None:
    statuses = []
    for seed in range(60):
        folder = tmp_path / str(seed)
        fuzz.write_case(folder, seed)
        linear = ["--assume_linear"] if seed % 2 else []
        statuses.append(main(["inspect", "--adapter", str(folder), *linear]))
        statuses.append(
            main(["convert", "--adapter", str(folder), "--output_dir", str(tmp_path / f"{seed}o"), *linear])
        )
    assert set(statuses) == {0, 2} and statuses.count(2) == capsys.readouterr().err.count("error: ")
