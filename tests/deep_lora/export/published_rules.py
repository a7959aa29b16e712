"""Hold our rules for vLLM and SGLang against the programs' own source, as it was published.

pip download --no-deps vllm==0.33.0 sglang==0.5.23
python -m tests.deep_lora.export.published_rules vllm-0.33.0-*.whl sglang-0.5.23-*.whl

Their adapter readers are executed out of the wheels, with stand-ins for what they import. It is run by hand, and once
more for each version that the docs name: the wheels have several hundred megabytes.
"""

from __future__ import annotations

import ast
import math
import sys
import tempfile
import types
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from deep_lora import check_serving
from tests.deep_lora.export.serving_cases import CASES, save

LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj", "embed_tokens", "lm_head"}


def module(name: str, **held: Any) -> types.ModuleType:
    found = types.ModuleType(name)
    vars(found).update(held)
    sys.modules[name] = found
    return found


def run_source(wheel: zipfile.ZipFile, path: str, name: str) -> dict[str, Any]:
    found = module(name, __file__=path)
    exec(compile(wheel.read(path), path, "exec"), vars(found))
    return vars(found)


def definitions(wheel: zipfile.ZipFile, path: str, names: set[str], **given: Any) -> dict[str, Any]:
    """Execute these functions and constants of a file, and nothing else of it."""
    tree = ast.parse(wheel.read(path))

    def named(node: ast.stmt) -> set[str]:
        if isinstance(node, ast.Assign):
            return {target.id for target in node.targets if isinstance(target, ast.Name)}
        return {node.name} if isinstance(node, ast.FunctionDef) else set()

    future = ast.parse("from __future__ import annotations").body
    body = [node for node in tree.body if named(node) & names]
    assert {name for node in body for name in named(node)} >= names
    exec(compile(ast.Module(future + body, []), path, "exec"), given)
    return given


def vllm_loader(path: str) -> Callable[[Path], None]:
    """Return what loads an adapter as vLLM does, for a Llama."""
    wheel = zipfile.ZipFile(path)
    logger = SimpleNamespace(info_once=lambda *_: None, warning_once=lambda *_: None)
    for name in ("vllm", "vllm.lora", "vllm.config", "vllm.model_executor", "vllm.model_executor.models", "vllm.utils"):
        module(name)
    module("regex", match=__import__("re").match)
    module("vllm.config.lora", LoRAConfig=object)
    module("vllm.logger", init_logger=lambda _: logger)
    module("vllm.model_executor.models.utils", WeightsMapper=object)
    module("vllm.utils.torch_utils", PIN_MEMORY=False)
    names = {"parse_fine_tuned_lora_name", "is_base_embedding_weights"}
    module("vllm.lora.utils", get_lora_id=lambda: 1, **definitions(wheel, "vllm/lora/utils.py", names))
    helper = run_source(wheel, "vllm/lora/peft_helper.py", "vllm.lora.peft_helper")["PEFTHelper"]
    run_source(wheel, "vllm/lora/lora_weights.py", "vllm.lora.lora_weights")
    loaded = run_source(wheel, "vllm/lora/lora_model.py", "vllm.lora.lora_model")["LoRAModel"]

    def load(folder: Path) -> None:
        found = helper.from_local_dir(str(folder), 32)
        found.validate_legal(SimpleNamespace(max_lora_rank=512))
        adapter = loaded.from_local_checkpoint(str(folder), LAYERS, found, lora_model_id=1, device="cpu")
        assert all(math.isclose(one.scaling, 1) for one in adapter.loras.values()), "a scale of LoRA is not 1"

    return load


def sglang_loader(path: str) -> Callable[[Path], None]:
    """Return what checks an adapter as SGLang does before it is loaded."""
    wheel = zipfile.ZipFile(path)
    config = run_source(wheel, "sglang/srt/lora/lora_config.py", "sglang_lora_config")["LoRAConfig"]
    names = {"get_normalized_target_modules", "_KNOWN_LORA_TARGET_MODULES", "DSA_INDEXER_LORA_NAMES"}
    found = definitions(wheel, "sglang/srt/lora/utils.py", names)

    def load(folder: Path) -> None:
        one = config(str(folder), base_vocab_size=41)
        if one.use_dora or one.lora_added_tokens_size:
            raise ValueError("as LoRAManager.validate_new_adapter says")
        unknown = found["get_normalized_target_modules"](one.target_modules) - found["_KNOWN_LORA_TARGET_MODULES"]
        if unknown:
            raise ValueError(f"unknown {unknown}")

    return load


def compare(name: str, load: Callable[[Path], None], stricter: set[str]) -> int:
    """Print what the program says of each case; how often we say something else.

    `stricter` are cases that the program reads without an error, and loses a part of, or fails on later.
    """
    wrong = 0
    for case in CASES:
        with tempfile.TemporaryDirectory() as place:
            folder = save(Path(place), case)
            ours = next(one.loads for one in check_serving(folder) if one.program == name)
            try:
                load(folder)
                says = "loads"
            except (ValueError, KeyError, AssertionError) as error:
                says = f"refuses: {str(error)[:90]}"
        agree = ours == (says == "loads" and case not in stricter)
        wrong += not agree
        print(f"{name:>7}  {case:<22} {'' if agree else 'WE SAY OTHERWISE '}{says}")
    return wrong


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    scaled = {"a scale of its own", "a rank and thus a scale of its own"}  # neither looks at these
    silent = {"a trained head", "token rows", "a norm", "ranks of their own", "rsLoRA", *scaled}  # nor SGLang at these
    sys.exit(compare("vLLM", vllm_loader(sys.argv[1]), scaled) + compare("SGLang", sglang_loader(sys.argv[2]), silent))
