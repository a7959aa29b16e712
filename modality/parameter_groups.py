"""Optimizer groups in which the temperature learns slower."""

from __future__ import annotations

from typing import Any

from torch import nn

from modality.logit_scale import learned_temperatures


def temperature_parameter_groups(
    model: nn.Module, lr: float, factor: float = 0.1, weight_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups for any torch optimizer with the temperature at `factor * lr` (SLRT) and never decayed.

        optimizer = torch.optim.AdamW(temperature_parameter_groups(model, lr=1e-3))
        Trainer(model, arguments, optimizers=(optimizer, None), ...)

    The temperature is what `Temperature` modules learn, and every `logit_scale`, reparameterised or not.

    Args:
        model: any module.
        lr: of everything else that is trained.
        factor: of the temperature's rate.
        weight_decay: of matrices; vectors (biases, norms) are not decayed, as in Trainer.

    Raises:
        ValueError: for a rate, factor or decay out of range, or a model that learns no temperature.

    Source: Yaras et al., CPAL 2025, a smaller rate for the temperature (SLRT), with a factor of 0.1.

    >>> from modality.temperature import Temperature
    >>> model = nn.Sequential(nn.Linear(2, 2), Temperature(mode="learnable"))
    >>> [(group["lr"], len(group["params"])) for group in temperature_parameter_groups(model, lr=1.0)]
    [(1.0, 1), (1.0, 1), (0.1, 1)]
    """
    for name, value in (("lr", lr), ("factor", factor), ("weight_decay", weight_decay)):
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
            raise ValueError(f"`{name}` must be a number of at least 0, got {value!r}")
    temperatures = {id(parameter) for parameter in learned_temperatures(model)}
    if not temperatures:
        raise ValueError(
            f"{type(model).__name__} learns no temperature to give a rate of its own: there is neither a trainable "
            "`logit_scale` nor a Temperature of mode 'learnable', 'softplus' or 'exp'"
        )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    others = [parameter for parameter in trained if id(parameter) not in temperatures]
    groups = [
        {"params": [p for p in others if p.dim() >= 2], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in others if p.dim() < 2], "lr": lr, "weight_decay": 0.0},
        {"params": [p for p in trained if id(p) in temperatures], "lr": factor * lr, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
