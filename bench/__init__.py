"""How backbones are measured: cost, contract, tables. What is measured lives in `registry`."""

__version__ = "0.1.0"
