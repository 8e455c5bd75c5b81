"""Recommendations; the program is `reckeeper.page`."""

from reckeeper.page import recommendations

recommendations.show()
