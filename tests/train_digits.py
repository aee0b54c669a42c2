"""Train the `digits` extractor: `python -m tests.train_digits`, a minute on two cores.

It learns from the fifth of scikit-learn's digits that `split = "test"` holds out, so that it judges
networks that learn from the others, and these others themselves, by what it has never seen.

Writes `digits.safetensors` and, beside it, `digits.json` with its accuracy on the other four fifths and how
it was trained. New weights have a new digest: scores by the old ones are then not comparable, so this is run
only when the network changes.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bench.metrics import extractors
from bench.metrics.extractors.digits import DigitsNet, enlarge
from bench.utils.files import write_text, write_whole

SEED, EPOCHS, BATCH, RATE = 0, 200, 60, 2e-3
FOLDER = Path(extractors.__file__).parent


def split() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Images and labels of the fifth to learn from, then of the others: uint8 (N, 1, 8, 8) and (N,)."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = np.rint(data.images * (255 / 16)).astype(np.uint8)[:, None]
    parts = train_test_split(images, data.target, test_size=0.2, stratify=data.target, random_state=SEED)
    others_x, x, others_y, y = map(torch.from_numpy, parts)
    return x, y, others_x, others_y


def accuracy(network: DigitsNet, images: Tensor, labels: Tensor) -> float:
    """Share of images whose largest logit is their label's."""
    network.eval()
    with torch.inference_mode():
        return float((network(enlarge(images))["logits"].argmax(1) == labels).float().mean())


def train() -> DigitsNet:
    """The network, trained on a fifth of the digits: AdamW, cosine rate, small shifts and turns."""
    torch.manual_seed(SEED)
    images, labels, _, _ = split()
    network = DigitsNet()
    steps = EPOCHS * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=steps)
    clean = enlarge(images)
    for _ in range(EPOCHS):
        network.train()
        for batch in torch.randperm(len(images)).split(BATCH)[: len(images) // BATCH]:
            logits = network(_moved(clean[batch]))["logits"]
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=0.05)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval()


def _moved(images: Tensor) -> Tensor:
    """Each image turned, scaled and shifted a little: by up to 0.2 rad, 10% and one and a half pixels."""
    angle, scale, *shift = (torch.rand(4, len(images)) * 2 - 1) * torch.tensor([[0.2], [0.1], [0.19], [0.19]])
    cos, sin = angle.cos() * (1 + scale), angle.sin() * (1 + scale)
    maps = torch.stack([torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)
    return F.grid_sample(images, F.affine_grid(maps, list(images.shape), False), align_corners=False)


def main() -> None:
    """Train, measure, write."""
    from safetensors.torch import save

    network = train()
    _, _, images, labels = split()
    report = {
        "accuracy": round(accuracy(network, images, labels), 5),
        "unseen": len(images),
        "data": "a stratified fifth of sklearn.datasets.load_digits, with random_state 0",
        "trained": f"{EPOCHS} epochs, batch {BATCH}, AdamW, one cycle to {RATE}, seed {SEED}",
        "torch": torch.__version__,
    }
    write_whole(FOLDER / "digits.safetensors", lambda path: path.write_bytes(save(network.state_dict())))
    write_text(FOLDER / "digits.json", json.dumps(report, indent=2) + "\n")
    print(f"{report['accuracy']:.2%} of {report['unseen']} unseen digits")


if __name__ == "__main__":
    main()
