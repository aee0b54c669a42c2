"""Reference files that papers compare with: what each holds, and the scores that it is suitable for.

Checksums are not given, because their authors do not publish any. Who uses a file was read in READMEs and
programs in November 2026; most name the ADM suite and not the file itself.
"""

from __future__ import annotations

from dataclasses import dataclass

_ADM = "https://openaipublic.blob.core.windows.net/diffusion/jul-2021/ref_batches/"
_SUITE = "https://github.com/openai/guided-diffusion/tree/main/evaluations"
_ALL_OF_INCEPTION = ("fid", "sfid", "precision", "recall")


@dataclass(frozen=True)
class Reference:
    """A file of references.

    Attributes:
        file: its name.
        data: of what.
        used_by: whose programs evaluate with it -> where they say so.
        holds: in words.
        scores: names of those that it is right with; all others of its features are not its papers'.
        url: where it is.
        note: what else to know.
    """

    file: str
    data: str
    used_by: dict[str, str]
    holds: str
    scores: tuple[str, ...]
    url: str
    note: str = ""


def _adm(
    folder: str, file: str, data: str, used_by: dict[str, str], images: int = 10_000, note: str = ""
) -> Reference:
    holds = f"{images:,} images; Inception statistics of the whole training set"
    return Reference(file, data, used_by, holds, _ALL_OF_INCEPTION, f"{_ADM}{folder}/{file}", note)


REFERENCES = (
    _adm("imagenet/64", "VIRTUAL_imagenet64_labeled.npz", "ImageNet 64", {"ADM": _SUITE}),
    _adm("imagenet/128", "VIRTUAL_imagenet128_labeled.npz", "ImageNet 128", {"ADM": _SUITE}),
    _adm(
        "imagenet/256",
        "VIRTUAL_imagenet256_labeled.npz",
        "ImageNet 256",
        {
            "ADM": _SUITE,
            "DiT": "https://github.com/facebookresearch/DiT",
            "SiT": "https://github.com/willisma/SiT",
            "MDT": "https://github.com/sail-sg/MDT",
            "U-DiT": "https://github.com/YuchuanTian/U-DiT",
            "DiCo": "https://github.com/shallowdream204/DiCo",
            "LightningDiT": "https://github.com/hustvl/LightningDiT",
            "DDT": "https://github.com/MCG-NJU/DDT",
            "REPA-E": "https://github.com/End2End-Diffusion/REPA-E",
            "RAE": "https://github.com/bytetriper/RAE",
        },
    ),
    _adm(
        "imagenet/512",
        "VIRTUAL_imagenet512.npz",
        "ImageNet 512",
        {"ADM": _SUITE, "DiT": "https://github.com/facebookresearch/DiT"},
        1_000,
        "1,000 images, not 10,000 (openai/guided-diffusion#19): precision and recall cannot be compared with "
        "those of other resolutions.",
    ),
    Reference(
        "fid_stats_imagenet256_guided_diffusion.npz",
        "ImageNet 256",
        {"U-ViT": "https://github.com/baofff/U-ViT"},
        "Inception statistics alone",
        ("fid",),
        "https://github.com/baofff/U-ViT",
        "Provided by guided-diffusion, by its README. That its numbers are the ADM file's was not checked.",
    ),
    Reference(
        "adm_in256_stats.npz",
        "ImageNet 256",
        {"MAR": "https://github.com/LTH14/mar/issues/8", "RCG": "https://github.com/LTH14/rcg/issues/31"},
        "Inception statistics alone",
        ("fid",),
        "https://github.com/LTH14/mar",
        "The ADM file's mu and sigma, by its author (LTH14/mar#8): FID is the same.",
    ),
    Reference(
        "img64.pkl, img512.pkl",
        "ImageNet 64, 512",
        {"EDM2": "https://github.com/NVlabs/edm2"},
        "Inception and DINOv2 statistics of the whole training set, cut by EDM2's dataset_tool",
        ("fid", "fd_dinov2"),
        "https://nvlabs-fi-cdn.nvidia.com/edm2/dataset-refs/",
        "A pickle, which is never read here: see the page on references. FD-DINOv2 has no other reference in "
        "papers on ImageNet 512.",
    ),
)
