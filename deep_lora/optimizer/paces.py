"""How far a run goes and what shortens its steps, by the kind of its loss, which the model and its optimizer tell."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn
from torch.optim import Optimizer
from transformers import PreTrainedModel

from deep_lora.optimizer.factored import adapter_parameters
from deep_lora.optimizer.lengths import Pace, largest_of_first, mean_of_all, root_mean_square

# Chosen by the search in docs/few_shot.md.
TOKENS = Pace(0.12, 2.0, largest_of_first)  # a likelihood without a new head
CLASSES = Pace(0.12, 2.0, root_mean_square)  # a likelihood with a head that is trained beside the adapter
SCORES = Pace(0.24, 1.0, mean_of_all)  # numbers that a head predicts, which is trained beside the adapter
SIMILARITIES = Pace(0.24, 6.0, mean_of_all)  # of the model's own outputs; all else too

# What the names of transformers' classes say of their losses, beside output embeddings, which predict tokens.
CLASSIFIED = (
    "Classification",
    "MultipleChoice",
    "QuestionAnswering",
    "NextSentencePrediction",
    "SemanticSegmentation",
)
SEQUENCES = ("ForCTC", "ForRNNT", "ForTDT")


def pace_of(model: nn.Module, optimizer: Optimizer, likelihood: bool | None = None) -> Pace:
    """Choose the pace of a run.

    Args:
        likelihood: whether the loss is a cross-entropy, of tokens or of classes; None asks the model.

    >>> import torch
    >>> from peft import get_peft_model
    >>> from deep_lora import DeepLoraConfig
    >>> model = get_peft_model(nn.Sequential(nn.Linear(4, 4)), DeepLoraConfig(r=2, target_modules=["0"]))
    >>> head = nn.Linear(4, 1)
    >>> alone, beside = (torch.optim.AdamW([*model.parameters(), *more]) for more in ((), head.parameters()))
    >>> pace_of(model, alone) is SIMILARITIES, pace_of(model, beside) is SCORES
    (True, True)
    >>> pace_of(model, alone, likelihood=True) is TOKENS, pace_of(model, beside, likelihood=True) is CLASSES
    (True, True)
    """
    with_head = _trains_matrices_beside(model, optimizer)
    if maximizes_likelihood(model) if likelihood is None else likelihood:
        return CLASSES if with_head and not _holds(model, _predicts_tokens) else TOKENS
    return SCORES if with_head else SIMILARITIES


def _trains_matrices_beside(model: nn.Module, optimizer: Optimizer) -> bool:
    adapter = set(map(id, adapter_parameters(model)))
    trained = (p for group in optimizer.param_groups for p in group["params"] if p.requires_grad)
    return any(p.ndim > 1 and id(p) not in adapter for p in trained)


def maximizes_likelihood(model: nn.Module) -> bool:
    """Tell whether a model is, or holds, one of transformers whose loss is a cross-entropy, of tokens or of classes.

    Regression, similarities, and models without a head of transformers do not.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> sizes = dict(vocab_size=8, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, intermediate_size=4)
    >>> [maximizes_likelihood(BertForSequenceClassification(BertConfig(num_labels=n, **sizes))) for n in (2, 1)]
    [True, False]
    """
    return _holds(model, _predicts_tokens) or _holds(model, _predicts_classes)


def _holds(model: nn.Module, kind: Callable[[PreTrainedModel], bool]) -> bool:
    return any(kind(module) for module in model.modules() if isinstance(module, PreTrainedModel))


def _predicts_tokens(model: PreTrainedModel) -> bool:
    try:
        return model.get_output_embeddings() is not None
    except NotImplementedError:  # of models without embeddings
        return False


def _predicts_classes(model: PreTrainedModel) -> bool:
    name, config = type(model).__name__, model.config
    kind = getattr(config, "problem_type", None)
    one_number = kind == "regression" or (kind is None and config.num_labels == 1)
    return any(part in name for part in CLASSIFIED + SEQUENCES) and not one_number
