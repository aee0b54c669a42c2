"""What is to be seen on a GPU, in stages of less than ten minutes: `python -m tests.device --out DIR`.

    python -m tests.device --out DIR --data CIFAR        all stages in order, until the minutes are used up
    python -m tests.device --out DIR --stage first       what a GPU of a quarter of an hour is for
    python -m tests.device --out DIR --released CLONES   also beside the authors' code; see `released`
    python -m tests.device.carry --out DIR               wheels and data for a machine without a network

A stage is a list of items. What an item found is written at once, so the same command goes on after a kill,
or on another machine to which DIR was copied. The first stage has a little of everything, each item with a
time after which it is given up. Right comes before fast: the stages that compare with the CPU
and with the authors' outputs are first. Nothing here measures by itself: it calls what the commands call.
"""
