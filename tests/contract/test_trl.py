"""TRL's trainers with Deep LoRA: what docs/integrations.md says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("trl", reason="TRL needs Python 3.11")  # declared so in setup.cfg
from datasets import Dataset
from peft import (
    AutoPeftModelForCausalLM,
    LoraConfig,
    PeftConfig,
    PeftModel,
    get_peft_model_state_dict,
    set_peft_model_state_dict,
)
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

import deep_lora
from deep_lora import DeepLoraConfig, SubspaceInitializationCallback
from deep_lora.optimizer.paces import SCORES, TOKENS
from tests.models import layers_of, word_tokenizer
from tests.step_lengths import train_and_check_lengths

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
WORDS = "what is the capital of france paris blue name a color say hello there count to three one two".split()
MODULES = 14  # seven linear layers in each of two blocks


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a small language model with its tokenizer."""
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS) + 3, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, pad_token_id=0, bos_token_id=None, eos_token_id=1,
        initializer_range=0.2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    word_tokenizer(WORDS).save_pretrained(folder)
    return str(folder)


def _data(*columns: str) -> Dataset:
    def text(start: int) -> str:
        return "".join(WORDS[(start + step) % len(WORDS)] + " " for step in range(4))

    return Dataset.from_list([{name: text(5 * row + at) for at, name in enumerate(columns)} for row in range(16)])


def _rewards(completions: list[str], **others: Any) -> list[float]:
    return [float(len(set(completion.split()))) for completion in completions]


def _settings(folder: Path, **settings: Any) -> dict[str, Any]:
    return {
        "output_dir": str(folder), "max_steps": 4, "per_device_train_batch_size": 4,
        "logging_steps": 1, "use_cpu": True, "bf16": False, "report_to": "none", "save_strategy": "no",
        "disable_tqdm": True,
    } | settings  # fmt: skip


def _config(task: str = "CAUSAL_LM", **settings: Any) -> DeepLoraConfig:
    return DeepLoraConfig(r=4, target_modules="all-linear", task_type=task, **settings)


def _logged(trainer: Trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def _supervised(base: str, folder: Path, config: PeftConfig, **settings: Any) -> SFTTrainer:
    data = _data("prompt", "completion")
    arguments = SFTConfig(**_settings(folder, **settings))
    trainer = SFTTrainer(base, args=arguments, train_dataset=data, peft_config=config)
    deep_lora.prepare(trainer)
    trainer.train()
    return trainer


def _logits(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(3, 13)[None]).logits


def test_supervised_training_starts_at_the_base_model_learns_and_leaves_as_lora(base: str, tmp_path: Path) -> None:
    trainer = _supervised(base, tmp_path, _config(), max_steps=40)
    losses = _logged(trainer, "loss")
    lora = _supervised(base, tmp_path, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert losses[0] == pytest.approx(_logged(lora, "loss")[0], abs=1e-4)
    assert sum(losses[-4:]) < 0.95 * sum(losses[:4])
    trainer.save_model(str(tmp_path / "adapter"))
    deep_lora.save_as_lora(tmp_path / "adapter-as-lora", trainer.model)
    expected = _logits(trainer.model)
    loaded = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    assert torch.allclose(_logits(loaded), expected, atol=1e-5)
    exported = PeftModel.from_pretrained(LlamaForCausalLM.from_pretrained(base), tmp_path / "adapter-as-lora")
    assert torch.allclose(_logits(exported), expected, atol=1e-4)


def _preferences(base: Any, folder: Path, **arguments: Any) -> DPOTrainer:
    data = _data("prompt", "chosen", "rejected")
    settings = _settings(folder, max_steps=2)
    return DPOTrainer(
        base, args=DPOConfig(**settings), train_dataset=data, processing_class=word_tokenizer(WORDS), **arguments
    )


def test_preferences_start_at_the_reference_and_the_subspaces_come_from_their_loss(base: str, tmp_path: Path) -> None:
    trainer = _preferences(base, tmp_path, peft_config=_config())
    callback = SubspaceInitializationCallback(num_batches=2, trainer=trainer)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.report is not None and len(callback.report.initialized) == MODULES
    margins = _logged(trainer, "rewards/margins")
    assert margins[0] == pytest.approx(0.0, abs=1e-6) and margins[1] > 0


@pytest.mark.parametrize("kind", ["reward", "online"])
def test_reward_models_and_online_training_take_subspaces_from_their_own_loss(
    kind: str, base: str, tmp_path: Path
) -> None:
    settings = _settings(tmp_path, max_steps=2)
    if kind == "reward":
        data = _data("prompt", "chosen", "rejected")
        trainer = RewardTrainer(base, args=RewardConfig(**settings), train_dataset=data, peft_config=_config("SEQ_CLS"))
    else:
        arguments = GRPOConfig(**settings, num_generations=4, max_completion_length=6)
        trainer = GRPOTrainer(base, _rewards, args=arguments, train_dataset=_data("prompt"), peft_config=_config())
    callback = SubspaceInitializationCallback(num_batches=1, trainer=trainer)
    trainer.add_callback(callback)
    trainer.train()
    assert callback.report is not None and len(callback.report.initialized) == MODULES
    assert any(layer.get_delta_weight("default").any() for layer in layers_of(trainer.model))


def _trainer(kind: str, base: str, folder: Path, **settings: Any) -> Trainer:
    settings = _settings(folder, **settings)
    if kind == "supervised":
        data = _data("prompt", "completion")
        return SFTTrainer(base, args=SFTConfig(**settings), train_dataset=data, peft_config=_config())
    if kind == "preferences":
        data = _data("prompt", "chosen", "rejected")
        return DPOTrainer(base, args=DPOConfig(**settings), train_dataset=data, peft_config=_config())
    if kind == "rewards":
        data = _data("prompt", "chosen", "rejected")
        config = _config("SEQ_CLS")
        return RewardTrainer(base, args=RewardConfig(**settings), train_dataset=data, peft_config=config)
    arguments = GRPOConfig(**settings, num_generations=4, max_completion_length=6, beta=0.1)
    return GRPOTrainer(base, _rewards, args=arguments, train_dataset=_data("prompt"), peft_config=_config())


@pytest.mark.parametrize("kind", ["supervised", "preferences", "rewards", "online"])
def test_prepare_gives_every_step_of_every_trainer_its_length(kind: str, base: str, tmp_path: Path, capsys) -> None:
    trainer = _trainer(kind, base, tmp_path, max_steps=10)
    callback = deep_lora.prepare(trainer, path=0.02)  # short, so that no factor is capped
    train_and_check_lengths(trainer, callback)
    assert callback.rule is not None and callback.rule.pace is (SCORES if kind == "rewards" else TOKENS)
    assert (trainer.args.learning_rate == 1e-3) == (kind == "rewards")  # of the new head
    assert "10 steps, subspaces from the gradient of 4 batches" in capsys.readouterr().out


@pytest.mark.parametrize("remedy", [None, "merge", "copy"])
def test_preferences_on_a_trained_adapter_need_a_remedy(remedy: str | None, base: str, tmp_path: Path) -> None:
    _supervised(base, tmp_path, _config()).save_model(str(tmp_path / "adapter"))
    model = AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter", is_trainable=True)
    if remedy == "merge":
        trainer = _preferences(model.merge_and_unload(), tmp_path, peft_config=_config())
    else:
        trainer = _preferences(model, tmp_path)
    if remedy == "copy":
        weights = get_peft_model_state_dict(trainer.model, adapter_name="default")
        set_peft_model_state_dict(trainer.model, weights, adapter_name="ref")
    trainer.train()
    first = _logged(trainer, "rewards/margins")[0]
    if remedy is None:  # TRL copies what has the adapter's name in the middle of its own; here it stands at the end
        assert abs(first) > 1e-4
    else:
        assert first == pytest.approx(0.0, abs=1e-6)
