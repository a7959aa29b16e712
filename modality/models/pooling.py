"""One vector for each sample from what a tower returns, whatever it returns, with padding left out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from peft import PeftModel
from torch import Tensor, nn

from modality.temperature.finding import base_model_of

Pooling = Literal["mean", "first", "last", "pooler"]
MASKS = ("attention_mask", "padding_mask", "pixel_attention_mask")
# Methods by which audio encoders of transformers tell the mask of their output: (length, mask), or (mask, length).
_LENGTH_FIRST, _MASK_FIRST = "_get_feature_vector_attention_mask", "_get_output_attention_mask"
_LENGTHS = "_get_feat_extract_output_lengths"


def tower_features(output: Any, pooling: Pooling, mask: Tensor | None = None) -> Float[Tensor, "n d"]:
    """Reduce a tower's output to one vector for each sample.

    Vectors stay as they are. Of tokens (n, tokens, d), alone or as `last_hidden_state`, "mean" averages those
    under the mask, "first" takes the first of them and "last" the last, on whichever side the padding is; feature maps
    (n, d, height, width) are averaged. "pooler" takes `pooler_output`, or the projected `image_embeds` or
    `text_embeds`.

    Args:
        output: of a tower.
        pooling: see above.
        mask: what is not padding, of the output's length; `output_mask` finds it where a tower changes the length.

    Raises:
        ValueError: if the output has no such features, or the mask marks padding and has another length.

    >>> tower_features(torch.arange(4.0).reshape(1, 2, 2), "mean", torch.tensor([[1, 0]]))
    tensor([[0., 1.]])
    """
    if pooling not in get_args(Pooling):
        raise ValueError(f"`pooling` must be one of {list(get_args(Pooling))}, got {pooling!r}")
    hidden = output if isinstance(output, Tensor) else _field(output, pooling)
    if hidden is None or hidden.dim() not in (2, 3, 4):
        found = list(output) if isinstance(output, Mapping) else type(output).__name__
        shape = None if hidden is None else tuple(hidden.shape)
        raise ValueError(
            f"a tower must return vectors, tokens or feature maps; pooling={pooling!r} found shape {shape} in {found}; "
            "wrap the tower in a module that returns an (n, d) tensor"
        )
    if hidden.dim() == 2:
        return hidden
    if mask is not None and (hidden.dim() == 4 or mask.shape != hidden.shape[:2]):
        _check_no_padding(mask, hidden)
        mask = None
    if hidden.dim() == 4:
        return hidden.mean((2, 3))
    if pooling in ("first", "last"):
        return _end(hidden, pooling, mask)
    if mask is None:
        return hidden.mean(1)
    tokens = (mask != 0).to(hidden.device)[:, :, None]
    # What padding holds counts for nothing, NaN included; a sum in half precision could leave its range.
    total = hidden.masked_fill(~tokens, 0).sum(1, dtype=torch.promote_types(hidden.dtype, torch.float32))
    return (total / tokens.sum(1).clamp(min=1)).to(hidden.dtype)


def output_mask(tower: nn.Module, inputs: Mapping[str, Any], output: Any) -> Tensor | None:
    """Find the mask of a tower's output tokens; None without one, or the input's where none has their length.

    In this order: the mask that the output brings along; for a decoder's tokens its own; the mask in the inputs if it
    has as many tokens; what PEFT makes of it for the tokens of a prompt; and what the model makes of it when it
    downsamples (audio encoders of transformers). `tower_features` decides what to do with a mask of another length.

    Args:
        tower: a transformers model, a PEFT model around one, or any module.
        inputs: its keyword arguments.
        output: what it returned for them.

    >>> output_mask(nn.Identity(), {"attention_mask": torch.tensor([[1, 0]])}, torch.ones(1, 2, 4))
    tensor([[1, 0]])
    """
    hidden = output if isinstance(output, Tensor) else getattr(output, "last_hidden_state", None)
    own = None if isinstance(output, Tensor) else getattr(output, "attention_mask", None)
    if not isinstance(hidden, Tensor) or hidden.dim() != 3:
        return _given_mask(inputs, MASKS)
    if isinstance(own, Tensor) and own.shape == hidden.shape[:2]:
        return own
    if getattr(output, "encoder_last_hidden_state", None) is not None:
        of_decoder = _given_mask(inputs, ("decoder_attention_mask",))
        if of_decoder is not None or inputs.get("decoder_input_ids") is not None:
            return of_decoder
    mask, shape = _given_mask(inputs, MASKS), hidden.shape[:2]
    if mask is None or mask.shape == shape:
        return mask
    makers = (_with_prompt, _downsampled, _by_lengths)
    made = (maker(tower, mask, shape[1]) for maker in makers if mask.dim() == 2 and len(mask) == shape[0])
    return next((found for found in made if found is not None and found.shape == shape), mask)


def _given_mask(inputs: Mapping[str, Any], names: tuple[str, ...]) -> Tensor | None:
    found = (inputs.get(name) for name in names)
    return next((mask for mask in found if isinstance(mask, Tensor)), None)


def _end(hidden: Tensor, pooling: Pooling, mask: Tensor | None) -> Tensor:
    """Take the first token, or the last one, that is not padding."""
    if mask is None:
        return hidden[:, 0 if pooling == "first" else -1]
    tokens = (mask != 0).int()
    place = tokens.argmax(1) if pooling == "first" else mask.shape[1] - 1 - tokens.flip(1).argmax(1)
    return hidden[torch.arange(len(hidden), device=hidden.device), place.to(hidden.device)]


def _check_no_padding(mask: Tensor, hidden: Tensor) -> None:
    if not (mask != 0).all():
        raise ValueError(
            f"the tower returned {tuple(hidden.shape)} for a mask of {tuple(mask.shape)} that marks padding, so "
            "padding would be pooled too; wrap the tower in a module that pools and returns an (n, d) tensor, or "
            "pass inputs without padding and without a mask"
        )


def _with_prompt(tower: nn.Module, mask: Int[Tensor, "n tokens"], length: int) -> Int[Tensor, "n length"] | None:
    """Put ones before the mask, as PEFT does, for the tokens of a prompt that it puts before the input."""
    if not isinstance(tower, PeftModel) or not getattr(tower.active_peft_config, "is_prompt_learning", False):
        return None
    added = length - mask.shape[1]
    expected = getattr(tower.active_peft_config, "num_virtual_tokens", None)
    return torch.cat([mask.new_ones(len(mask), added), mask], dim=1) if added == expected else None


def _downsampled(tower: nn.Module, mask: Int[Tensor, "n tokens"], length: int) -> Tensor | None:
    """Ask the model itself."""
    model = base_model_of(tower)
    if hasattr(model, _LENGTH_FIRST):
        return getattr(model, _LENGTH_FIRST)(length, mask)
    return getattr(model, _MASK_FIRST)(mask, target_length=length) if hasattr(model, _MASK_FIRST) else None


def _by_lengths(tower: nn.Module, mask: Int[Tensor, "n tokens"], length: int) -> Bool[Tensor, "n length"] | None:
    """Ask the model for its outputs' lengths, if that of the whole input is the length at hand and padding is last."""
    lengths_of = getattr(base_model_of(tower), _LENGTHS, None)
    if lengths_of is None or not torch.equal(mask != 0, _up_to((mask != 0).sum(1), mask.shape[1])):
        return None
    whole = lengths_of(torch.tensor([mask.shape[1]], device=mask.device))
    if not isinstance(whole, Tensor) or whole.item() != length:
        return None
    return _up_to(lengths_of((mask != 0).sum(1)), length)


def _up_to(counts: Int[Tensor, " n"], length: int) -> Bool[Tensor, "n length"]:
    return torch.arange(length, device=counts.device) < counts[:, None]


def _field(output: Any, pooling: Pooling) -> Tensor | None:
    names = ("pooler_output", "image_embeds", "text_embeds") if pooling == "pooler" else ("last_hidden_state",)
    found = (getattr(output, name, None) for name in names)
    return next((tensor for tensor in found if isinstance(tensor, Tensor)), None)
