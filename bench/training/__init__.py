"""Training under a protocol. Importing this package does not import torch."""
