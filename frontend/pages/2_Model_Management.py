"""Model Management, at the path that the contract names; the program is `reckeeper.page`."""

from reckeeper.page import model_management

model_management.show()
