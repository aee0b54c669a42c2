"""How fast backbones run, and where the time goes."""
