"""The first page; the program is `reckeeper.page`."""

from streamlit.starlette import App

from reckeeper.page import guard, home

if __name__ == "__main__":  # run for a visitor
    home.show()
else:  # imported, to be served
    app = App(__file__, middleware=guard.middleware())
