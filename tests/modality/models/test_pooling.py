"""Padding never enters a pooled vector: masks of audio encoders, of prompts, of decoders, and refusals."""

from __future__ import annotations

import pytest
import torch
import transformers as hf
from peft import LoraConfig, PrefixTuningConfig, PromptEncoderConfig, PromptTuningConfig, TaskType, get_peft_model
from torch import nn

from modality import DualEncoder
from modality.models import output_mask, tower_features
from tests.modality.trainers import TEXT, VOCABULARY, WIDTH, Convolution, bert

SMALL = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2}
WAVES = SMALL | {
    "conv_dim": (8, 8), "conv_stride": (5, 4), "conv_kernel": (10, 3), "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "feat_extract_norm": "layer",
    "do_stable_layer_norm": True,
}  # fmt: skip
AUDIO = {
    "wav2vec2": lambda: hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVES)),
    "wav2vec2 with an adapter": lambda: hf.Wav2Vec2Model(
        hf.Wav2Vec2Config(**WAVES, add_adapter=True, num_adapter_layers=1, output_hidden_size=16)
    ),
    "hubert": lambda: hf.HubertModel(hf.HubertConfig(**WAVES)),
    "wavlm": lambda: hf.WavLMModel(hf.WavLMConfig(**WAVES)),
    "unispeech-sat": lambda: hf.UniSpeechSatModel(hf.UniSpeechSatConfig(**WAVES)),
    "wav2vec2 with lora": lambda: get_peft_model(
        hf.Wav2Vec2Model(hf.Wav2Vec2Config(**WAVES)), LoraConfig(r=2, target_modules=["q_proj"])
    ),
}
PROMPTS = {
    "prompt": PromptTuningConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=3),
    "p-tuning": PromptEncoderConfig(task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=2, encoder_hidden_size=8),
    "lora": LoraConfig(r=2, target_modules=["query"]),
}
PADDED = torch.tensor([[5, 6, 7, 8, 0, 0, 0, 0], [5, 6, 7, 8, 9, 3, 4, 6]])


def pooled(tower, inputs, pooling="mean"):
    model = DualEncoder(
        tower, nn.Identity(), x_width=16, y_width=16, width=16, projection="none", x_pooling=pooling
    ).eval()
    with torch.no_grad():
        return model.encode_x(inputs)


@pytest.mark.parametrize("build", AUDIO.values(), ids=AUDIO.keys())
def test_a_padded_sound_has_the_vector_that_it_has_alone(build) -> None:
    tower, short, long = build().eval(), torch.randn(1, 600), torch.randn(1, 2400)
    mask = torch.ones(2, 2400, dtype=torch.long)
    mask[0, 600:] = 0
    batch = torch.cat([nn.functional.pad(short, (0, 1800)), long])
    together = pooled(tower, {"input_values": batch, "attention_mask": mask})
    alone = pooled(tower, {"input_values": short, "attention_mask": mask[:1, :600]})
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_an_encoder_that_only_knows_its_lengths_is_pooled_up_to_them() -> None:
    config = hf.WhisperConfig(
        d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=20, decoder_ffn_dim=20, num_mel_bins=8, max_source_positions=12, vocab_size=40,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1,
    )  # fmt: skip
    tower = hf.WhisperModel(config).get_encoder().eval()
    features, mask = torch.randn(2, 8, 24), torch.ones(2, 24, dtype=torch.long)
    mask[0, 9:] = 0
    output = tower(features)
    found = output_mask(tower, {"attention_mask": mask}, output)
    if hasattr(tower, "_get_feat_extract_output_lengths"):
        assert found.sum(1).tolist() == [5, 12]
    else:
        with pytest.raises(ValueError, match="marks padding"):
            tower_features(output, "mean", found)


@pytest.mark.parametrize("config", PROMPTS.values(), ids=PROMPTS.keys())
@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_a_padded_text_has_the_vector_that_it_has_alone_under_peft(config, pooling) -> None:
    text = hf.BertModel(hf.BertConfig(**SMALL, vocab_size=VOCABULARY, max_position_embeddings=40))
    tower = get_peft_model(text, config).eval()
    together = pooled(tower, {"input_ids": PADDED, "attention_mask": (PADDED > 0).long()}, pooling)
    alone = pooled(tower, {"input_ids": PADDED[:1, :4], "attention_mask": torch.ones(1, 4).long()}, pooling)
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)


def test_a_prefix_that_adds_no_tokens_leaves_the_mask_as_it_is() -> None:
    config = PrefixTuningConfig(
        task_type=TaskType.FEATURE_EXTRACTION, num_virtual_tokens=3, num_layers=1, token_dim=16, num_attention_heads=2
    )
    tower = get_peft_model(hf.BertModel(hf.BertConfig(**SMALL, vocab_size=VOCABULARY)), config)
    mask = (PADDED > 0).long()
    assert output_mask(tower, {"attention_mask": mask}, torch.ones(2, 8, 4)) is mask


def test_tokens_of_a_decoder_have_the_mask_of_the_decoder() -> None:
    sizes = {"d_model": 16, "d_kv": 8, "d_ff": 20, "num_layers": 1, "num_heads": 2, "vocab_size": VOCABULARY}
    tower = hf.T5Model(hf.T5Config(**sizes)).eval()
    mask = (PADDED > 0).long()
    decoded = torch.tensor([[3, 4], [5, 0]])
    inputs = {"input_ids": PADDED, "attention_mask": mask, "decoder_input_ids": decoded}
    with torch.no_grad():
        hidden = tower(**inputs).last_hidden_state
    torch.testing.assert_close(pooled(tower, inputs), hidden.mean(1))
    found = pooled(tower, inputs | {"decoder_attention_mask": (decoded > 0).long()})
    torch.testing.assert_close(found[1], hidden[1, 0])


def test_the_first_and_the_last_token_are_not_padding_whichever_side_that_is_on() -> None:
    tokens, mask = torch.randn(3, 3, 4), torch.tensor([[0, 1, 1], [1, 1, 0], [1, 1, 1]])
    for pooling, places in (("first", [1, 0, 0]), ("last", [2, 1, 2])):
        assert torch.equal(tower_features(tokens, pooling, mask), tokens[torch.arange(3), places])
        assert torch.equal(tower_features(tokens, pooling), tokens[:, 0 if pooling == "first" else -1])


def test_the_last_token_of_a_decoder_is_that_of_the_text_alone() -> None:
    sizes = SMALL | {"vocab_size": VOCABULARY, "max_position_embeddings": 20}
    tower = hf.LlamaModel(hf.LlamaConfig(**sizes)).eval()
    together = pooled(tower, {"input_ids": PADDED, "attention_mask": (PADDED > 0).long()}, "last")
    torch.testing.assert_close(together[:1], pooled(tower, {"input_ids": PADDED[:1, :4]}, "last"), rtol=1e-4, atol=1e-5)


def test_the_mask_that_an_output_brings_along_and_masks_of_patches_are_used() -> None:
    own = torch.tensor([[1, 1, 0]])
    output = hf.modeling_outputs.BaseModelOutput(last_hidden_state=torch.randn(1, 3, 4))
    output.attention_mask = own
    assert output_mask(nn.Identity(), {"attention_mask": torch.ones(1, 9)}, output) is own
    assert output_mask(nn.Identity(), {"pixel_attention_mask": own}, torch.ones(1, 3, 4)) is own


def test_without_padding_a_mask_of_another_length_says_nothing() -> None:
    tokens = torch.randn(2, 3, 4)
    torch.testing.assert_close(tower_features(tokens, "mean", torch.ones(2, 12)), tokens.mean(1))
    assert torch.equal(tower_features(tokens, "first", torch.ones(2, 12)), tokens[:, 0])


class Halved(nn.Module):
    """A tower that joins pairs of tokens, and tells nobody."""

    def __init__(self):
        super().__init__()
        self.tower = bert()

    def forward(self, input_ids, attention_mask):
        hidden = self.tower(input_ids, attention_mask).last_hidden_state
        return hidden.unflatten(1, (-1, 2)).mean(2)


def funnel():
    return hf.FunnelBaseModel(
        hf.FunnelConfig(vocab_size=VOCABULARY, block_sizes=[1, 1], d_model=16, n_head=2, d_head=8, d_inner=20)
    )


class Maps(Convolution):
    """Feature maps of an image, part of which is padding."""

    def forward(self, pixel_values, attention_mask):
        return super().forward(pixel_values)


REFUSED = {
    "joined tokens": (Halved, {"input_ids": PADDED[:, :4] * 0 + 3}, (2, 4)),
    "funnel": (funnel, {"input_ids": PADDED}, (2, 8)),
    "maps": (Maps, {"pixel_values": torch.randn(2, 3, 4, 4)}, (2, 4)),
}


@pytest.mark.parametrize(("build", "inputs", "shape"), REFUSED.values(), ids=REFUSED.keys())
@pytest.mark.parametrize("chunk_size", [None, 1])
def test_a_mask_that_nobody_can_read_is_refused_and_never_dropped(build, inputs, shape, chunk_size) -> None:
    assert TEXT["hidden_size"] == WIDTH
    model = DualEncoder(build(), nn.Identity(), x_width=16, y_width=16, width=16, chunk_size=chunk_size)
    mask = torch.ones(shape, dtype=torch.long)
    mask[0, 1:] = 0
    with pytest.raises(ValueError, match=r"the tower returned .* for a mask of .* that marks padding.*wrap the tower"):
        model({**inputs, "attention_mask": mask}, torch.randn(2, 16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_mean_in_half_precision_stays_in_its_range(dtype) -> None:
    hidden = torch.full((2, 3000, 4), 60.0, dtype=dtype)
    mask = torch.ones(2, 3000, dtype=torch.long)
    mask[0, 1500:] = 0
    pooled = tower_features(hidden, "mean", mask)
    assert pooled.dtype == dtype
    assert torch.equal(pooled, hidden[:, 0])


@pytest.mark.parametrize("filling", [float("nan"), float("inf"), 7.0])
@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32])
def test_what_padding_holds_has_no_part_in_the_mean_or_its_gradient(kind, filling) -> None:
    hidden = torch.randn(3, 4, 2)
    mask = torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]).to(kind)
    hidden[mask == 0] = filling
    hidden.requires_grad_()
    pooled = tower_features(hidden, "mean", mask)
    assert torch.allclose(pooled, torch.stack([hidden[0, :2].mean(0), hidden[1, 1:].mean(0), torch.zeros(2)]))
    pooled.sum().backward()
    wanted = torch.tensor([[1 / 2, 1 / 2, 0, 0], [0, 1 / 3, 1 / 3, 1 / 3], [0, 0, 0, 0]])
    assert torch.allclose(hidden.grad, wanted[:, :, None].expand(3, 4, 2))
