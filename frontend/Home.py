"""The first page; the program is `reckeeper.page`."""

from reckeeper.page import home

home.show()
