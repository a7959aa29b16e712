"""Exports in programs that load adapters, in a process that never imports deep_lora: one process for all of them."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import torch
from peft import get_peft_model
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, BertModel

from deep_lora import DeepLoraConfig, check_serving, save_as_lora, to_lora
from tests.deep_lora.export.export_cases import relative
from tests.fresh_process import run_python
from tests.models import disturb_, llama, word_tokenizer

WORDS = "what is the capital of france paris blue name a color".split()
TEXTS = ["what is the capital", "a blue color"]
LOADING = """
import sys, torch
from pathlib import Path
from peft import AutoPeftModelForCausalLM, PeftModel
from sentence_transformers import SentenceTransformer
from transformers import AutoModelForCausalLM

folder = Path(sys.argv[1])
io = torch.load(folder / "io.pt")


def base():
    return AutoModelForCausalLM.from_pretrained(folder / "base")


def with_load_adapter():
    model = base()
    model.load_adapter(str(folder / "root"))
    return model


loaders = {
    "PEFT": lambda: PeftModel.from_pretrained(base(), folder / "root"),
    "AutoPeftModel": lambda: AutoPeftModelForCausalLM.from_pretrained(folder / "root"),
    "an export": lambda: PeftModel.from_pretrained(base(), folder / "export"),
    "transformers": lambda: AutoModelForCausalLM.from_pretrained(folder / "root"),
    "load_adapter": with_load_adapter,
}
found = {}
with torch.no_grad():
    for name, load in loaders.items():
        try:
            found[name] = load().eval()(io["ids"]).logits
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    found["sentence-transformers"] = SentenceTransformer(str(folder / "encoder"), device="cpu").encode(
        io["texts"], convert_to_tensor=True
    )
    if "noise" in io:
        from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel

        parts = dict.fromkeys(["vae", "text_encoder", "tokenizer", "safety_checker", "feature_extractor"])
        for name in ("style", "style of smaller ranks"):
            pipeline = StableDiffusionPipeline(
                unet=UNet2DConditionModel.from_pretrained(folder / "unet"),
                scheduler=DDIMScheduler(), requires_safety_checker=False, **parts,
            )
            pipeline.load_lora_weights(str(folder / name), weight_name="pytorch_lora_weights.safetensors")
            found[name] = pipeline.unet(**io["noise"]).sample
assert not [name for name in sys.modules if name.split(".")[0] in ("deep_lora", "dmf")]
torch.save(found, folder / "found.pt")
"""


def adapted(base, **settings):
    torch.manual_seed(0)
    model = get_peft_model(base, DeepLoraConfig(r=4, **settings))
    disturb_(model)
    return model.eval()


def save_styles(folder) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Write a tiny UNet and its adapter as diffusers does; its inputs and outputs, none where it is not installed."""
    if find_spec("diffusers") is None:
        return {}, {}
    from diffusers import StableDiffusionPipeline, UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=8,
        attention_head_dim=4, down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    ).eval()  # fmt: skip
    unet.save_pretrained(folder / "unet")
    noise = {
        "sample": torch.randn(2, 4, 8, 8), "timestep": torch.tensor([3, 7]),
        "encoder_hidden_states": torch.randn(2, 5, 8),
    }  # fmt: skip
    with torch.no_grad():
        wanted = {"its base": unet(**noise).sample}
        unet.add_adapter(DeepLoraConfig(r=4, target_modules=["to_q", "to_k", "to_v", "to_out.0", "conv1"]))
        disturb_(unet)
        wanted |= {"style": unet(**noise).sample}
    for name, ranks, tolerance in (("style", "uniform", 0.0), ("style of smaller ranks", "per_module", 0.3)):
        layers = to_lora(unet, tolerance=tolerance, ranks=ranks)[1]
        StableDiffusionPipeline.save_lora_weights(folder / name, unet_lora_layers=layers)
    return noise, wanted


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    """(folder, what each program computes, what deep_lora does, what the base alone does)"""
    folder = tmp_path_factory.mktemp("loaders")
    noise, styles = save_styles(folder)
    tokens = word_tokenizer(WORDS)
    ids = torch.tensor([[1, 5, 9, 4, 7]])
    llama().save_pretrained(folder / "base")
    base = AutoModelForCausalLM.from_pretrained(folder / "base").eval()
    with torch.no_grad():
        plain = base(ids).logits
    model = adapted(base, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    model.save_pretrained(folder / "root", lora_at_root=True)
    save_as_lora(folder / "export", model)
    encoder_base = folder / "encoder_base"
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertModel(BertConfig(vocab_size=len(tokens), **sizes)).save_pretrained(encoder_base)
    encoder = adapted(AutoModel.from_pretrained(encoder_base), target_modules=["query"], task_type="FEATURE_EXTRACTION")
    save_as_lora(folder / "encoder", encoder)
    for place in (folder / "encoder", encoder_base):
        tokens.save_pretrained(place)
    batch = tokens(TEXTS, padding=True, return_tensors="pt")
    mask = batch["attention_mask"][..., None]
    with torch.no_grad():
        rows = encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        wanted = styles | {"sentence-transformers": (rows * mask).sum(1) / mask.sum(1)}  # the mean, its default
        logits = model(ids).logits
    torch.save({"ids": ids, "texts": TEXTS, **({"noise": noise} if noise else {})}, folder / "io.pt")
    run_python(LOADING, str(folder))
    return folder, torch.load(folder / "found.pt"), wanted, logits, plain


@pytest.mark.parametrize("program", ["PEFT", "AutoPeftModel", "an export", "transformers", "load_adapter"])
def test_a_decoder_with_lora_at_the_root_computes_what_it_did(program, loaded) -> None:
    _, found, _, wanted, plain = loaded
    assert isinstance(found[program], torch.Tensor), found[program]
    assert relative(found[program], wanted) <= 1e-5 and relative(plain, wanted) > 1e-2


def test_sentence_transformers_embeds_as_before(loaded) -> None:
    _, found, wanted, _, _ = loaded
    assert relative(found["sentence-transformers"], wanted["sentence-transformers"]) <= 1e-5


def test_the_answers_of_serve_check_are_those_of_the_programs(loaded) -> None:
    folder = loaded[0]
    says = {place: {one.program for one in check_serving(folder / place) if one.loads} for place in ("root", "encoder")}
    assert says["root"] >= {"PEFT", "transformers"} and says["encoder"] >= {"PEFT", "sentence-transformers"}


@pytest.mark.skipif(find_spec("diffusers") is None, reason="diffusers is not installed")
def test_a_pipeline_of_diffusers_denoises_as_before(loaded) -> None:
    folder, found, wanted, _, _ = loaded
    assert relative(found["style"], wanted["style"]) <= 1e-5
    moved = relative(wanted["its base"], wanted["style"])
    assert moved > 1e-2
    # Some singular values are dropped; ranks that differ from module to module are scaled right all the same.
    assert 0 < relative(found["style of smaller ranks"], wanted["style"]) < 0.5 * moved
    files = [folder / name / "pytorch_lora_weights.safetensors" for name in ("style", "style of smaller ranks")]
    assert files[1].stat().st_size < files[0].stat().st_size
