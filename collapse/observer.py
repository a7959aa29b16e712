"""`HeadObserver`: statistics of what enters a classifier's head, with its labels, while the model runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from collapse.centers import TILE_ROWS, nearest_center_agreement
from collapse.classifier import NormalizedClassifier
from collapse.classifier.normalized import check_has_classes
from collapse.heads.finding import LinearHead, argument, base_model_of, find_head
from collapse.language import last_token_rows, next_token_pairs, shifts_labels
from collapse.sphere import unit_rows
from collapse.statistics import ClassStatistics, Within
from evaluation_hooks import Observer

RowCount = Callable[[int], int]


class SystematicSample:
    """At most `size` rows of a stream: every s-th, where s doubles whenever there are too many.

    >>> sample = SystematicSample(2)
    >>> for row in torch.arange(5.0).split(1): sample.add(row)
    >>> sample.rows()
    tensor([0., 4.])
    """

    def __init__(self, size: int) -> None:
        self.size, self._stride, self._seen = size, 1, 0
        self._kept: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Add the rows that fall on the grid."""
        first = -self._seen % self._stride
        self._seen += len(rows)
        if self.size == 0 or first >= len(rows):
            return
        self._kept.append(rows[first :: self._stride].clone())
        while sum(map(len, self._kept)) > self.size:
            self._kept, self._stride = [self.rows()[::2].clone()], 2 * self._stride

    def rows(self) -> Tensor:
        """Return the kept rows in their order."""
        return torch.cat(self._kept) if self._kept else torch.empty(0)


class HeadObserver(Observer):
    """Collect `ClassStatistics` of the features that enter a model's head, between `start` and `stop`.

    Only batches in evaluation mode count, since dropout changes the features in training mode. Features of a
    `NormalizedClassifier` are normalized first, as in the classifier. A head that reads every token of a sequence with
    one label (decoders) is observed at the last token that is not padding, which transformers uses. Of a language model
    (`head="lm_head"`) each token's features are paired with the label that its loss pairs them with: the next token,
    where the model shifts its labels.

    Args:
        model: a classification model of transformers, with PEFT or without.
        head: see `find_head`.
        within: see `ClassStatistics`.
        center_samples: rows kept for NC4, spread evenly over the stream; 0 for none.
        valid_rows: how many of a batch's rows count (a distributed loader repeats some to fill its last batch).
        skip_unusable: skip batches whose labels are not classes of this head, instead of raising.

    Attributes:
        statistics: what was collected since `start`.
        unlabeled, not_finite: batches skipped because they had no labels, or had NaN or inf.
        unusable: how many batches were skipped for what is wrong with their labels, by what it is.

    Raises:
        ValueError: if the head is not found, or has no classes; see `find_head` and `normalize_classifier_`.

    >>> from transformers import BertConfig, BertForSequenceClassification
    >>> config = BertConfig(vocab_size=9, hidden_size=4, num_hidden_layers=1, num_attention_heads=1, num_labels=3)
    >>> model = BertForSequenceClassification(config).eval()
    >>> observer = HeadObserver(model)
    >>> with observer.watching():
    ...     _ = model(input_ids=torch.tensor([[1, 2], [3, 4]]), labels=torch.tensor([0, 2]))
    >>> observer.statistics.counts.tolist()
    [1, 0, 1]
    """

    def __init__(
        self,
        model: nn.Module,
        head: str | None = None,
        *,
        within: Within = "full",
        center_samples: int = 4096,
        valid_rows: RowCount = lambda rows: rows,
        skip_unusable: bool = False,
    ) -> None:
        if center_samples < 0:
            raise ValueError(f"`center_samples` is a number of rows to keep for NC4, 0 for none, got {center_samples}")
        self.within, self.center_samples, self._valid_rows = within, center_samples, valid_rows
        self._head_name, self._skip_unusable = head, skip_unusable
        super().__init__(model)

    def point_at(self, model: nn.Module) -> None:
        """Observe this model from now on and release the previous one; attached hooks move along.

        Raises:
            ValueError: if its head is not found, or has no classes; see `find_head`.
        """
        base = base_model_of(model)
        if self._head_name is None and base is not getattr(self, "model", None):
            check_has_classes(base)  # before it is trained: transformers notes in its config what labels it has seen
        self._copies = list(find_head(base, self._head_name).copies.values())
        self._last: LinearHead = self._copies[0]
        self._features: Tensor | None = None
        self._shifts: bool | None = None
        super().point_at(base)

    def observes(self, model: nn.Module) -> bool:
        return super().observes(base_model_of(model))

    def hooks(self) -> Iterator[RemovableHandle]:
        for copy in self._copies:
            yield copy.register_forward_pre_hook(self._keep_features)
        yield self.model.register_forward_hook(self._take_batch, with_kwargs=True)

    def forget(self) -> None:
        weight = self._last.weight
        device = weight.device if weight.device.type not in ("meta", "mps") else "cpu"
        self.statistics = ClassStatistics(
            self._last.out_features, self._last.in_features, within=self.within, device=device
        )
        self._sample = SystematicSample(self.center_samples)
        self.unlabeled = self.not_finite = 0
        self.unusable: Counter[str] = Counter()

    @property
    def head(self) -> LinearHead:
        """The copy of the head that ran last."""
        return self._last

    def class_vectors(self) -> Float[Tensor, "K d"]:
        """Return the head's rows, normalized if the head normalizes them."""
        weight = self.head.weight.detach()
        return unit_rows(weight) if isinstance(self.head, NormalizedClassifier) else weight

    @torch.no_grad()
    def center_agreement(self, statistics: ClassStatistics) -> tuple[float, int]:
        """Compute NC4 of the kept rows and the given statistics, and count the rows."""
        rows = self._sample.rows()
        if len(rows) == 0:
            return 0.0, 0
        parts = rows.to(self.head.weight).split(TILE_ROWS)
        predictions = torch.cat([self.head(part).argmax(-1) for part in parts])
        return nearest_center_agreement(rows, predictions, statistics), len(rows)

    def _keep_features(self, module: Any, args: tuple[Any, ...]) -> None:
        if self.is_watching:
            self._features, self._last = args[0].detach(), module

    def _take_batch(self, module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        features, self._features = self._features, None
        if not self.is_watching or features is None or module.training:
            return
        labels = argument(module, "labels", args, kwargs)
        if labels is None:
            self.unlabeled += 1
            return
        if self._shifts is None:
            self._shifts = shifts_labels(module, output, labels)
        if self._shifts and labels.ndim == 2 and features.ndim == 3:
            features, labels = next_token_pairs(features, labels)
        if features.ndim == labels.ndim + 2:
            input_ids = argument(module, "input_ids", args, kwargs)
            features = last_token_rows(features, input_ids, _pad_token_id(module))
        valid = self._valid_rows(len(labels))
        try:
            self._take(features[:valid], labels[:valid])
        except (TypeError, ValueError) as error:
            if not self._skip_unusable:
                raise
            self.unusable[str(error)] += 1

    def _take(self, features: Tensor, labels: Int[Tensor, "*batch"]) -> None:
        if not features.isfinite().all():
            self.not_finite += 1
            return
        rows = unit_rows(features) if isinstance(self.head, NormalizedClassifier) else features
        self.statistics.update(rows, labels)
        self._sample.add(rows.reshape(-1, rows.shape[-1])[(labels != -100).reshape(-1)].float())


def _pad_token_id(module: nn.Module) -> int | None:
    config = getattr(module, "config", None)
    return None if config is None else getattr(config.get_text_config(), "pad_token_id", None)
