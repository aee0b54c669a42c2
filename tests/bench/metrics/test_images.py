"""Sets of images: what is read, in which order, in how much memory, and what is refused and why."""

import io
import json
import os
import socket
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from bench.metrics.images import FeatureSet, ImageSet, open_set
from bench.metrics.npz import Npz
from bench.utils.arrays import batches
from registry.errors import UsageError

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)


def everything(images: ImageSet | FeatureSet, size: int = 3) -> np.ndarray:
    assert isinstance(images, ImageSet)
    parts = list(images.read(batches(images.count, size)))
    return np.concatenate([part.permute(0, 2, 3, 1).numpy() for part in parts])


def folder_of(folder: Path, images: np.ndarray = IMAGES) -> Path:
    for i, image in enumerate(images):
        path = folder / f"class{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


# ---- what is read ----


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_images_come_in_order_and_in_parts(tmp_path: Path, save) -> None:
    save(tmp_path / "s.npz", arr_0=IMAGES)
    images = open_set(tmp_path / "s.npz")
    assert isinstance(images, ImageSet)
    assert (images.count, images.size, images.notes, images.statistics) == (7, (6, 5), (), {})
    assert np.array_equal(everything(images), IMAGES)
    last = list(images.read([range(3, 5), range(6, 7)]))  # a share of several processes skips
    assert np.array_equal(last[0].permute(0, 2, 3, 1), IMAGES[3:5])
    assert np.array_equal(last[1].permute(0, 2, 3, 1), IMAGES[6:])
    assert list(images.read([])) == []


def test_the_digest_is_of_the_content(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", arr_0=IMAGES)
    np.savez_compressed(tmp_path / "b.npz", arr_0=IMAGES, mu=np.zeros(2), sigma=np.eye(2))
    np.savez(tmp_path / "c.npz", arr_0=IMAGES[::-1])
    a, b, c = (open_set(tmp_path / f"{name}.npz").digest for name in "abc")
    assert a == b != c
    one, two = open_set(folder_of(tmp_path / "f")), open_set(folder_of(tmp_path / "g"))
    assert one.digest == two.digest not in (a, c)


def test_folders_are_searched_at_any_depth_in_order_of_path(tmp_path: Path) -> None:
    folder_of(tmp_path / "s")
    (tmp_path / "s" / "labels.txt").write_text("no image")
    (tmp_path / "s" / ".hidden.png").write_text("no image")
    order = [0, 2, 4, 6, 1, 3, 5]
    for size in (1, 2, 7):  # decoded by workers, or here
        assert np.array_equal(everything(open_set(tmp_path / "s"), size), IMAGES[order])


def test_other_formats_and_modes_are_converted_as_pil_does_and_said_once(tmp_path: Path) -> None:
    image = Image.fromarray(IMAGES[0])
    image.save(tmp_path / "0.JPEG", quality=90)
    image.save(tmp_path / "1.webp", lossless=True)
    image.convert("L").save(tmp_path / "2.png")
    image.convert("RGBA").save(tmp_path / "3.png")
    image.convert("P").save(tmp_path / "4.png")
    images = open_set(tmp_path)
    expected = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(tmp_path.iterdir())]
    assert np.array_equal(everything(images), expected)
    assert np.array_equal(expected[1], IMAGES[0])
    (note,) = images.notes
    assert "1 in mode L, 1 in mode RGBA, 1 in mode P of 5 images, converted to 8-bit RGB" in note


def test_transparency_that_is_dropped_is_said(tmp_path: Path) -> None:
    image = Image.fromarray(IMAGES[0])
    image.save(tmp_path / "0.png")
    image.convert("L").save(tmp_path / "1.png")
    for name, mode, options in (("2", "RGBA", {}), ("3", "P", {"transparency": 0}), ("4", "LA", {})):
        image.convert(mode).save(tmp_path / f"{name}.png", **options)
    image.save(tmp_path / "5.png", transparency=tuple(map(int, IMAGES[0, 0, 0])))  # of one colour
    (note,) = open_set(tmp_path).notes
    assert note.endswith(
        "; 4 of 6 images have transparency, which is dropped: the colours that it hides are scored."
    )
    hidden = np.dstack([IMAGES[0], np.zeros((6, 5), np.uint8)])
    (tmp_path / "hidden").mkdir()
    Image.fromarray(hidden).save(tmp_path / "hidden" / "0.png")
    assert np.array_equal(everything(open_set(tmp_path / "hidden")), IMAGES[:1])


def test_all_that_pillow_decodes_is_read(tmp_path: Path) -> None:
    for ending in ("bmp", "tif", "TIFF", "ppm", "gif", "tga", "qoi", "webp", "avif", "jp2"):
        Image.fromarray(IMAGES[0]).save(tmp_path / f"a.{ending}")
    for ending in ("jpg", "jfif", "jpe"):
        Image.fromarray(IMAGES[0]).save(tmp_path / f"b.{ending}", "JPEG")
    images = open_set(tmp_path)
    paths = sorted(tmp_path.iterdir())
    assert isinstance(images, ImageSet) and images.count == len(paths) == 13 and images.left_out == {}
    assert np.array_equal(everything(images), [np.asarray(Image.open(p).convert("RGB")) for p in paths])


def test_what_is_left_out_is_counted_and_links_are_followed(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "s")
    (folder / ".ipynb_checkpoints").mkdir()
    for hidden in (".ipynb_checkpoints/0-checkpoint.png", "class0/._0.png"):
        Image.fromarray(IMAGES[0]).save(folder / hidden)
    for other in ("a.txt", "b.TXT", "class1/README"):
        (folder / other).write_text("")
    (folder / "class1").rename(tmp_path / "elsewhere")
    (folder / "class1").symlink_to(tmp_path / "elsewhere")
    (folder / "class0" / "around").symlink_to(folder)
    images = open_set(folder)
    assert isinstance(images, ImageSet) and images.count == 7
    assert images.left_out == {
        "hidden folders": 1,
        "hidden files": 1,
        "folders that contain themselves": 1,
        ".txt": 2,
        "files without an ending": 1,
    }
    assert images.notes[0].startswith(f"{folder}: left out: 2 .txt, 1 ")


@pytest.mark.parametrize(
    ("labels", "order"),
    [
        ([0, 0, 1, 1, 1, 2, 2], "are sorted by their labels (arr_1)"),
        ([2, 2, 0, 0, 1, 1, 1], "are sorted by their labels (arr_1)"),
        ([0, 1, 2, 0, 1, 2, 0], ""),
        ([3] * 7, ""),
        ([0.0, 0, 1, 1, 2, 2, 2], ""),
    ],
)
def test_labels_tell_whether_the_images_of_a_class_follow_each_other(tmp_path: Path, labels, order) -> None:
    np.savez(tmp_path / "s.npz", arr_0=IMAGES, arr_1=labels)
    assert open_set(tmp_path / "s.npz").order == order


def test_several_folders_may_be_classes(tmp_path: Path) -> None:
    folder_of(tmp_path / "s")
    assert open_set(tmp_path / "s").order == "lie in several folders, which may be classes"
    assert open_set(tmp_path / "s" / "class0").order == ""


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif"])
def test_images_are_turned_as_their_exif_says(tmp_path: Path, ending: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(IMAGES[0]).save(tmp_path / f"a.{ending}", exif=exif)
    images = open_set(tmp_path)
    (found,) = everything(images)
    # Pillow turns TIFFs by itself; this one is not compressed.
    stored = IMAGES[0] if ending == "tif" else np.asarray(Image.open(tmp_path / f"a.{ending}").convert("RGB"))
    crossed = stored.transpose(1, 0, 2)  # rows become columns
    upright = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: crossed,
        6: crossed[:, ::-1],
        7: crossed[::-1, ::-1],
        8: crossed[::-1],
    }[orientation]
    assert isinstance(images, ImageSet) and images.size == upright.shape[:2]
    assert np.array_equal(found, upright)
    said = "1 of 1 images turned as their EXIF orientation says" in "".join(images.notes)
    assert said == (orientation > 1 and ending != "tif")


def test_of_several_frames_the_first_is_read(tmp_path: Path) -> None:
    first, *others = (Image.fromarray(image) for image in IMAGES)
    first.save(tmp_path / "a.png", save_all=True, append_images=others)
    images = open_set(tmp_path)
    assert np.array_equal(everything(images), IMAGES[:1])
    assert "1 of 1 images have several frames, of which the first is scored" in images.notes[0]


@pytest.mark.parametrize("levels", [np.full((6, 5), 0.5, np.float32), np.full((6, 5), 70000, np.int32)])
def test_levels_that_are_no_8_or_16_bits_are_refused(tmp_path: Path, levels: np.ndarray) -> None:
    Image.fromarray(levels).save(tmp_path / "a.tif")
    assert "convert it to 8 bits" in refused(tmp_path)


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    open_set(folder_of(tmp_path / "s"), lambda *step: told.append(step))
    assert told[0] == ("looking through s", 1, 7) and told[-1] == ("looking through s", 7, 7)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_memory_does_not_grow_with_the_images(tmp_path: Path, save) -> None:
    whole = np.zeros((600, 128, 128, 3), np.uint8)  # 28 MiB
    save(tmp_path / "s.npz", arr_0=whole)
    tracemalloc.start()
    images = open_set(tmp_path / "s.npz")
    assert isinstance(images, ImageSet)
    for part in images._decoder(batches(600, 16)):
        assert part.shape[1:] == (3, 128, 128)
    assert tracemalloc.get_traced_memory()[1] < whole.nbytes / 3
    tracemalloc.stop()


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_array_that_is_not_compressed_is_read_anywhere_by_every_worker(
    tmp_path: Path, save, monkeypatch
) -> None:
    images = np.random.default_rng(0).integers(0, 256, (60, 9, 7, 3), np.uint8)
    save(tmp_path / "s.npz", before=np.arange(5), arr_0=images, after=np.arange(7))
    found = open_set(tmp_path / "s.npz")
    parts = found.batches(7)
    expected = images.transpose(0, 3, 1, 2)
    if save is np.savez:
        read = found._decoder(parts)
        for index in (8, 0, 3):
            assert np.array_equal(read[index], expected[parts[index].start : parts[index].stop])
    workers = []

    def loader(blocks, *_, num_workers, **options):
        workers.append(num_workers)
        return map(blocks.__getitem__, range(len(blocks))) if hasattr(blocks, "__len__") else iter(blocks)

    monkeypatch.setattr("bench.metrics.images.DataLoader", loader)
    monkeypatch.setattr("bench.metrics.images.usable_cores", lambda: 6)
    assert np.array_equal(np.concatenate([part.numpy() for part in found.read(parts)]), expected)
    monkeypatch.setenv("WORLD_SIZE", "3")
    list(found.read(parts))
    assert workers == ([6, 2] if save is np.savez else [1, 1])


def test_statistics_are_recognised(tmp_path: Path) -> None:
    mu, sigma = np.arange(3.0), np.asfortranarray([[4.0, 1, 0], [1, 5, 2], [0, 2, 6]])
    np.savez(tmp_path / "r.npz", mu=mu.astype(np.float32), sigma=sigma)
    alone = open_set(tmp_path / "r.npz")
    assert isinstance(alone, FeatureSet) and (alone.extractor, alone.count) == ("inception", None)
    assert set(alone.statistics) == {"pool"} and alone.features == {}
    np.savez(tmp_path / "r.npz", arr_0=IMAGES, mu=mu, sigma=sigma, mu_s=mu[:2], sigma_s=sigma[:2, :2])
    both = open_set(tmp_path / "r.npz")
    assert isinstance(both, ImageSet) and set(both.statistics) == {"pool", "spatial"}
    assert np.array_equal(both.statistics["pool"].covariance, sigma)


# ---- what is refused ----


def refused(path: Path) -> str:
    """What is said of a set, when it is opened or when it is read."""
    with pytest.raises(UsageError) as error:
        everything(open_set(path))
    message = str(error.value)
    assert "\n" not in message and "Traceback" not in message and path.name in message
    return message


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": IMAGES}, "has neither images (arr_0) nor statistics (mu, sigma); it has: images"),
        ({}, "it has: nothing"),
        ({"arr_0": IMAGES.astype(np.float32)}, "arr_0 is float32 7 × 6 × 5 × 3; images are"),
        ({"arr_0": IMAGES[..., :1]}, "arr_0 is uint8 7 × 6 × 5 × 1; images are"),
        ({"arr_0": IMAGES[..., 0]}, "arr_0 is uint8 7 × 6 × 5; images are"),
        ({"arr_0": np.asfortranarray(IMAGES)}, "(column-major); images are"),
        ({"arr_0": IMAGES[:0]}, "arr_0 is empty"),
        ({"arr_0": np.array([{}], object)}, "arr_0 holds Python objects, which are never unpickled"),
        ({"arr_0": IMAGES, "mu": np.zeros(2)}, "has no array 'sigma'"),
        ({"mu": np.zeros(2), "sigma": np.zeros((2, 3))}, "mu, sigma: statistics are a mean (D,)"),
        ({"mu": np.zeros(2), "sigma": np.full((2, 2), np.nan)}, "mu, sigma: statistics hold NaN"),
        ({"mu": np.zeros(2), "sigma": -np.eye(2)}, "mu, sigma: the covariance has negative eigenvalues"),
        ({"mu": np.array(["a"]), "sigma": np.zeros((1, 1))}, "mu, sigma: could not convert"),
    ],
)
def test_arrays_that_are_no_images(tmp_path: Path, arrays, message) -> None:
    np.savez(tmp_path / "s.npz", **arrays)
    assert message in refused(tmp_path / "s.npz")


def test_files_that_are_no_sets(tmp_path: Path) -> None:
    assert "no such file or folder" in refused(tmp_path / "s")
    (tmp_path / "s.npz").write_text("no zip")
    assert "is no readable .npz (damaged or truncated)" in refused(tmp_path / "s.npz")
    Image.fromarray(IMAGES[0]).save(tmp_path / "s.png")
    assert "is neither a folder of images nor an .npz" in refused(tmp_path / "s.png")
    (tmp_path / "empty").mkdir()
    assert "holds no images that Pillow reads" in refused(tmp_path / "empty")
    (tmp_path / "empty" / "a.txt").write_text("")
    assert "reads. " in (said := refused(tmp_path / "empty")) and "empty: left out: 1 .txt." in said


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("damage", ["cut", "flip"])
def test_damaged_npz_are_found_before_any_feature(tmp_path: Path, save, damage) -> None:
    path = tmp_path / "s.npz"
    save(path, arr_0=IMAGES)
    data = bytearray(path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 0xFF
    path.write_bytes(data if damage == "flip" else data[:-50])
    with pytest.raises(UsageError, match=r"s\.npz is no readable \.npz \(damaged or truncated\)"):
        open_set(path)


def forged(path: Path, header: dict, data: bytes) -> Path:
    """An .npz whose array's header promises what its data do not keep."""
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, header)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", member.getvalue() + data)
    return path


def test_headers_that_promise_too_much_allocate_nothing(tmp_path: Path) -> None:
    header = {"descr": "|u1", "fortran_order": False, "shape": (10**6, 1000, 1000, 3)}
    assert "promises 1000000 × 1000 × 1000 × 3 uint8, its data are 9 bytes" in refused(
        forged(tmp_path / "s.npz", header, bytes(9))
    )
    path = tmp_path / "t.npz"
    np.savez(path, arr_0=IMAGES)
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\x01\x02") + 24  # uncompressed size in the zip's directory
    data[at : at + 4] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(data)
    assert "is damaged: arr_0 claims more bytes than the file can hold" in refused(path)


def test_arrays_that_unpack_to_absurd_sizes_are_refused(tmp_path: Path, monkeypatch) -> None:
    np.savez_compressed(tmp_path / "s.npz", mu=np.zeros(500), sigma=np.zeros((500, 500)))
    assert open_set(tmp_path / "s.npz").statistics
    monkeypatch.setattr("bench.metrics.npz.LARGE", 2**20)
    assert "sigma unpacks to 2,000,128 bytes, as a decompression bomb does" in refused(tmp_path / "s.npz")


def test_large_images_come_in_smaller_parts(tmp_path: Path, monkeypatch) -> None:
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    images = open_set(tmp_path / "s.npz")
    assert isinstance(images, ImageSet) and images.batches(5) == [range(0, 5), range(5, 7)]
    monkeypatch.setattr("bench.metrics.images.BATCH_BYTES", 2 * 6 * 5 * 3)
    assert [len(part) for part in images.batches(5)] == [2, 2, 2, 1]


def test_images_of_absurd_size_are_refused(tmp_path: Path, monkeypatch) -> None:
    np.savez(tmp_path / "s.npz", arr_0=IMAGES)
    folder_of(tmp_path / "f")
    for limit in (20, 12):  # PIL warns beyond it and refuses beyond twice it
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        assert "images of 6×5 are too large: the file is damaged" in refused(tmp_path / "s.npz")
        with pytest.raises(UsageError, match=r"0\.png cannot be read as an image: DecompressionBomb"):
            open_set(tmp_path / "f")


def test_images_that_are_none_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "s")
    whole = (folder / "class1" / "3.png").read_bytes()
    (folder / "class1" / "3.png").write_text("no image")
    with pytest.raises(UsageError, match=r"3\.png is no image that Pillow reads"):
        open_set(folder)
    (folder / "class1" / "3.png").write_bytes(whole[:-40])
    for size in (2, 7):  # in a worker, or here
        with pytest.raises(UsageError, match=r"^\S*3\.png cannot be read as an image: OSError") as error:
            everything(open_set(folder), size)
        assert "\n" not in str(error.value)


def test_images_of_two_sizes_are_named(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "s")
    Image.new("RGB", (4, 9)).save(folder / "x.png")
    with pytest.raises(UsageError, match=r"differ in size: class0/0\.png is 6×5, x\.png is 9×4"):
        open_set(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pool": np.full((2, 3), np.nan, np.float32)}, "pool: NaN"),
        ({"pool": np.zeros((3, 3), np.float32)}, r"pool is float32 \(3, 3\), not float32 \(2, width\)"),
        ({"pool": np.zeros((2, 3))}, "pool is float64"),
        ({"about": np.array("{}")}, "'about' does not tell of features"),
        ({"about": np.array(["no JSON"])}, "'about' does not tell"),
        ({"about": np.array("[" * 100_000)}, "'about' does not tell"),
        (
            {"about": np.array('{"extractor": "", "digest": "", "count": Infinity, "statistics": ""}')},
            "'about' does not tell",
        ),
    ],
)
def test_feature_files_that_are_not_ours(tmp_path: Path, changes, message) -> None:
    about = {"extractor": "digits", "digest": "0", "count": 2, "statistics": "computed"}
    arrays = {"about": np.array(json.dumps(about)), "pool": np.zeros((2, 3), np.float32)}
    np.savez(tmp_path / "s.npz", **arrays)
    assert isinstance(open_set(tmp_path / "s.npz"), FeatureSet)
    np.savez(tmp_path / "s.npz", **(arrays | changes))
    with pytest.raises(UsageError, match=message):
        open_set(tmp_path / "s.npz")


def test_arrays_are_read_in_either_order_and_in_blocks(tmp_path: Path) -> None:
    array = np.arange(24.0).reshape(4, 6)
    np.savez_compressed(tmp_path / "s.npz", a=array, b=np.asfortranarray(array), c=np.float64(3))
    npz = Npz(tmp_path / "s.npz")
    assert npz.names == ["a", "b", "c"]
    assert np.array_equal(npz.member("a").array(), array) and np.array_equal(npz.member("b").array(), array)
    assert npz.member("c").array() == 3
    assert [block.tolist() for block in npz.member("a").blocks([range(1, 2), range(3, 4)])] == [
        [array[1].tolist()],
        [array[3].tolist()],
    ]


def png(levels: np.ndarray, colour_type: int) -> bytes:
    """A PNG of 16 bits a channel, chunk by chunk: Pillow writes grey ones only."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    height, width = levels.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)  # 0: unfiltered
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    )


@pytest.mark.parametrize(
    ("colour_type", "channels", "mode"), [(0, 1, "mode I"), (2, 3, "mode RGB"), (6, 4, "mode RGBA")]
)
def test_16_bits_become_8_by_rounding(tmp_path: Path, colour_type: int, channels: int, mode: str) -> None:
    levels = np.random.default_rng(0).integers(0, 65536, (8, 9, channels), dtype=np.uint16)
    levels[0, :4] = np.array([0, 128, 129, 65535])[:, None]
    (tmp_path / "a.png").write_bytes(png(levels, colour_type))
    images = open_set(tmp_path)
    (read,) = everything(images)
    expected = np.round(levels[..., :3] / 257).astype(np.uint8)  # alpha is dropped, grey repeated
    assert np.array_equal(read, np.broadcast_to(expected, (8, 9, 3)))
    assert f"1 in {mode} of 16 bits of 1 images, converted to 8-bit RGB" in images.notes[0]


def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    Image.fromarray(IMAGES[0]).save(tmp_path / "a.png")
    other = tmp_path / "b.png"
    os.mkfifo(other)
    with pytest.raises(UsageError, match=r"b\.png is no regular file: take it out of the folder"):
        open_set(tmp_path)
    other.unlink()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(other))
        with pytest.raises(UsageError, match=r"b\.png is no regular file"):
            open_set(tmp_path)
    other.unlink()
    other.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"b\.png is no regular file"):
        open_set(tmp_path)
    os.mkfifo(tmp_path / "s.npz")
    with pytest.raises(UsageError, match=r"s\.npz is neither a regular file nor a folder"):
        open_set(tmp_path / "s.npz")


@pytest.mark.parametrize("shape", [(4, 3, 16, 16), (4, 3, 16, 32), (4, 3, 3, 16)])
def test_channels_before_height_and_width_are_refused(tmp_path: Path, shape) -> None:
    np.savez(tmp_path / "a.npz", arr_0=np.zeros(shape, np.uint8))
    with pytest.raises(UsageError, match=r"channels before height and width.*transpose the array"):
        open_set(tmp_path / "a.npz")
