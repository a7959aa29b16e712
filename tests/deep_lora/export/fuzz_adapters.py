"""Damaged and hostile adapter folders for `inspect_adapter` and `convert_folder`, and a long run of them by hand:

python -m tests.deep_lora.export.fuzz_adapters --count 10000 --seed 1
"""

from __future__ import annotations

import argparse
import collections
import json
import random
import struct
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from peft.utils import CONFIG_NAME as CONFIG
from peft.utils import SAFETENSORS_WEIGHTS_NAME as WEIGHTS
from safetensors.torch import save

from deep_lora import AdapterFileError, convert_folder, inspect_adapter

ODD = (
    None, True, -1, 0, 1, 3, 2**31, 2**63, 10**30, 1e-300, 1e300, float("nan"), float("inf"), "", "x", "../../x",
    "a" * 5000, "\u202e\x00", "*(((", "(a+)+$", [], [[]], {}, {"a": {"b": []}}, [1, "a", None],
    ["..", "/etc/passwd"],
)  # fmt: skip
OTHER_FIELDS = (
    "rank_pattern", "depth_pattern", "modules_to_save", "bias", "freeze_subspaces", "lora_alpha", "alpha_pattern",
    "use_rslora", "target_parameters", "auto_mapping", "deep_lora_version", "revision", "fan_in_fan_out", "x",
)  # fmt: skip
DTYPES = ("F32", "F64", "BF16", "F16", "I64", "BOOL", "U8", "F4", "C64", 7, None)


def sound_adapter(kind: str = "DEEP_LORA") -> tuple[dict, bytes]:
    """Config and file of a small adapter that is as it should be."""
    prefix, tensors = "base_model.model.layer.", {"base_model.model.head.weight": torch.ones(2, 3)}
    for number in range(2):
        if kind == "DEEP_LORA":
            parts = {"deep_lora_U": (6, 2), "deep_lora_V": (5, 2), "deep_lora_core": (3, 2, 2)}
            tensors |= {f"{prefix}{number}.{name}": torch.randn(shape) for name, shape in parts.items()}
            tensors[f"{prefix}{number}.deep_lora_start"] = torch.tensor(1e-4)
        else:
            tensors |= {f"{prefix}{number}.lora_{n}.weight": torch.randn(s) for n, s in (("A", (2, 5)), ("B", (6, 2)))}
    config = {"peft_type": kind, "r": 2, "target_modules": ["0", "1"], "base_model_name_or_path": None}
    extra = {"depth": 3, "init_scale": 1e-3, "core_scale": "auto"} if kind == "DEEP_LORA" else {"lora_alpha": 4}
    return config | extra | {"variant": "compressed", "task_type": None}, save(tensors)


def split_file(content: bytes) -> tuple[dict, bytes]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join_file(header: object, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def flip_bytes(content: bytes, generator: random.Random) -> bytes:
    changed = bytearray(content)
    for _ in range(generator.choice((1, 2, 8, 64))):
        changed[generator.randrange(len(changed))] = generator.randrange(256)
    return bytes(changed)


def cut_or_extend(content: bytes, generator: random.Random) -> bytes:
    if generator.random() < 0.5:
        return content[: generator.randrange(len(content))]
    return content + generator.randbytes(generator.randrange(1, 99))


def claim_length(content: bytes, generator: random.Random) -> bytes:
    claim = generator.choice((0, 1, 2**24, 2**40, 2**63, 2**64 - 1, generator.randrange(2**16)))
    return struct.pack("<Q", claim) + content[8:]


def change_header(content: bytes, generator: random.Random) -> bytes:
    header, data = split_file(content)
    name = generator.choice(list(header))
    entry = header[name] if isinstance(header[name], dict) else {}
    act = generator.randrange(6)
    if act == 0:
        entry["shape"] = generator.choice((*ODD, [2**40, 2**40], [1] * 40, [0, 5], [-1, 5], [5, 6], [2, 6]))
    elif act == 1:
        entry["data_offsets"] = generator.choice((*ODD, [0, 2**60], [5, 1], [0, 0]))
    elif act == 2:
        entry["dtype"] = generator.choice(DTYPES)
    elif act == 3:
        odd = ("", "..", "base_model.model...deep_lora_U", "base_model.model.__class__.deep_lora_U", "a" * 3000, "\x00")
        header[generator.choice(odd)] = header.pop(name)
    elif act == 4:
        header[name] = generator.choice(ODD)
    else:
        del header[name]
    return join_file(header, data)


def change_tensors(content: bytes, generator: random.Random) -> bytes:
    """A sound file with other numbers or shapes in it."""
    header, _ = split_file(content)
    tensors = {}
    for name, entry in header.items():
        shape = [max(0, size + generator.choice((0, 0, 0, 0, -1, 1))) for size in entry["shape"]]
        shape = shape[generator.choice((0, 0, 0, 0, 1)) :]
        scale = generator.choice((0.0, 1.0, 1.0, 1e30, 1e38, float("nan"), float("inf")))
        dtype = generator.choice((torch.float32, torch.float32, torch.float16, torch.float64, torch.int64, torch.bool))
        tensors[name] = (torch.randn(shape) * scale).to(dtype)
    return save(tensors)


def change_config(config: dict, generator: random.Random) -> bytes:
    config = dict(config)
    names = [*config, *OTHER_FIELDS]
    for _ in range(generator.choice((1, 1, 2, 5))):
        config[generator.choice(names)] = generator.choice(ODD)
    text = json.dumps(config).encode()
    return flip_bytes(text, generator) if generator.random() < 0.2 else text


WEIGHT_CHANGES: tuple[Callable[[bytes, random.Random], bytes], ...] = (
    flip_bytes, cut_or_extend, claim_length, change_header, change_header, change_tensors, change_tensors,
)  # fmt: skip


def write_case(folder: Path, seed: int) -> None:
    """One adapter folder, sound but for what the seed changes."""
    generator = random.Random(seed)
    torch.manual_seed(seed)
    config, content = sound_adapter(generator.choice(("DEEP_LORA", "DEEP_LORA", "LORA")))
    text = json.dumps(config).encode()
    which = generator.randrange(3)
    if which != 0:
        content = generator.choice(WEIGHT_CHANGES)(content, generator)
    if which != 1:
        text = change_config(config, generator)
    folder.mkdir()
    (folder / CONFIG).write_bytes(text)
    (folder / WEIGHTS).write_bytes(content)


def run_case(sandbox: Path, seed: int) -> str:
    """Read one case with both functions; anything but this project's own error passes through.

    Returns:
        "read" or "refused".

    Raises:
        AssertionError: a file was written outside of the output folder.
    """
    adapter, output = sandbox / "adapter", sandbox / "output"
    write_case(adapter, seed)
    outcome = "refused"
    for action in (
        lambda: inspect_adapter(adapter),
        lambda: convert_folder(adapter, output, assume_linear=bool(seed % 2)),
    ):
        try:
            action()
            outcome = "read"
        except AdapterFileError:
            pass
    found = {path.name for path in sandbox.iterdir()} | {path.name for path in adapter.iterdir()}
    assert found <= {"adapter", "output", CONFIG, WEIGHTS}, f"seed {seed} wrote {found}"
    return outcome


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start, outcomes = time.perf_counter(), collections.Counter()
    for seed in range(arguments.seed, arguments.seed + arguments.count):
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                outcomes[run_case(Path(folder), seed)] += 1
            except Exception as error:
                outcomes["crashed"] += 1
                print(f"seed {seed}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    print(f"{arguments.count} cases in {time.perf_counter() - start:.0f} s: {dict(outcomes)}")


if __name__ == "__main__":
    main()
