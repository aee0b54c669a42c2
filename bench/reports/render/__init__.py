"""Writes tables and pages in several formats: terminal, Markdown, HTML, LaTeX, CSV. Computes nothing."""
