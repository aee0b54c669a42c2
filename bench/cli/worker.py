"""`python -m bench.cli.worker [PLUGIN…]`: one process of `bench ablate`; not for people."""

from __future__ import annotations

import sys

from bench.cli.options import load_plugins
from bench.studies.worker import serve
from bench.utils.process import keep_memory

if __name__ == "__main__":
    keep_memory()
    load_plugins(sys.argv[1:])
    serve(sys.argv[1:])
