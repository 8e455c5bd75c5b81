"""The Streamlit pages: they show and steer, by HTTP alone."""
