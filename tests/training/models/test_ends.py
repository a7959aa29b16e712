"""Models that read the class at the end-of-sequence token get as many in each text; tokenizers can pad."""

from __future__ import annotations

import json
import shutil

import pytest
from transformers import BertConfig, BertForSequenceClassification, T5Config, T5ForSequenceClassification

from training.errors import UsageError
from training.models.ends import require_ends
from training.models.loading import load_processor
from training.settings.common import ModelArguments


def test_texts_without_the_token_or_with_another_one_inside_are_refused() -> None:
    tiny = {"vocab_size": 8, "num_layers": 1, "num_heads": 1, "d_model": 4, "d_kv": 4, "d_ff": 4}
    model = T5ForSequenceClassification(T5Config(**tiny, eos_token_id=4, num_labels=2))
    require_ends(model, [[1, 4], [1, 2, 4]], "</s>", "train texts")
    require_ends(model, [[1, 4, 2, 4], [4, 1, 4]], "</s>", "pairs")
    with pytest.raises(UsageError, match="its tokenizer adds none: 2 of 2 train texts have none; pass a model whose"):
        require_ends(model, [[1], [1, 2]], "</s>", "train texts")
    with pytest.raises(
        UsageError,
        match="1 of 3 train texts do not have 1 of </s> as the others do; T5.* reads the class there: remove </s>",
    ):
        require_ends(model, [[1, 4], [1, 4, 2, 4], [2, 4]], "</s>", "train texts")
    small = {
        "vocab_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "hidden_size": 4,
        "intermediate_size": 4,
    }
    require_ends(BertForSequenceClassification(BertConfig(**small)), [[1]], None, "train texts")


def test_a_tokenizer_that_cannot_pad_is_refused(bert, tmp_path) -> None:
    folder = shutil.copytree(bert, tmp_path / "model")
    path = folder / "tokenizer_config.json"
    kept = {name: value for name, value in json.loads(path.read_text()).items() if name[:3] not in ("pad", "eos")}
    path.write_text(json.dumps(kept))
    with pytest.raises(UsageError, match="has neither a token for padding nor one for the end of a text, so texts of"):
        load_processor(ModelArguments(model=str(folder)))
