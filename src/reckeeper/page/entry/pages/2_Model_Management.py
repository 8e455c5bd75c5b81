"""Model Management."""

from reckeeper.page import model_management

model_management.show()
