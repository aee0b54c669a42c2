"""Quality of generated images: feature extractors, and scores of one set of images against another.

    from bench.metrics.evaluation import evaluate
    from bench.metrics.scores import Features

    found = evaluate(Features(pool=of_samples), Features(pool=of_images))
    found.values["fid"]

Scores are plugins, see `bench.metrics.scores`. Importing this package imports no torch.
"""
