"""PEFT's `method_comparison/MetaMathQA/run.py`, with Deep LoRA known to PEFT.

    cd peft/method_comparison/MetaMathQA
    python run_with_deep_lora.py -v experiments/deep_lora/llama-3.2-3B-rank32

Everything else, also the arguments, is `run.py`'s own; the README in this folder says how to set it up. This file must
lie beside `run.py`, whose imports are found in its folder.
"""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import deep_lora  # noqa: F401  registers the method before `run.py` reads its configuration


def main() -> None:
    script = Path("run.py")
    if not script.is_file():
        sys.exit(f"run.py is missing in {Path.cwd()}; start this script in peft/method_comparison/MetaMathQA")
    runpy.run_path(str(script), run_name="__main__")


if __name__ == "__main__":
    main()
