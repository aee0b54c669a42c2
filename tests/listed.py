"""Counts every built-in backbone for `bench list`: writes `bench/cost/listed.csv`.

python -m tests.listed
"""

import csv

import registry
from bench import cost
from bench.cost.listed import FILE

COLUMNS = ["name", "fingerprint", "parameters", "paper_gflops"]


def main() -> None:
    with FILE.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(COLUMNS)
        for name in registry.names():
            if registry.backbones.find(name).module.startswith("registry."):
                found = cost.measure(name)
                code = registry.backbones.fingerprint(name)
                rows.writerow([name, code, found.parameters, found.paper_gflops])


if __name__ == "__main__":
    main()
