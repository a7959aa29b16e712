"""Which models maximize a likelihood by their own loss: of tokens, of classes, of spans."""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

# What the names of transformers' classes say of their losses, beside output embeddings, which predict tokens.
CLASSES = ("Classification", "MultipleChoice", "QuestionAnswering", "NextSentencePrediction", "SemanticSegmentation")
SEQUENCES = ("ForCTC", "ForRNNT", "ForTDT")


def maximizes_likelihood(model: nn.Module) -> bool:
    """Tell whether a model is, or holds, one of transformers whose loss is a cross-entropy, of tokens or of classes.

    Regression, similarities, and models without a head of transformers do not.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> sizes = dict(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    >>> [maximizes_likelihood(BertForSequenceClassification(BertConfig(num_labels=n, **sizes))) for n in (2, 1)]
    [True, False]
    """
    models = (module for module in model.modules() if isinstance(module, PreTrainedModel))
    return any(_predicts_tokens(module) or _predicts_classes(module) for module in models)


def _predicts_tokens(model: PreTrainedModel) -> bool:
    try:
        return model.get_output_embeddings() is not None
    except NotImplementedError:  # of models without embeddings
        return False


def _predicts_classes(model: PreTrainedModel) -> bool:
    name, config = type(model).__name__, model.config
    kind = getattr(config, "problem_type", None)
    one_number = kind == "regression" or (kind is None and config.num_labels == 1)
    return any(part in name for part in CLASSES + SEQUENCES) and not one_number
