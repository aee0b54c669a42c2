"""Random numbers: the published Philox vectors, the distributions, and that only the place matters."""

import os
import subprocess
import sys
import zlib
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from bench.utils import randomness
from tests.conftest import ROOT

# Known answers of Random123's philox4x32-10: counter, key, words.
VECTORS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


@pytest.mark.parametrize(("counter", "key", "words"), VECTORS)
def test_philox_gives_the_published_words(counter: str, key: str, words: str) -> None:
    c = [torch.tensor([int(word, 16)]) for word in counter.split()]
    k = [int(word, 16) for word in key.split()]
    made = randomness.philox((c[0], c[1], c[2], c[3]), (k[0], k[1]))
    assert [f"{int(word):08x}" for word in made] == words.split()


@pytest.mark.slow
def test_the_kernel_of_a_gpu_gives_the_same_integers() -> None:
    """Triton's interpreter stands for a GPU."""
    pytest.importorskip("triton")
    code = """
import torch
from bench.utils import philox_kernel, randomness
indices = torch.tensor([0, 5, 2**32 - 1, 17, 300])[::2]
for seed in (0, 2**64 - 1, 12345678901234567):
    for step in (0, 1, 2**31 + 5):
        key = randomness._key(seed, "noise")
        uniform = philox_kernel.draw(key, indices, 1025, step, normal=False)
        assert torch.equal(uniform, randomness.uniform(seed, "noise", indices, 1025, step))
        normal = philox_kernel.draw(key, indices, 1026, step, normal=True)
        expected = randomness.normal(seed, "noise", indices, (1026,), step)
        assert (normal - expected).abs().max() < 1e-6
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("broken", [None, ImportError, ValueError])
def test_a_kernel_is_used_where_it_gives_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch, broken: type[Exception] | None
) -> None:
    calls = []

    def draw(key: tuple[int, int], indices: torch.Tensor, count: int, step: int, *, normal: bool) -> Any:
        calls.append(normal)
        if broken is ImportError:
            raise RuntimeError("Failed to find C compiler")
        drawn = randomness._uniform(key[0] | (key[1] ^ zlib.crc32(b"p")) << 32, "p", indices, count, step)
        return drawn + (broken is not None)

    monkeypatch.setitem(sys.modules, "bench.utils.philox_kernel", SimpleNamespace(draw=draw))
    randomness._kernel_of.cache_clear()
    found = randomness._kernel_of(torch.device("cpu"))
    randomness._kernel_of.cache_clear()
    assert calls == [False] and found is (None if broken else draw)


def test_numbers_have_their_distribution() -> None:
    indices = torch.arange(500)
    x = randomness.normal(3, "noise", indices, (4, 8, 8), step=7)
    assert x.shape == (500, 4, 8, 8) and x.dtype == torch.float32
    assert stats.kstest(x.flatten().numpy(), "norm").pvalue > 0.01
    u = randomness.uniform(3, "noise", indices, 101)
    assert u.shape == (500, 101) and float(u.min()) >= 0 and float(u.max()) < 1
    assert stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01


def test_an_image_keeps_its_numbers_in_any_batch() -> None:
    whole = randomness.normal(5, "noise", torch.arange(20), (3, 5))
    torch.testing.assert_close(randomness.normal(5, "noise", torch.tensor([13, 2]), (3, 5)), whole[[13, 2]])


def test_seed_purpose_step_and_index_each_give_other_numbers() -> None:
    index = torch.tensor([1])
    drawn = [
        randomness.uniform(0, "a", index, 8),
        randomness.uniform(1, "a", index, 8),
        randomness.uniform(2**32, "a", index, 8),
        randomness.uniform(0, "b", index, 8),
        randomness.uniform(0, "a", index, 8, step=1),
        randomness.uniform(0, "a", torch.tensor([2]), 8),
    ]
    assert len({tuple(x[0].tolist()) for x in drawn}) == len(drawn)


def test_a_permutation_holds_each_number_once_and_differs_by_step() -> None:
    first, second = (randomness.permutation(0, "epoch", 1001, step) for step in (0, 1))
    assert np.array_equal(np.sort(first), np.arange(1001)) and not np.array_equal(first, second)
    # The place of item 0 over many orders is uniform.
    places = [int(np.flatnonzero(randomness.permutation(0, "epoch", 10, s) == 0)[0]) for s in range(2000)]
    assert stats.chisquare(np.bincount(places, minlength=10)).pvalue > 0.01
