"""What an operation allocates."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LargestTensor(TorchDispatchMode):
    """Remembers the most elements that any operation inside the block returned (complex ones may count twice).

    Args:
        ignore: tensors that existed before; they and their views are not counted.
    """

    def __init__(self, *ignore: torch.Tensor) -> None:
        super().__init__()
        self.numel = 0
        self._ignored = {tensor.untyped_storage().data_ptr() for tensor in ignore}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                stored = leaf if leaf.layout == torch.strided else leaf.values()  # a sparse tensor is what it stores
                if stored.untyped_storage().data_ptr() not in self._ignored:
                    self.numel = max(self.numel, stored.numel())
        return result
