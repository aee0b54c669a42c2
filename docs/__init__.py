"""The book: its configuration, and what is generated for it."""
