"""What a process may use of its machine, told by control groups as Linux writes them."""

from pathlib import Path

import pytest

from bench.utils import device


def group(folder: Path, **numbers: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in numbers.items():
        (folder / f"memory.{name}").write_text(f"{number}\n")


def test_a_control_group_leaves_its_limit_less_what_cannot_be_given_back(tmp_path: Path) -> None:
    told, mounted = tmp_path / "cgroup", tmp_path / "fs"
    told.write_text("0::/job/step\n")
    group(mounted / "job", max="1000", current="700", stat="anon 500\ninactive_file 150")
    group(mounted / "job" / "step", max="max", current="600", stat="anon 500\ninactive_file 100")
    group(mounted.parent, max="1", current="0", stat="inactive_file 0")  # beside the file system
    assert list(device._left_to_groups(told, mounted)) == [1000 - (700 - 150)]


def test_a_container_of_version_1_sees_its_own_group_as_the_root(tmp_path: Path) -> None:
    told, mounted = tmp_path / "cgroup", tmp_path / "fs"
    told.write_text("5:cpuset:/docker/4f\n4:memory:/docker/4f\n0::/\n")
    group(mounted / "memory", limit_in_bytes="900", usage_in_bytes="300", stat="total_inactive_file 20")
    assert list(device._left_to_groups(told, mounted)) == [900 - (300 - 20)]
    assert list(device._left_to_groups(tmp_path / "of another system", mounted)) == []


def test_what_is_available_is_what_the_tightest_of_all_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "_free_memory", lambda: 50)
    for left, expected in (([], 50), ([70, 20], 20), ([70], 50)):
        monkeypatch.setattr(device, "_left_to_groups", lambda left=left: iter(left))
        assert device.available_memory() == expected
