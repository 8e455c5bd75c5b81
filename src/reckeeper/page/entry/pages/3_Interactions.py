"""Interactions."""

from reckeeper.page import interactions

interactions.show()
