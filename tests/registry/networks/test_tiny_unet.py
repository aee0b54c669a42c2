"""TinyUNet against the article's listing, its one bug mended."""

import pytest
import torch

import registry
from tests import plain

BLOCKS = {"d1": (1, 32), "d2": (32, 64), "d3": (64, 128), "mid": (128, 128), "u3": (256, 64), "u2": (128, 32)}


def article_state():
    """Random weights under the listing's names, for its widths."""
    generator = torch.Generator().manual_seed(5)
    shapes = {"t_emb.1": (64, 64), "t_emb.3": (64, 64), "out": (1, 32, 1, 1)}
    for name, (inner, outer) in {**BLOCKS, "u1": (64, 32)}.items():
        shapes |= {f"{name}.norm1": (inner,), f"{name}.norm2": (outer,), f"{name}.t_proj": (outer, 64)}
        shapes |= {f"{name}.conv1": (outer, inner, 3, 3), f"{name}.conv2": (outer, outer, 3, 3)}
        if inner != outer:
            shapes[f"{name}.skip"] = (outer, inner, 1, 1)
    state = {}
    for name, shape in shapes.items():
        fan = max(torch.Size(shape[1:]).numel(), 1)
        state[f"{name}.weight"] = torch.randn(shape, generator=generator) / fan**0.5
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return state


@pytest.mark.parametrize(("height", "width"), [(28, 28), (16, 24), (9, 13)])
@torch.no_grad()
def test_output_equals_the_listings(height, width):
    state = article_state()
    assert sum(tensor.numel() for tensor in state.values()) == 914_915
    network = registry.load_checkpoint(registry.create("tiny-unet"), state).eval()
    x, t = torch.randn(2, 1, height, width), torch.tensor([10, 990])
    torch.testing.assert_close(network(x, t, None), plain.tiny_unet(state, x, t), atol=2e-5, rtol=0)


def test_grids_too_small_to_halve_three_times_are_refused():
    with pytest.raises(registry.UsageError, match="7×28"):
        registry.create("tiny-unet")(torch.randn(1, 1, 7, 28), torch.tensor([1]), None)
