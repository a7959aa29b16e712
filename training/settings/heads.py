"""The options of the classifier head."""

from __future__ import annotations

from dataclasses import dataclass

from training.settings.common import option


@dataclass
class HeadArguments:
    """The classifier head."""

    _argument_group_name = "head"

    normalized_head: bool = option(False, "Put features and class vectors of the classifier on the unit sphere.")
    head_temperature: float | None = option(None, "Temperature of a normalised head; found from the classes if unset.")
