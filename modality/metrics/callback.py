"""`ModalityGapCallback`: the metrics of the modality gap in the log of a Trainer, beside the loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch.utils.data import DataLoader
from transformers import Trainer

from evaluation_hooks import EvaluationCallback
from modality.metrics.observer import PairObserver


class ModalityGapCallback(EvaluationCallback):
    """Log gap, alignment, uniformity, separability, effective rank, margin and recall of a Trainer's model.

    Without `loaders` it listens while the Trainer evaluates, at no extra pass: `eval_gap`, `eval_x_to_y_recall@1`, ...
    appear in the log beside `eval_loss`, and in what `evaluate` returns, so that `metric_for_best_model` may name one.
    With `loaders`, one pass over each is added after every evaluation, or after every epoch where the Trainer does not
    evaluate: `train_gap`, .... With several processes each takes its share, samples that were repeated to fill the last
    batch do not count, and all log the same values. During training the hook returns at once; an `evaluate` outside of
    training, where there is no hook, costs one more pass over its data. The callback measures the model that the
    Trainer has at the time, such as the one that `model_init` made for the run.

        trainer.add_callback(ModalityGapCallback(trainer))
        trainer.add_callback(ModalityGapCallback(trainer, {"test": DataLoader(test, 256, collate_fn=collator)}))

    Args:
        trainer: the Trainer to log through; its model is a `ContrastiveModel`, a `DualEncoder`, or returns
            `image_embeds` and `text_embeds`.
        loaders: name -> plain DataLoader; the Trainer's accelerator shards the batches and moves them.
        piggyback: listen to the Trainer's own evaluations.
        pool_size: pairs to retrieve from, the first ones seen; the log has their number as `x_to_y_pool`.
        ks: of recall at k.

    Attributes:
        latest: the last metrics, by name.

    Raises:
        TypeError, ValueError: without a Trainer, or with nothing to measure.
    """

    subject = "modality gap"
    nothing_seen = "fewer than two pairs went through the Trainer's model"

    def __init__(
        self,
        trainer: Trainer,
        loaders: Mapping[str, DataLoader] | None = None,
        *,
        piggyback: bool = True,
        pool_size: int = 1000,
        ks: Sequence[int] = (1, 5),
    ) -> None:
        super().__init__(trainer, loaders, piggyback=piggyback)
        self.observer: PairObserver = PairObserver(
            trainer.model, pool_size=pool_size, ks=ks, valid_rows=self.valid_rows
        )

    def measure(self) -> dict[str, float]:
        return self.observer.metrics()

    def skipped(self) -> list[str]:
        count = self.observer.skipped
        reason = f"{count} batches had NaN or inf, or the model returned no embeddings of two modalities for them"
        return [reason] if count else []
