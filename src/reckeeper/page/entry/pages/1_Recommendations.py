"""Recommendations."""

from reckeeper.page import recommendations

recommendations.show()
