"""`AlignedEmbeddings`: an alignment as the last module of a sentence-transformers model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

from modality.alignment import Centering
from modality.alignment.stored import from_tensors
from modality.temperature.module import keep_float32_


class AlignedEmbeddings(Module):
    """Apply an alignment to the embeddings of a multimodal sentence-transformers model, by the modality of each batch.

    It is saved with the model, and loaded with it:

        model = SentenceTransformer("clip-ViT-B-32")
        alignment = Centering.fit({"image": model.encode(images), "text": model.encode(texts)})
        model.append(AlignedEmbeddings(alignment))
        model.save_pretrained("clip-centered")
        SentenceTransformer("clip-centered", trust_remote_code=True)

    sentence-transformers calls modules of other packages remote code, hence the last argument; the folder holds none.

    Args:
        alignment: fitted to the embeddings that the model returns without this module. The names of its modalities are
            those of sentence-transformers: "text", "image", "audio", "video".

    Raises:
        TypeError: for anything but an alignment.
        ValueError: when it runs, for a modality that the alignment was not fitted for.

    >>> centering = Centering.fit({"image": [[1.0, 0.0], [0.0, 1.0]], "text": [[0.0, -1.0], [-1.0, 0.0]]})
    >>> module = AlignedEmbeddings(centering)
    >>> module({"modality": "image", "sentence_embedding": torch.tensor([[2.0, 0.0]])})["sentence_embedding"]
    tensor([[ 0.7071, -0.7071]])
    """

    def __init__(self, alignment: Centering) -> None:
        super().__init__()
        if not isinstance(alignment, Centering):
            raise TypeError(
                f"`alignment` must be a fitted `Centering` or `LinearAlignment`, got {type(alignment).__name__}"
            )
        self.kind = type(alignment).__name__
        self.names = list(alignment.tensors())
        for number, tensor in enumerate(alignment.tensors().values()):
            self.register_buffer(_buffer(number), tensor.float())

    @property
    def alignment(self) -> Centering:
        """The alignment, on the model's device."""
        tensors: dict[str, Any] = {name: getattr(self, _buffer(number)) for number, name in enumerate(self.names)}
        return from_tensors(self.kind, tensors, type(self).__name__)

    def forward(self, features: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Replace `sentence_embedding`."""
        modality = features.get("modality", "text")
        embeddings: Tensor = features["sentence_embedding"]
        features["sentence_embedding"] = self.alignment.apply(modality, embeddings).to(embeddings.dtype)
        return features

    def get_config_dict(self) -> dict[str, Any]:
        """Return the kind of the alignment, and names and shapes of its tensors."""
        shapes = [list(getattr(self, _buffer(number)).shape) for number in range(len(self.names))]
        return {"kind": self.kind, "names": self.names, "shapes": shapes}

    def save(self, output_path: str, *args: Any, safe_serialization: bool = True, **kwargs: Any) -> None:
        """Write configuration and numbers into the module's folder."""
        self.save_config(output_path)
        self.save_torch_weights(output_path, safe_serialization=safe_serialization)

    @classmethod
    def load(cls, model_name_or_path: str, **kwargs: Any) -> AlignedEmbeddings:
        """Read what `save` wrote, from a folder or the Hub."""
        names = ("subfolder", "token", "cache_folder", "revision", "local_files_only")
        hub = {name: kwargs[name] for name in names if name in kwargs}
        config = cls.load_config(model_name_or_path=model_name_or_path, **hub)
        empty = {name: torch.zeros(shape) for name, shape in zip(config["names"], config["shapes"], strict=True)}
        module = cls(from_tensors(config["kind"], empty, model_name_or_path))
        cls.load_torch_weights(model_name_or_path=model_name_or_path, model=module, **hub)
        return module

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> AlignedEmbeddings:
        """Keep the numbers in float32 when a model is cast: bfloat16 keeps two or three digits."""
        before = [getattr(self, _buffer(number)).clone() for number in range(len(self.names))]
        super()._apply(fn, recurse)
        for number, exact in enumerate(before):
            keep_float32_(getattr(self, _buffer(number)), exact)
        return self


def _buffer(number: int) -> str:
    """Return the name of a buffer; names of modalities could hold a dot."""
    return f"tensor_{number}"
