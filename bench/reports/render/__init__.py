"""Tables and pages in many forms: terminal, Markdown, HTML, LaTeX, CSV. Nothing is computed here."""
