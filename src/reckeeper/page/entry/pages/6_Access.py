"""Access."""

from reckeeper.page import keys

keys.show()
