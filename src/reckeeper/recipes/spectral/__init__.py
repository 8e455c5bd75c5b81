"""`spectral`: a filter of the spectrum of item-item co-occurrence, collapsed into one matrix."""

from reckeeper.recipes.spectral.model import Spectral
from reckeeper.recipes.spectral.settings import SpectralSettings

__all__ = ["Spectral", "SpectralSettings"]
