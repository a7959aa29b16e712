"""Close the gap after training: centers and linear maps that are fitted once, stored, and applied to new features."""

from modality.alignment.centering import Centering
from modality.alignment.linear import LinearAlignment
from modality.alignment.stored import load_alignment

__all__ = ["Centering", "LinearAlignment", "load_alignment"]
