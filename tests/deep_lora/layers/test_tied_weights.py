"""A tied embedding and output head share one weight and one adapter."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import PeftModel
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BartConfig,
    BartForConditionalGeneration,
    BartModel,
    BertConfig,
    BertForMaskedLM,
    BlipConfig,
    BlipForConditionalGeneration,
    DistilBertConfig,
    DistilBertForMaskedLM,
    ElectraConfig,
    ElectraForMaskedLM,
    MarianConfig,
    MarianMTModel,
    RobertaConfig,
    RobertaForMaskedLM,
    T5Config,
    T5ForConditionalGeneration,
)

from deep_lora import DeepLoraConfig, initialize_subspaces_
from tests.models import VOCABULARY, adapt, disturb_, gpt2, ids, layers_of, llama

TARGETS = ["embed_tokens", "lm_head"]


def tied_model(**settings) -> PeftModel:
    torch.manual_seed(0)
    options = {"r": 4, "target_modules": TARGETS, "ensure_weight_tying": True, "init_weights": False, **settings}
    return adapt(llama(tie_word_embeddings=True), **options).eval()


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids()).logits


@pytest.mark.parametrize("safe_merge", [False, True])
@pytest.mark.filterwarnings("ignore")
def test_merging_adds_the_common_update_once_and_unmerging_takes_it_back(safe_merge: bool) -> None:
    model = tied_model()
    wanted, weight = logits(model), model.get_output_embeddings().weight.clone()
    # float32 rounding of one addition to the weight, through two layers: well under a thousand eps of the output
    tolerance = {"rtol": 0, "atol": 1e3 * torch.finfo(torch.float32).eps * wanted.abs().max().item()}
    model.merge_adapter(safe_merge=safe_merge)
    assert torch.allclose(logits(model), wanted, **tolerance)
    assert (model.get_output_embeddings().weight - weight).abs().max() > 1e-3
    model.unmerge_adapter()
    assert torch.allclose(model.get_output_embeddings().weight, weight, rtol=0, atol=1e-6)
    assert torch.allclose(logits(model.merge_and_unload()), wanted, **tolerance)


@pytest.mark.filterwarnings("ignore")
def test_a_pattern_for_the_head_does_not_part_it_from_the_embedding() -> None:
    model = tied_model(rank_pattern={"embed_tokens": 6, "lm_head": 2}, depth_pattern={"lm_head": 5})
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    for name in ("r", "depth", "core_scale"):
        assert getattr(head, name) == getattr(embedding, name)
    assert torch.allclose(head.get_delta_weight("default"), embedding.get_delta_weight("default"), rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore")
def test_a_tied_adapter_stays_tied_when_it_is_loaded_with_low_memory_or_copied(tmp_path) -> None:
    model = tied_model()
    model.save_pretrained(str(tmp_path))
    base = tied_model().unload()
    loaded = PeftModel.from_pretrained(base, str(tmp_path), low_cpu_mem_usage=True, is_trainable=True).eval()
    for candidate in (loaded, copy.deepcopy(model)):
        embedding, head = candidate.get_input_embeddings(), candidate.get_output_embeddings()
        assert head.deep_lora_core["default"] is embedding.deep_lora_core["default"]
        assert head.deep_lora_U["default"] is embedding.deep_lora_V["default"]
        assert torch.equal(logits(candidate), logits(model))


@pytest.mark.parametrize("targets", [["wte"], ["lm_head"], ["wte", "lm_head"], r".*(wte|c_attn)"])
@pytest.mark.filterwarnings("ignore")
def test_an_embedding_that_peft_does_not_know_by_name_is_tied_and_saved_tied(targets, tmp_path) -> None:
    torch.manual_seed(0)
    model = adapt(gpt2(), r=4, target_modules=targets, ensure_weight_tying=True)
    disturb_(model)
    head = model.get_output_embeddings()
    assert head.deep_lora_core["default"] is model.get_input_embeddings().deep_lora_core["default"]
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(copy.deepcopy(model).unload(), str(tmp_path)).eval()
    wanted = logits(model)
    assert torch.equal(logits(loaded), wanted) and not torch.equal(logits(model.unload()), wanted)


@pytest.mark.parametrize("base", [lambda: llama(tie_word_embeddings=True), gpt2], ids=["llama", "gpt2"])
@pytest.mark.filterwarnings("ignore")
def test_a_second_adapter_is_tied_too_whether_it_is_added_or_loaded(base, tmp_path) -> None:
    torch.manual_seed(0)
    plain, settings = base(), {"r": 4, "target_modules": ["lm_head"], "ensure_weight_tying": True}
    model = adapt(copy.deepcopy(plain), **settings)
    model.add_adapter("second", DeepLoraConfig(**settings, depth=2))
    disturb_(model)
    wanted = {}
    for name in ("default", "second"):
        model.set_adapter(name)
        wanted[name] = logits(model)
        assert name in model.get_output_embeddings().tied_to
    model.save_pretrained(str(tmp_path))
    loaded = PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    loaded.load_adapter(str(tmp_path / "second"), "second")
    for name in ("second", "default"):
        loaded.set_adapter(name)
        assert torch.equal(logits(loaded), wanted[name])
    assert not torch.equal(wanted["default"], wanted["second"])


def test_a_tied_head_of_a_half_precision_model_shares_its_parameters_too() -> None:
    torch.manual_seed(0)
    model = adapt(llama(tie_word_embeddings=True).bfloat16(), r=4, target_modules=TARGETS, ensure_weight_tying=True)
    embedding, head = layers_of(model)
    assert embedding.deep_lora_U["default"].dtype == torch.float32
    assert head.deep_lora_V["default"] is embedding.deep_lora_U["default"]
    assert head.deep_lora_core["default"] is embedding.deep_lora_core["default"]


SMALL = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1,
    "num_attention_heads": 2, "max_position_embeddings": 40,
}  # fmt: skip
BART = BartConfig(
    vocab_size=VOCABULARY, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
    decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24, max_position_embeddings=40, pad_token_id=0,
    bos_token_id=1, eos_token_id=2, decoder_start_token_id=2, scale_embedding=True,
)  # fmt: skip
T5 = T5Config(vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, decoder_start_token_id=0)
SQUARE = SMALL | {"hidden_size": VOCABULARY + 1, "vocab_size": VOCABULARY + 1}  # U and V have one shape
PAIR = {
    "vocab_size": VOCABULARY, "d_model": 8, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8, "pad_token_id": 0,
    "max_position_embeddings": 16,
}  # fmt: skip
NESTED = {
    "bert": (lambda: BertForMaskedLM(BertConfig(**SMALL)), ["word_embeddings"], 2),
    "bert by its head": (lambda: BertForMaskedLM(BertConfig(**SMALL)), ["decoder"], 2),
    "bert by a pattern": (lambda: BertForMaskedLM(BertConfig(**SMALL)), r".*word_embeddings", 2),
    "bert, square": (lambda: BertForMaskedLM(BertConfig(**SQUARE)), ["word_embeddings"], 2),
    "roberta": (lambda: RobertaForMaskedLM(RobertaConfig(**SMALL, pad_token_id=1)), ["word_embeddings"], 2),
    "albert": (lambda: AlbertForMaskedLM(AlbertConfig(**SMALL, embedding_size=8)), ["word_embeddings"], 2),
    "electra": (lambda: ElectraForMaskedLM(ElectraConfig(**SMALL, embedding_size=8)), ["word_embeddings"], 2),
    "distilbert": (
        lambda: DistilBertForMaskedLM(DistilBertConfig(vocab_size=VOCABULARY, dim=16, hidden_dim=24, n_layers=1,
                                                       n_heads=2)),
        ["word_embeddings"], 2,
    ),
    "t5": (lambda: T5ForConditionalGeneration(T5), ["shared"], 4),
    "t5 by one of its embeddings": (lambda: T5ForConditionalGeneration(T5), ["encoder.embed_tokens"], 4),
    "bart": (lambda: BartForConditionalGeneration(BART), ["embed_tokens"], 4),
    "marian": (lambda: MarianMTModel(MarianConfig(**PAIR)), ["embed_tokens"], 4),
    "bart without a head": (lambda: BartModel(BART), ["shared"], 3),
}  # fmt: skip


@pytest.mark.parametrize("case", NESTED)
@pytest.mark.filterwarnings("ignore")
def test_modules_tied_to_the_embedding_share_one_adapter_wherever_they_lie(case: str, tmp_path) -> None:
    base, targets, count = NESTED[case]
    torch.manual_seed(0)
    plain = base().eval()
    settings = {"r": 4, "target_modules": targets, "ensure_weight_tying": True, "init_weights": False}
    model = adapt(copy.deepcopy(plain), **settings)
    inputs = {"input_ids": ids()} | ({"decoder_input_ids": ids()} if count > 2 else {})
    assert len(layers_of(model)) == count
    assert len({p.data_ptr() for p in model.parameters() if p.requires_grad}) == 3
    dense = [layer.get_delta_weight("default") for layer in layers_of(model)]
    assert all(torch.allclose(one, dense[0], rtol=0, atol=1e-6) for one in dense)
    with torch.no_grad():
        wanted = model(**inputs)[0]
        model.save_pretrained(str(tmp_path))
        loaded = PeftModel.from_pretrained(copy.deepcopy(plain), str(tmp_path)).eval()
        assert torch.equal(loaded(**inputs)[0], wanted)
        merged = model.merge_and_unload()(**inputs)[0]
    atol = 1e3 * torch.finfo(torch.float32).eps * wanted.abs().max().item()
    assert torch.allclose(merged, wanted, rtol=0, atol=atol)
    assert not torch.allclose(plain(**inputs)[0], wanted, rtol=0, atol=atol)


@pytest.mark.parametrize("case", ["t5", "bart"])
@pytest.mark.filterwarnings("ignore")
def test_the_gradient_of_every_tied_module_reaches_the_subspaces(case: str) -> None:
    base, targets, _ = NESTED[case]
    model = adapt(base(), r=4, target_modules=targets, ensure_weight_tying=True)
    inputs = {"input_ids": ids(), "decoder_input_ids": ids(seed=2), "labels": ids(seed=3)}
    before = [layer.deep_lora_V["default"].clone() for layer in layers_of(model)]
    report = initialize_subspaces_(model, lambda: model(**inputs).loss.backward())
    assert len(report.initialized) == 1 and not report.kept_random
    for layer, old in zip(layers_of(model), before, strict=True):
        assert not torch.equal(layer.deep_lora_V["default"], old)
        assert layer.deep_lora_core["default"] is model.get_input_embeddings().deep_lora_core["default"]


@pytest.mark.filterwarnings("ignore")
def test_a_module_that_only_ends_like_a_tied_one_keeps_its_own_adapter() -> None:
    model = llama(tie_word_embeddings=True)
    model.model.layers[0].mlp.lm_head = torch.nn.Linear(16, 16)
    model = adapt(model, r=4, target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True)
    own = model.base_model.model.model.layers[0].mlp.lm_head
    assert "default" not in own.tied_to and "default" in model.get_output_embeddings().tied_to


@pytest.mark.filterwarnings("ignore")
def test_a_head_that_was_tied_is_free_again_when_its_adapter_is_made_again() -> None:
    base = llama(tie_word_embeddings=True)
    adapt(base, r=4, target_modules=TARGETS, ensure_weight_tying=True)
    embedding, head = layers_of(adapt(base, r=4, target_modules=TARGETS))
    assert not head.tied_to and head.deep_lora_core["default"] is not embedding.deep_lora_core["default"]


@pytest.mark.filterwarnings("ignore")
def test_tying_to_an_embedding_that_is_excluded_is_refused() -> None:
    with pytest.raises(ValueError, match="shares the adapter of the input embedding, 'model.embed_tokens', which has"):
        adapt(
            llama(tie_word_embeddings=True), r=4, target_modules=TARGETS, exclude_modules=["embed_tokens"],
            ensure_weight_tying=True,
        )  # fmt: skip


def test_tying_needs_an_adapter_on_the_embedding() -> None:
    with pytest.raises(ValueError, match="shares the adapter of the input embedding, .* none; do not exclude it"):
        adapt(gpt2(), r=4, target_modules=["lm_head"], exclude_modules=["wte"], ensure_weight_tying=True)


def blip() -> BlipForConditionalGeneration:
    """Its `get_output_embeddings` finds nothing, so "all-linear" adapts the head, which is tied."""
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": 16, "encoder_hidden_size": 8, "bos_token_id": 1}
    vision = {"image_size": 8, "patch_size": 4}
    config = BlipConfig(text_config=sizes | text, vision_config=sizes | vision, projection_dim=8)
    return BlipForConditionalGeneration(config)


SHARED = {
    "head": (lambda: llama(tie_word_embeddings=True), ["lm_head"], {}),
    "embedding": (lambda: llama(tie_word_embeddings=True), ["embed_tokens"], {}),
    "both, each for itself": (lambda: llama(tie_word_embeddings=True), TARGETS, {}),
    "BERT's head": (lambda: BertForMaskedLM(BertConfig(**SMALL)), ["decoder"], {}),
    "BART's head": (
        lambda: BartForConditionalGeneration(BartConfig(**PAIR)),
        ["lm_head"],
        {"decoder_input_ids": ids()},
    ),
    "BART's embeddings": (
        lambda: BartForConditionalGeneration(BartConfig(**PAIR)),
        ["encoder.embed_tokens"],
        {"decoder_input_ids": ids()},
    ),
    "Marian's embeddings": (
        lambda: MarianMTModel(MarianConfig(**PAIR)),
        ["embed_tokens"],
        {"decoder_input_ids": ids()},
    ),
    "BLIP's head": (blip, "all-linear", {"pixel_values": torch.ones(1, 3, 8, 8).expand(len(ids()), 3, 8, 8)}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", SHARED)
def test_merging_one_user_of_a_shared_weight_leaves_the_others_as_they_were(case: str, tmp_path) -> None:
    build, targets, more = SHARED[case]
    torch.manual_seed(0)
    model = adapt(build(), r=4, target_modules=targets, init_weights=False).eval()
    inputs = {"input_ids": ids()} | more

    def outputs(of) -> torch.Tensor:
        with torch.no_grad():
            return of(**inputs).logits

    with model.disable_adapter():
        before = outputs(model)
    wanted = outputs(model)
    tolerance = {"rtol": 0, "atol": 1e3 * torch.finfo(torch.float32).eps * wanted.abs().max().item()}
    assert not torch.allclose(wanted, before, **tolerance)
    with pytest.warns(UserWarning, match="a weight of its own: it was shared with a module"):
        model.merge_adapter()
    assert torch.allclose(outputs(model), wanted, **tolerance)
    model.unmerge_adapter()
    with model.disable_adapter():
        assert torch.allclose(outputs(model), before, **tolerance)
    merged = model.merge_and_unload()
    assert torch.allclose(outputs(merged), wanted, **tolerance)
    merged.save_pretrained(tmp_path)
    assert torch.allclose(outputs(type(merged).from_pretrained(tmp_path).eval()), wanted, **tolerance)
