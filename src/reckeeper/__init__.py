"""Reckeeper keeps the recommendation models of a product."""

__version__ = "0.1.0"
