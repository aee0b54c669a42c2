"""What is to be seen on a GPU, in stages of less than ten minutes: `python -m tests.device --out DIR`.

    python -m tests.device --out DIR --data CIFAR        all stages in order, until the minutes are used up
    python -m tests.device --out DIR --stage first       what a GPU of a quarter of an hour is for
    python -m tests.device --out DIR --released CLONES   also beside the authors' code; see `released`
    python -m tests.device.carry --out DIR               wheels and data for a machine without a network

A stage is a list of items. What an item found is written at once, so the same command goes on after a kill,
or on another machine to which DIR was copied. The first stage has a little of everything, each item with a
time after which it is given up. Of the others right comes before fast: those that compare with the CPU and
with the authors' outputs are first. Nothing here measures by itself: it calls what the commands call.

What may be faster, and waits for a GPU to show it (gains as expected, not measured):

- **Training what is compiled**, 1.5 to 3 times for a U-DiT, whose step is some thousand launches: `training`
  times it eager and compiled; to gain, "launch share" is near 1 before and not after.
- **RoPE with the cosine norm as one kernel**, 1.3 times for attention of a U-DiT: `profile` has both under
  "elementwise" and "copy and layout"; their shares are the most that can be won.
- **1×1 convolutions as linear layers** over channels-last maps, 1.15 times: `kernels …` of `first` names what
  cuDNN runs for them; a name with `nchwToNhwc` beside it is a copy that would go.
- **5×5 depthwise convolutions by cuDNN**: unknown. `kernels …` tells whether PyTorch's own `conv_depthwise2d`
  runs, and `profile` what they take of a network. Inductor's template for depthwise convolutions has one
  dimension alone.
"""
