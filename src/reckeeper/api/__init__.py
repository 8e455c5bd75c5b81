"""The public API: a FastAPI program that translates HTTP into calls of the library."""
