"""Access; the program is `reckeeper.page`."""

from reckeeper.page import keys

keys.show()
