"""How the tensors of an adapter start."""

from __future__ import annotations

import torch
from torch import Tensor

from deep_lora.config import DIFFERENCES_FORMAT, DeepLoraConfig
from deep_lora.functional import LARGEST_RATE_SCALE, STORED_SCALE
from dmf.functional import identity_chain, orthogonal

EARLIER_SCALES = {1: 1.0, 2: 4.0, 3: 4.0}  # by the format in which an adapter was saved


def stored_scale(config: DeepLoraConfig) -> float:
    """Return by how much the stored factors are smaller than those of the update.

    Not at all, where kappa was chosen, or where the start is so small that kappa leaves its plateau; by less in an
    adapter of an earlier format.

    >>> stored_scale(DeepLoraConfig()), stored_scale(DeepLoraConfig.paper())
    (8.0, 1.0)
    """
    large = config.variant == "compressed" and 0.5 / config.init_scale**2 < LARGEST_RATE_SCALE
    scaled = large and config.core_scale == "auto"
    return EARLIER_SCALES.get(config.deep_lora_version, STORED_SCALE) if scaled else 1.0


def stores_differences(config: DeepLoraConfig) -> bool:
    """Tell whether the cores are stored as differences from their start.

    Those of earlier formats, and where no start is subtracted, are stored themselves.

    Whatever pulls parameters to zero, such as weight decay, then pulls the update to zero; and half precision rounds
    what was learned instead of its sum with the start.

    >>> stores_differences(DeepLoraConfig()), stores_differences(DeepLoraConfig.paper())
    (True, False)
    """
    subtracted = config.variant == "compressed" and config.subtract_start
    return subtracted and config.deep_lora_version >= DIFFERENCES_FORMAT


@torch.no_grad()
def draw_start_(
    U: Tensor, core: Tensor, V: Tensor, config: DeepLoraConfig, core_scale: float, outer_scale: float = 1.0
) -> None:
    """Fill U (..., out, r), core (n, ..., r, r) and V (..., in, r) with the start of the variant, in place.

    | variant | U, V | cores |
    |---|---|---|
    | compressed | random orthonormal, over `outer_scale` | `eps I / kappa`, or zero where that is left out |
    | narrow, wide | `eps` times random orthogonal | `eps / kappa` times random orthogonal |

    With `init_weights=False` the update is random and of LoRA's order of magnitude, not an identity. With
    `inference_mode=True`, as when PEFT loads an adapter, U and V are columns of the identity: they are about to be
    overwritten, and nothing needs to be drawn. Tensors on the meta device are left alone.

    Source: Yaras et al., ICML 2024: the compressed, the wide and the narrow factorization.
    """
    if any(tensor.is_meta for tensor in (U, core, V)):
        return
    compressed = config.variant == "compressed"
    outer = 1 / outer_scale if compressed or not config.init_weights else config.init_scale
    drawn = not (config.inference_mode and config.init_weights)
    for basis in (U, V):
        basis.copy_(_stacked_orthogonal(basis) if drawn else torch.eye(*basis.shape[-2:], device=basis.device))
        if outer != 1.0:
            basis.mul_(outer)
    if core.numel() > 0:
        _draw_cores_(core, config, core_scale)


def _draw_cores_(core: Tensor, config: DeepLoraConfig, core_scale: float) -> None:
    start = config.init_scale / core_scale
    if not config.init_weights:
        core.normal_().div_(2 * core_scale * core.shape[-1] ** 0.5)
        if stores_differences(config):
            core.diagonal(dim1=-2, dim2=-1).sub_(start)
    elif stores_differences(config):
        core.zero_()
    elif config.variant == "compressed":
        eye = identity_chain(core.shape[0], core.shape[-1], start, device=core.device)
        core.copy_(eye.reshape(core.shape[0], *(1,) * (core.ndim - 3), *core.shape[-2:]).expand_as(core))
    else:
        core.copy_(_stacked_orthogonal(core) * start)


def _stacked_orthogonal(like: Tensor) -> Tensor:
    """Draw an independent random (semi-)orthogonal matrix for every leading index of `like`."""
    rows, columns = like.shape[-2:]
    if like.ndim == 2:
        return orthogonal(rows, columns, dtype=like.dtype, device=like.device)
    count = like.numel() // (rows * columns)
    blocks = [orthogonal(rows, columns, dtype=like.dtype, device=like.device) for _ in range(count)]
    return torch.stack(blocks).reshape(like.shape)
