"""Hostile adapter folders get a sentence: nothing is executed, and no memory is spent on what they claim."""

from __future__ import annotations

import json
import struct
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.utils import CONFIG_NAME as CONFIG
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from peft.utils import WEIGHTS_NAME as PICKLED
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from deep_lora import AdapterFileError, convert_folder, inspect_adapter
from deep_lora.export.folders import MAX_CONFIG_BYTES, read_adapter
from tests.deep_lora.export import fuzz_adapters as fuzz


def sound(folder: Path, kind: str = "DEEP_LORA") -> Path:
    config, content = fuzz.sound_adapter(kind)
    folder.mkdir()
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / WEIGHTS).write_bytes(content)
    return folder


def with_config(folder: Path, **fields) -> None:
    path = folder / CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def with_header(folder: Path, change) -> None:
    header, data = fuzz.split_file((folder / WEIGHTS).read_bytes())
    (folder / WEIGHTS).write_bytes(fuzz.join_file(change(header), data))


def with_tensors(folder: Path, **tensors) -> None:
    held = load_file(folder / WEIGHTS)
    held.update({name.replace("__", "."): tensor for name, tensor in tensors.items()})
    save_file({name: tensor for name, tensor in held.items() if tensor is not None}, folder / WEIGHTS)


FIRST = "base_model.model.layer.0.deep_lora_U"
CASES = {
    "no folder": (lambda f: f.rename(f.parent / "elsewhere"), "adapter is not a folder; an adapter is a folder with"),
    "no config": (lambda f: (f / CONFIG).unlink(), "has no adapter_config.json"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "has no adapter_model.safetensors"),
    "a pickle": (lambda f: (f / WEIGHTS).rename(f / PICKLED), "is a pickle, which can run code"),
    "huge config": (lambda f: (f / CONFIG).write_text(" " * (MAX_CONFIG_BYTES + 1)), "a config has at most 1,048,576"),
    "config no JSON": (lambda f: (f / CONFIG).write_text("{"), "adapter_config.json is not JSON: "),
    "deep config": (lambda f: (f / CONFIG).write_text("[" * 100_000), "adapter_config.json is not JSON"),
    "config a list": (lambda f: (f / CONFIG).write_text("[]"), "is not an adapter's config"),
    "other method": (lambda f: with_config(f, peft_type="VERA"), "is a VERA; only DEEP_LORA and LORA can be inspected"),
    "bare parameters": (lambda f: with_config(f, target_parameters=["x"]), "adapts bare parameters"),
    "bad value": (lambda f: with_config(f, init_scale="x"), "do not fit its config.*init_scale"),
    "no header": (lambda f: (f / WEIGHTS).write_bytes(b"abc"), "has 3 bytes, too few for a safetensors file"),
    "vast header": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + b"{}"),
        "claims a header of 4,611,686,018,427,387,904 bytes; the file has ",
    ),
    "header a list": (
        lambda f: with_header(f, lambda h: []), "header of .* holds a list; it must map names to tensors"
    ),
    "header no JSON": (
        lambda f: (f / WEIGHTS).write_bytes(struct.pack("<Q", 2) + b"{["), "the header of .* is not JSON: "
    ),
    "vast shape": (
        lambda f: with_header(f, lambda h: h | {FIRST: h[FIRST] | {"shape": [2**40, 2]}}),
        "claims shape .* needs .* bytes, but gives it ",
    ),
    "negative shape": (
        lambda f: with_header(f, lambda h: h | {FIRST: h[FIRST] | {"shape": [-6, -2]}}),
        "describes no valid tensor under .*sizes must be whole numbers, not negative, and at most 8",
    ),
    "long name": (
        lambda f: with_header(f, lambda h: h | {"a" * 2000: h.pop(FIRST)}),
        r"names a tensor 'aaa.*\.\.\.; a name must be printable, with at most 1024 characters",
    ),
    "overlap": (
        lambda f: with_header(f, lambda h: h | {"copy": dict(h[FIRST])}), "overlap or leave a gap at byte"
    ),
    "hidden bytes": (lambda f: (f / WEIGHTS).write_bytes((f / WEIGHTS).read_bytes() + b"xyz"), "its header describes"),
    "half a module": (lambda f: with_tensors(f, **{FIRST.replace(".", "__"): None}), "parts of module .* do not fit"),
    "a strange name": (
        lambda f: with_header(
            f, lambda h: {n.replace("layer.0", "lay er.0") if "." in n else n: e for n, e in h.items()}
        ), "is not the name of a module under"
    ),
    "one inside another": (
        lambda f: with_header(f, lambda h: {n.replace("layer.0.deep", "layer.deep"): e for n, e in h.items()}),
        "lies inside another adapted module|has no module|do not fit",
    ),
    "no start": (lambda f: with_tensors(f, base_model__model__layer__0__deep_lora_start=None), "do not fit its config"),
    "nothing adapted": (
        lambda f: save_file({"base_model.model.x": torch.ones(1)}, f / WEIGHTS),
        "no Deep LoRA tensors were found in the file",
    ),
    "complex": (
        lambda f: with_tensors(f, **{FIRST.replace(".", "__"): torch.ones(6, 2, dtype=torch.complex64)}),
        "holds complex numbers; the tensors of an adapter must be real",
    ),
    "whole numbers": (
        lambda f: with_tensors(f, **{FIRST.replace(".", "__"): torch.ones(6, 2, dtype=torch.int64)}),
        "holds whole numbers for .*; the factors of an update must be floating-point numbers",
    ),
    "not finite": (
        lambda f: with_tensors(f, **{FIRST.replace(".", "__"): torch.full((6, 2), torch.nan)}), "not finite in module"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda name: name.replace(" ", "_"))
def test_a_folder_that_is_no_adapter_is_refused_with_the_reason(case, tmp_path) -> None:
    damage, message = CASES[case]
    folder = sound(tmp_path / "adapter")
    damage(folder)
    with pytest.raises(AdapterFileError, match=message):
        inspect_adapter(folder)


def test_lora_files_are_checked_as_well(tmp_path) -> None:
    folder = sound(tmp_path / "adapter", "LORA")
    with_config(folder, lora_alpha="x")
    with pytest.raises(AdapterFileError, match="lora_alpha or alpha_pattern in the config is not a number"):
        inspect_adapter(folder)
    with_config(folder, lora_alpha=4)
    with_tensors(folder, base_model__model__layer__0__lora_A__weight=torch.ones(3, 5))
    with pytest.raises(AdapterFileError, match=r"expected A \(r, in\), B \(out, r\)"):
        inspect_adapter(folder)
    save_file({"other": torch.ones(1)}, folder / WEIGHTS)
    with pytest.raises(AdapterFileError, match="no adapted module was found in the file"):
        inspect_adapter(folder)


@pytest.mark.parametrize("kind", ["LORA", "DEEP_LORA"])
def test_updates_of_bare_parameters_are_not_taken_for_those_of_layers(kind, tmp_path) -> None:
    """LoRA's file holds A (r experts, in) and B (out, r experts), whose product is the update of no expert."""
    folder = sound(tmp_path / "adapter", kind)
    with_config(folder, target_parameters=["experts.gate_up_proj"])
    with pytest.raises(AdapterFileError, match="adapts bare parameters.*; load it on its model and"):
        inspect_adapter(folder)
    with_config(folder, target_parameters=[])
    assert len(inspect_adapter(folder).modules) == 2


def test_a_link_out_of_the_folder_is_refused_but_the_cache_of_the_hub_is_read(tmp_path) -> None:
    folder = sound(tmp_path / "adapter")
    (folder / CONFIG).rename(tmp_path / "secret.json")
    (folder / CONFIG).symlink_to(tmp_path / "secret.json")
    with pytest.raises(AdapterFileError, match="is a link that leads out of its folder"):
        read_adapter(folder)
    (tmp_path / "cache" / "snapshots").mkdir(parents=True)
    snapshot = sound(tmp_path / "cache" / "snapshots" / "abc")
    (tmp_path / "cache" / "blobs").mkdir()
    (snapshot / WEIGHTS).rename(tmp_path / "cache" / "blobs" / "123")
    (snapshot / WEIGHTS).symlink_to(tmp_path / "cache" / "blobs" / "123")
    assert len(inspect_adapter(snapshot).modules) == 2


def test_a_vast_claim_costs_no_memory(tmp_path) -> None:
    """Ranks in the config are not believed: nothing of that size is allocated."""
    import resource

    folder = sound(tmp_path / "adapter")
    with_config(folder, r=2**30, rank_pattern={"0": 2**30}, base_model_name_or_path=None)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert [one.rank for one in inspect_adapter(folder).modules] == [2, 2]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000, "KiB"


def test_convert_refuses_what_is_no_deep_lora(tmp_path) -> None:
    folder = sound(tmp_path / "adapter", "LORA")
    with pytest.raises(AdapterFileError, match="is a LORA, not a DEEP_LORA; there is nothing to convert"):
        convert_folder(folder, tmp_path / "out")
    folder = sound(tmp_path / "other")
    with pytest.raises(AdapterFileError, match="the adapter cannot be converted: `tolerance`"):
        convert_folder(folder, None, assume_linear=True, tolerance=2)
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(OSError, match="under cannot be written: "):
        convert_folder(folder, blocked / "under", assume_linear=True)
    with pytest.raises(NotADirectoryError, match="file is a file; pass another `out`, the name of a folder"):
        convert_folder(folder, blocked, assume_linear=True, overwrite=True)


@settings(max_examples=120, deadline=None)
@given(st.integers(0, 2**40))
@pytest.mark.filterwarnings("ignore")
def test_no_damaged_folder_does_more_than_be_refused(seed) -> None:
    with tempfile.TemporaryDirectory() as folder:
        assert fuzz.run_case(Path(folder), seed) in ("read", "refused")


def test_the_damages_are_many_and_most_are_seen(tmp_path) -> None:
    outcomes = []
    for seed in range(60):
        (tmp_path / str(seed)).mkdir()
        outcomes.append(fuzz.run_case(tmp_path / str(seed), seed))
    assert 5 < outcomes.count("read") < 40


def test_an_update_that_cannot_be_decomposed_is_named(tmp_path, monkeypatch) -> None:
    def fail(*_):
        raise torch.linalg.LinAlgError("it did not converge")

    monkeypatch.setattr("deep_lora.export.spectra.factor_svd", fail)
    with pytest.raises(
        AdapterFileError, match="the singular values of module 'layer.0' cannot be computed: it did not converge"
    ):
        inspect_adapter(sound(tmp_path / "sound"))


def test_a_file_that_changes_after_its_header_was_checked_is_refused(tmp_path, monkeypatch) -> None:
    folder = sound(tmp_path / "adapter")

    def truncated_since(path: Path, framework: str):
        path.write_bytes(path.read_bytes()[:-40])
        return safe_open(path, framework=framework)

    monkeypatch.setattr("deep_lora.export.folders.safe_open", truncated_since)
    with pytest.raises(AdapterFileError, match="is not a readable safetensors file: "):
        inspect_adapter(folder, assume_linear=True)
