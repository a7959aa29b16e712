"""The compared ways of closing the modality gap: what each does with the temperature and with the embeddings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from modality import CosineAlternation, LinearSchedule

BASELINE = "learnable"
CLIP_START = "learnable from 0.01"
FIXED = (0.01, 0.02, 0.04, 0.07, 0.1, 0.2, 0.5, 1.0)
RISING = LinearSchedule(0.05, 0.2)


@dataclass(frozen=True)
class Method:
    """One way to train; the defaults are CLIP's, a learned temperature that starts at 0.07.

    Args:
        label: for tables and figures.
        temperature: mode of `modality.Temperature`.
        initial: temperature at the start (that of a schedule is the schedule's own).
        scale: s of the reparameterization exp(nu / s).
        schedule: temperature over the progress of training, for the mode "scheduled".
        temperature_rate: learning rate of the temperature relative to all others.
        swap: what `ModalitySwapCollator` exchanges, with this `probability` for each step.
        batch_norm: standardize both projections over the batch, by running moments in evaluation (I0T).
        alignment: weight of `mean |x_i - y_i|^2`, added to the loss.
    """

    label: str
    temperature: Literal["fixed", "learnable", "softplus", "exp", "scheduled"] = "learnable"
    initial: float = 0.07
    scale: float = 1.0
    schedule: Callable[[float], float] | None = None
    temperature_rate: float = 1.0
    swap: Literal["hard", "soft", "row"] | None = None
    probability: float = 0.0
    batch_norm: bool = False
    alignment: float = 0.0


def scheduled(label: str, schedule: Callable[[float], float], **others: object) -> Method:
    """Make a method whose temperature follows a schedule from its own start."""
    return Method(label, "scheduled", initial=schedule(0.0), schedule=schedule, **others)  # type: ignore[arg-type]


# Settings of Yaras et al., CPAL 2025, tables 2 to 5, where nothing else is said. A hard swap at 0.05
# takes as many of a few hundred steps as 0.001 took of the paper's, which were about ten thousand.
METHODS: dict[str, Method] = {
    BASELINE: Method("learned, from 0.07"),
    CLIP_START: Method("learned, from 0.01", initial=0.01),
    **{f"fixed {tau:g}": Method(f"fixed, {tau:g}", "fixed", initial=tau) for tau in FIXED},
    "linear S1": scheduled("linear, 0.01 to 0.03", LinearSchedule(0.01, 0.03)),
    "linear S3": scheduled("linear, 0.01 to 0.05", LinearSchedule(0.01, 0.05)),
    "alternation": scheduled("cosine, 0.01 and 0.04", CosineAlternation(0.01, 0.04, periods=5)),
    "softplus": Method("learned, softplus", "softplus"),
    "exp(nu/2)": Method("learned, exp(nu/2)", "exp", scale=2.0),
    "slower rate": Method("learned, rate x 0.1", temperature_rate=0.1),
    "hard swap 0.001": Method("hard swap, 0.001", swap="hard", probability=1e-3),
    "hard swap 0.01": Method("hard swap, 0.01", swap="hard", probability=1e-2),
    "hard swap 0.05": Method("hard swap, 0.05", swap="hard", probability=5e-2),
    "soft swap 0.05": Method("soft swap, 0.05", swap="soft", probability=5e-2),
    "row swap 0.05": Method("row swap, 0.05", swap="row", probability=5e-2),
    # Not in that paper: the losses and layers of others, and what this project adds, a temperature that rises further.
    "batch norm": Method("batch norm (I0T)", batch_norm=True),
    "alignment": Method("alignment, weight 1", alignment=1.0),
    "linear S3, batch norm": scheduled("linear, 0.01 to 0.05, batch norm", LinearSchedule(0.01, 0.05), batch_norm=True),
    "rising": scheduled("rising, 0.05 to 0.2", RISING),
    "rising, soft swap": scheduled("rising, soft swap 0.05", RISING, swap="soft", probability=5e-2),
    "rising, batch norm": scheduled("rising, batch norm", RISING, batch_norm=True),
}
