"""Interactions; the program is `reckeeper.page`."""

from reckeeper.page import interactions

interactions.show()
