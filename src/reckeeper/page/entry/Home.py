"""What Streamlit runs: the first page, and the others in `pages/` beside it."""

from reckeeper.page import home

home.show()
