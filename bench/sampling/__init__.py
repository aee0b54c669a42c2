"""From a trained network to image files, which do not depend on the number of processes.

    source = bench.training.trained.open_run("run")
    plan = Plan(source.objective, source.defaults, seed=1)
    sample(source.network, source.to_images, plan, "samples.npz", identity=source.identity)

All randomness of image i comes from the seed and i (`bench.utils.randomness`), and batches are cut by the
images' numbers, so neither the number of processes nor an interruption changes anything.
"""

from bench.sampling.images import sample
from bench.sampling.plan import Guide, Plan
from bench.sampling.sheets import columns, write_sheet
from bench.sampling.sources import Source, open_weights

__all__ = ["Guide", "Plan", "Source", "columns", "open_weights", "sample", "write_sheet"]
