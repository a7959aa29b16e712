"""One tower for both sides, and anything else that has two names: trained, saved, loaded and resumed as one."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, VeraConfig, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import T5Config, T5EncoderModel

from deep_lora import DeepLoraConfig
from modality import DualEncoder, reparameterize_logit_scale_
from modality.models.names import share_, shared_names
from tests.modality.trainers import VOCABULARY, WIDTH, Convolution, Pairs, bert, clip, logged, trainer

STEPS = 6


class Halves(nn.Module):
    """A tower with a tied embedding that no configuration describes."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Embedding(VOCABULARY, WIDTH)

    def forward(self, input_ids):
        return self.first(input_ids) + self.second(input_ids).flip(1)


def bert_with_dropout(seed=0):
    return bert(dropout=0.1, seed=seed)


def adapted(config, seed=0):
    return get_peft_model(bert_with_dropout(seed), config(target_modules=["query", "value"], r=2))


def lora(seed=0):
    tower = adapted(lambda **settings: LoraConfig(init_lora_weights=False, **settings), seed)
    tower.base_model.model.embeddings.LayerNorm.requires_grad_(True)
    return tower


def t5(seed=0):
    torch.manual_seed(seed)
    config = T5Config(vocab_size=VOCABULARY, d_model=WIDTH, d_kv=4, d_ff=8, num_layers=1, num_heads=2)
    return T5EncoderModel(config)


def both(tower, **settings):
    torch.manual_seed(1)
    return DualEncoder(tower, tower, x_width=WIDTH, y_width=WIDTH, width=5, **settings)


def shared_embedding(seed=0):
    first, second = bert_with_dropout(seed), bert_with_dropout(seed + 1)
    second.embeddings.word_embeddings = first.embeddings.word_embeddings
    return DualEncoder(first, second, x_width=WIDTH, y_width=WIDTH, width=5)


SHARED = {
    "one tower": lambda seed: both(bert_with_dropout(seed)),
    "LoRA": lambda seed: both(lora(seed)),
    "Deep LoRA": lambda seed: both(adapted(DeepLoraConfig, seed)),
    "VeRA": lambda seed: both(adapted(VeraConfig, seed)),
    "tied inside": lambda seed: DualEncoder(t5(seed), t5(seed + 1), x_width=WIDTH, y_width=WIDTH, width=5),
    "one part of two towers": shared_embedding,
    "in chunks": lambda seed: both(bert(seed=seed), chunk_size=3),
}
WHOLE = ["one tower", "LoRA", "Deep LoRA", "VeRA", "in chunks"]


def sentences(samples):
    tokens = torch.stack([sample["input_ids"] for sample in samples])
    return {"x": {"input_ids": tokens}, "y": {"input_ids": tokens.flip(1)}}


def batch(count=4):
    return sentences([Pairs(count)[row] for row in range(count)])


def run_of(folder, model, **settings):
    return trainer(folder, model, data_collator=sentences, remove_unused_columns=False, max_steps=STEPS, **settings)


@pytest.mark.parametrize("kind", SHARED)
def test_what_is_shared_is_shared_again_after_loading(kind, tmp_path) -> None:
    model = SHARED[kind](0).eval()
    model.save_pretrained(tmp_path)
    again = DualEncoder.from_pretrained(tmp_path)
    assert (again.y_tower is again.x_tower) is (kind in WHOLE) is (model.y_tower is model.x_tower)
    assert shared_names(again) == shared_names(model) != {}
    mine, theirs = model(**batch()), again(**batch())
    assert torch.equal(mine.x_embeds, theirs.x_embeds) and torch.equal(mine.y_embeds, theirs.y_embeds)
    assert len(list(again.parameters())) == len(list(model.parameters()))
    trained = [{name for name, p in m.named_parameters() if p.requires_grad} for m in (model, again)]
    assert trained[0] == trained[1]


@pytest.mark.parametrize("kind", SHARED)
def test_a_run_with_shared_weights_resumes_bit_for_bit(kind, tmp_path) -> None:
    settings = {"save_strategy": "steps", "save_steps": 2}
    whole = run_of(tmp_path, SHARED[kind](0), **settings)
    whole.train()
    resumed = run_of(tmp_path, SHARED[kind](7), **settings)  # other weights: all come from the checkpoint
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert logged(resumed, "loss") == logged(whole, "loss") and len(logged(whole, "loss")) == STEPS
    mine, theirs = (run.model.state_dict() for run in (resumed, whole))
    assert mine.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in mine.items())
    assert shared_names(resumed.model) == shared_names(whole.model)


def test_the_best_model_is_loaded_at_the_end_into_a_shared_tower(tmp_path) -> None:
    run = run_of(
        tmp_path, both(bert()), save_strategy="steps", save_steps=2, eval_strategy="steps", eval_steps=2,
        load_best_model_at_end=True, metric_for_best_model="eval_loss", learning_rate=0.5,
    )  # fmt: skip
    run.train()
    saved = load_file(f"{run.state.best_model_checkpoint}/model.safetensors")
    assert not any(name.startswith("y_tower.") for name in saved)
    state = run.model.state_dict()
    assert run.state.best_metric == min(logged(run, "eval_loss"))
    assert saved.keys() == state.keys() and all(torch.equal(value, saved[name]) for name, value in state.items())
    assert run.model.y_tower is run.model.x_tower


def test_a_state_dict_goes_from_a_shared_tower_to_two_of_their_own_and_back() -> None:
    shared, apart = both(bert(seed=2)), DualEncoder(bert(), bert(), x_width=WIDTH, y_width=WIDTH, width=5)
    found = apart.load_state_dict(shared.state_dict(), strict=False)
    assert found.missing_keys and all(name.startswith("y_tower.") for name in found.missing_keys)
    shared.load_state_dict(apart.state_dict())  # all names are known
    only_y = {name.replace("x_tower.", "y_tower."): value for name, value in shared.state_dict().items()}
    assert not shared.load_state_dict(only_y).missing_keys


def test_the_module_of_a_shared_tower_is_passed_under_either_name_or_both(tmp_path) -> None:
    model = both(Halves()).eval()
    model.save_pretrained(tmp_path)
    tower, ids = Halves(), Pairs(4).tokens
    for passed in ({"x_tower": tower}, {"y_tower": tower}, {"x_tower": tower, "y_tower": tower}):
        again = DualEncoder.from_pretrained(tmp_path, **passed)
        assert again.x_tower is again.y_tower is tower and tower.first is tower.second
        assert torch.equal(again(ids, ids).logits, model(ids, ids).logits)
    with pytest.raises(ValueError, match="are one module in the saved model, got two; pass the same one for both"):
        DualEncoder.from_pretrained(tmp_path, x_tower=Halves(), y_tower=Halves())
    with pytest.raises(ValueError, match=r"part 'x_tower' is a Halves, which cannot.*from_pretrained\(..., x_tower=m"):
        DualEncoder.from_pretrained(tmp_path)


def test_a_module_that_was_passed_is_tied_as_the_saved_one_was(tmp_path) -> None:
    model = DualEncoder(Convolution(), Halves(), x_width=WIDTH, y_width=WIDTH, width=5).eval()
    model.save_pretrained(tmp_path)
    untied = Halves()
    untied.second = nn.Embedding(VOCABULARY, WIDTH)
    again = DualEncoder.from_pretrained(tmp_path, x_tower=Convolution(), y_tower=untied)
    assert again.y_tower.first is again.y_tower.second
    assert torch.equal(again.encode_y(Pairs(4).tokens), model.encode_y(Pairs(4).tokens))


def test_a_tower_beside_itself_under_peft_is_refused() -> None:
    tower = bert()
    with pytest.raises(ValueError, match="one tower is the base model of the other, and PEFT adapts it in place"):
        DualEncoder(tower, get_peft_model(tower, LoraConfig(target_modules=["query"])), x_width=WIDTH, y_width=WIDTH)


def test_a_reparameterized_scale_of_a_shared_module_keeps_its_value() -> None:
    model = both(reparameterize_logit_scale_(clip(), "softplus"))
    nu = model.x_tower.parametrizations.logit_scale.original
    with torch.no_grad():
        nu.add_(0.37)
    other = both(reparameterize_logit_scale_(clip(seed=1), "softplus"))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.x_tower.parametrizations.logit_scale.original, nu)


def test_buffers_are_shared_too_and_modules_without_tensors_are_not_told() -> None:
    norm, act = nn.BatchNorm1d(2), nn.ReLU()
    model = nn.ModuleDict({"a": nn.Sequential(norm, act), "b": nn.Sequential(norm, act)})
    assert shared_names(model) == {"b.0": "a.0"}
    other = nn.ModuleDict({name: nn.Sequential(nn.BatchNorm1d(2), nn.ReLU()) for name in "ab"})
    share_(other, {"b.0.running_mean": "a.0.running_mean"})
    assert other["b"][0].running_mean is other["a"][0].running_mean
    assert other["b"][0].weight is not other["a"][0].weight
