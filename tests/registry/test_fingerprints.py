"""Fingerprints: what changes one, and which stand for the same numbers."""

import itertools
import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest

import registry
from bench.records.schema import Fingerprints
from bench.studies.staleness import stale
from registry import fingerprints
from registry.plugins import Registry, load_file
from tests import equivalent
from tests.conftest import ROOT

NET = '''
"""A network."""
import math
import helpers
from blocks import Block, unused as other
from registry.layers.modulation import Modulation
import registry

SCALE = 2.0
DEPTH = 3


class Net(registry.Backbone):
    """Has a docstring."""

    def __init__(self, width: int = 8):
        super().__init__()
        self.scale = math.sqrt(SCALE) + helpers.offset(width)
        self.block = Block()  # a block

    def forward(self, x, t, y):
        """Does a thing."""
        return self.block(x) * self.scale + 1


class Other:
    depth = DEPTH


registry.register("fp-net", width=16)(Net)
registry.register("fp-other")(Other)
'''
HELPERS = "def offset(x):\n    return x + BASE\n\n\nBASE = 1\nSPARE = 2\n"
BLOCKS = (
    "from torch.nn import Identity as Act\n\n\nclass Block(Act):\n    pass\n\n\ndef unused():\n    pass\n"
)
FILES = {"net": NET, "helpers": HELPERS, "blocks": BLOCKS}


def fingerprint(folder, files, name="fp-net"):
    """Of a name of the plugin `net.py` in a new folder, in this process."""
    folder.mkdir()
    for stem, text in files.items():
        (folder / f"{stem}.py").write_text(text)
    shelf = Registry("thing")
    register, registry.register = registry.register, shelf.register
    path = list(sys.path)
    try:
        module = load_file(str(folder / "net.py"))
        return shelf.fingerprint(name)
    finally:
        registry.register, sys.path[:] = register, path
        for loaded in (*files, module.__name__):
            sys.modules.pop(loaded, None)


def edited(stem, old, new):
    assert FILES[stem].count(old) == 1
    return {**FILES, stem: FILES[stem].replace(old, new)}


@pytest.mark.parametrize(
    "files",
    [
        edited("net", "SCALE = 2.0", "SCALE = 3.0"),  # a constant
        edited("net", "* self.scale + 1", "* self.scale + 2"),
        edited("net", "* self.scale + 1", "* self.scale - 1"),
        edited("net", "math.sqrt(SCALE)", "math.exp(SCALE)"),
        edited("net", "width: int = 8", "width: int = 9"),
        edited("net", '"fp-net", width=16', '"fp-net", width=17'),  # a registered default
        edited("net", '"fp-net", width=16', '"fp-net"'),
        edited("net", "SCALE = 2.0", "SCALE = 2.0\nmath.tau"),  # what runs on import
        edited("net", "SCALE = 2.0", "SCALE = 2.0\nhelpers.BASE = 5"),
        edited("helpers", "x + BASE", "x * BASE"),
        edited("helpers", "BASE = 1", "BASE = 0"),
        edited("blocks", "import Identity as Act", "import ReLU as Act"),
        edited("blocks", "    pass\n\n\ndef", "    size = 1\n\n\ndef"),
        edited("net", "import Block, unused as other", "import unused as Block"),
    ],
)
def test_a_change_of_code_changes_the_fingerprint(tmp_path, files):
    assert fingerprint(tmp_path / "a", FILES) != fingerprint(tmp_path / "b", files)


@pytest.mark.parametrize(
    "files",
    [
        FILES,  # in another folder
        edited("net", "  # a block", ""),
        edited("net", '"""Has a docstring."""', '"""Has another."""'),
        edited("net", '        """Does a thing."""\n', ""),
        edited("net", '"""A network."""', ""),
        edited("net", "sqrt(SCALE) + helpers.offset(width)", "sqrt(\n SCALE )+(helpers.offset(width))"),
        edited("net", "SCALE = 2.0\nDEPTH = 3", "DEPTH = 3\nSCALE = 2.0"),
        edited("net", "DEPTH = 3", "DEPTH = 4"),  # that of another network
        edited("net", 'register("fp-other")', 'register("fp-other", depth=3)'),
        edited("helpers", "SPARE = 2", "SPARE = 3"),
        edited("blocks", "def unused():\n    pass", "def unused():\n    return 1"),
        {**FILES, "net": NET + "\n\nif __name__ == '__main__':\n    print(Net())\n"},
    ],
)  # fmt: skip
def test_what_computes_nothing_leaves_the_fingerprint(tmp_path, files):
    assert fingerprint(tmp_path / "a", FILES) == fingerprint(tmp_path / "b", files)


BY_NAME = """
import registry
import blocks


def make(width: int = 8):
    return blocks.find("Block")


registry.register("fp-net")(make)
"""
BLOCK = "class Block:\n    size = 1\n"
FIND = "\n\ndef find(name):\n    return "
NOTE = "TABLE = {}\n\n\ndef note(made):\n    TABLE['Block'] = made\n    return made\n\n\n"
FOUND = {
    "globals": f"{BLOCK}{FIND}globals()[name]\n",
    "eval": f"{BLOCK}{FIND}eval(name)\n",
    "import": f"import importlib\n{FIND}importlib.import_module('parts' + '1').Block\n",
    "decorator": f"{NOTE}@note\n{BLOCK}{FIND}TABLE[name]\n",
    "decorator of a library": f"import atexit\n\n\n@atexit.register\ndef note():\n    size = 1\n{FIND}name\n",
    "call": f"from parts1 import NETS\n\n\n{BLOCK}{FIND}NETS[name]\n\n\nNETS.register('Block')(Block)\n",
    "registry": f"from parts1 import NETS\n\n\n@NETS.register('Block')\n{BLOCK}{FIND}NETS[name]\n",
}
NETS = (
    "class Nets(dict):\n    def register(self, name):\n        return lambda made: made\n\n\nNETS = Nets()\n"
)
PARTS = f"{BLOCK}\n\n{NETS}"


@pytest.mark.parametrize(
    ("kind", "old", "new"),
    [*((kind, "size = 1", "size = 2") for kind in FOUND), ("registry", "register('Block')", "register('A')")],
)
def test_code_that_is_found_by_its_name_counts(tmp_path, kind, old, new):
    files = {"net": BY_NAME, "blocks": FOUND[kind], "parts1": PARTS}
    changed = {stem: text.replace(old, new) if stem != "net" else text for stem, text in files.items()}
    assert fingerprint(tmp_path / "a", files) != fingerprint(tmp_path / "b", changed)


@pytest.mark.parametrize("kind", ["import", "decorator"])
@pytest.mark.parametrize("name", ["bench_parts", "registry_parts"])
def test_modules_of_a_user_may_be_named_like_ours(tmp_path, name, kind):
    files = {"net": BY_NAME.replace("blocks", name), name: FOUND[kind], "parts1": PARTS}
    changed = {stem: text.replace("size = 1", "size = 2") for stem, text in files.items()}
    assert fingerprint(tmp_path / "a", files) != fingerprint(tmp_path / "b", changed)


CALLS = "\n\ndef Block():\n    return half()\n"
# One name with several meanings, and names that come by way of two modules.
MEANINGS = {
    "a fallback": "try:\n    from no_such_library import half\nexcept ImportError:\n"
    f"    from parts1 import half\n{CALLS}",
    "a fallback to one's own": "try:\n    from parts1 import half\nexcept ImportError:\n"
    f"    def half():\n        return 0\n{CALLS}",
    "a branch": "import sys\n\nif sys.flags.debug:\n    from helpers import half\nelse:\n"
    f"    from parts1 import half\n{CALLS}",
    "two functions": "def other():\n    from helpers import half\n    return half()\n\n\n"
    "def Block():\n    from parts1 import half\n    return half()\n",
    "a star of a star": f"from helpers import *\n{CALLS}",
}


@pytest.mark.parametrize("kind", MEANINGS)
def test_every_meaning_of_an_imported_name_counts(tmp_path, kind):
    helpers = "from parts1 import *\n" if "star" in kind else "def half():\n    return 1\n"
    files = {"net": BY_NAME.replace('find("Block")', "Block()"), "blocks": MEANINGS[kind], "helpers": helpers}
    found = [
        fingerprint(tmp_path / str(i), files | {"parts1": f"def half():\n    return {i}\n"}) for i in (2, 3)
    ]
    assert found[0] != found[1]


def test_fingerprints_are_those_of_the_code_that_was_registered(tmp_path):
    """A file that is edited while it runs has not changed what runs."""
    before = fingerprint(tmp_path / "a", FILES)
    (tmp_path / "b").mkdir()
    for stem, text in FILES.items():
        (tmp_path / "b" / f"{stem}.py").write_text(text.replace("fp-", "late-"))
    module = load_file(str(tmp_path / "b" / "net.py"))
    try:
        (tmp_path / "b" / "net.py").write_text("# nothing left")
        assert registry.backbones.fingerprint("late-net") == before
    finally:
        for key in ("latenet", "lateother"):
            registry.backbones._entries.pop(key)
        sys.path.remove(str(tmp_path / "b"))
        for loaded in ("helpers", "blocks", module.__name__):
            sys.modules.pop(loaded)


def test_built_in_fingerprints_are_the_same_before_and_after_import():
    names = ["dit-s-2", "sit-s-2", "udit-t", "udit-s", "uvit-s-2", "unet2d", "tiny-unet", "uvit2d-latent"]
    code = f"import registry; print(*map(registry.backbones.fingerprint, {names}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    before = run.stdout.split()
    assert len(set(before)) == len(names)
    for name, digest in zip(names, before, strict=True):
        assert len(digest) == 12 and int(digest, 16) >= 0
        registry.backbones.factory(name)
        assert registry.backbones.fingerprint(name) == digest


@pytest.mark.slow
def test_built_in_networks_follow_their_layers_and_no_more(tmp_path):
    """In a copy of the package, edits of one file at a time."""
    names = ["dit-s-2", "udit-t", "udit-s", "tiny-unet"]

    def digests(path="", old="", new=""):
        folder = tmp_path / str(next(numbers))
        for file in (ROOT / "registry").rglob("*.py"):
            copy = folder / file.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_text("utf-8")
            if str(file.relative_to(ROOT)) == path:
                assert old in text
                text = text.replace(old, new)
            copy.write_text(text, "utf-8")
        code = f"import registry; print(*map(registry.backbones.fingerprint, {names}))"
        run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        return run.stdout.split()

    numbers = itertools.count()
    whole = digests()

    def changed(*edit):
        return [name for name, a, b in zip(names, whole, digests(*edit), strict=True) if a != b]

    assert changed("registry/layers/attention.py", "q, k, v = qkv", "k, q, v = qkv") == ["dit-s-2"]
    assert changed("registry/layers/attention.py", "-4 * np", "-3 * np") == ["udit-t", "udit-s"]
    assert changed("registry/layers/embeddings.py", "MAX_PERIOD = 10000.0", "MAX_PERIOD = 1e3") == names
    assert changed(
        "registry/networks/udit.py", 'register("udit-s", hidden', 'register("udit-s", num_classes=9, hidden'
    ) == ["udit-s"]
    assert changed("registry/errors.py", "cutoff=0.6", "cutoff=0.7") == []
    assert changed("registry/contract.py", "BF16 = 0.1", "BF16 = 0.2") == []
    assert changed("registry/backbone.py", "torch.randint(1000,", "torch.randint(100,") == names


def test_built_in_extractors_do_not_follow_the_rest_of_the_program(tmp_path):
    """In a copy of it whose command line has one more name."""
    code = "from bench.metrics.extractors import extractors as e; print(*map(e.fingerprint, e.names()))"
    found = []
    for addition in ("", "ADDED = 1\n"):
        folder = tmp_path / str(len(found))
        for room in ("bench", "registry"):
            shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
        with (folder / "bench/cli/__init__.py").open("a", encoding="utf-8") as file:
            file.write(addition)
        run = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        found.append(run.stdout.split())
    assert len(found[0]) >= 5 and found[0] == found[1]


# ---- code that computes the same ----


@pytest.fixture
def changes(monkeypatch):
    """What `equivalent.toml` holds."""
    found = []
    monkeypatch.setattr(fingerprints, "_changes", lambda: found)
    for cached in (fingerprints._classes, fingerprints.added_options):
        cached.cache_clear()
    yield found
    for cached in (fingerprints._classes, fingerprints.added_options):
        cached.cache_clear()


def test_equivalent_over_any_steps(changes):
    changes += [
        {"fingerprints": {"net": ["a", "b"], "other": ["x", "y"]}},
        {"fingerprints": {"net": ["b", "c"]}},
        {"fingerprints": {"net": ["c", "a"]}},  # taken back
        {"fingerprints": {"net": ["d", "c"]}},
    ]
    for one, other in itertools.product("abcd", repeat=2):
        assert fingerprints.equivalent(one, other)
    assert fingerprints.equivalent("x", "y") and fingerprints.equivalent("z", "z")
    assert not fingerprints.equivalent("a", "x") and not fingerprints.equivalent("z", "a")


def test_a_record_of_equivalent_code_is_not_stale(changes):
    def made_by(code):
        return Fingerprints(code=code * 12)

    def reason(then, now, kind="cost"):
        record = SimpleNamespace(fingerprints=made_by(then), request=SimpleNamespace(kind=kind))
        return stale(record, made_by(now))

    assert reason("a", "b") == "the backbone's code has changed"
    changes += [{"fingerprints": {"net": ["a" * 12, "b" * 12]}}]
    fingerprints._classes.cache_clear()
    assert reason("a", "b") is None
    assert reason("a", "b", "speed") == "the backbone's code has changed"  # it may take another time
    assert reason("a", "a", "speed") is None
    assert reason("a", "c") == "the backbone's code has changed"


def test_an_option_that_was_added_leaves_requests_as_they_are(changes):
    before = registry.canonical("udit-t", {})
    narrower = registry.canonical("udit-t", {"hidden_size": 16, "ffn": "mlp"})
    added = {"ffn": "reparam", "mlp_ratio": 4}
    changes += [
        {"fingerprints": {"udit-t": ["a", "b"]}, "added": {"udit-t": json.dumps({"ffn": "reparam"})}},
        {"fingerprints": {"udit-t": ["b", "c"]}, "added": {"udit-t": json.dumps({"mlp_ratio": 4})}},
    ]
    fingerprints.added_options.cache_clear()
    left = {option: value for option, value in before.items() if option not in added}
    assert registry.canonical("udit-t", {}) == registry.canonical("udit-t", added) == left
    assert registry.canonical("udit-t", {"mlp_ratio": 3})["mlp_ratio"] == 3
    assert registry.canonical("udit-t", narrower) == {o: v for o, v in narrower.items() if o != "mlp_ratio"}
    assert registry.canonical("udit-s", {})["mlp_ratio"] == 2  # another backbone
    assert registry.label("udit-t", left) == "udit-t"


def test_the_added_options_have_their_values_as_defaults():
    """A record without such an option means this value, and gets the default."""
    for name in registry.names():
        if added := fingerprints.added_options(name):
            options = registry.backbones.options(name)
            assert {option: options[option].default for option in added} == added


@pytest.fixture
def trees(tmp_path):
    """Two copies of the registry's code, and a function that edits a file of the second."""
    for tree in ("old", "new"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "registry", tmp_path / tree / "registry", ignore=ignored)

    def edit(path, **replaced):
        file = tmp_path / "new" / "registry" / path
        text = file.read_text("utf-8")
        for old, new in replaced.values():
            assert old in text
            text = text.replace(old, new)
        file.write_text(text, "utf-8")

    return tmp_path / "old", tmp_path / "new", edit


@pytest.mark.slow
def test_code_that_computes_the_same_is_found_so(trees):
    old, new, edit = trees
    assert equivalent.compare(old, new) == {}
    edit(
        "networks/tiny_unet.py",
        renamed=("self.middle", "self.center"),
        option=("class_dropout_prob: float = 0.1,", "class_dropout_prob: float = 0.1, gain: float = 1.0,"),
        kept=("w1, w2, w3 = widths", "w1, w2, w3 = widths; self.gain = gain"),
        used=("x = self.up1(", "x = self.gain * self.up1("),
    )
    code = registry.backbones.fingerprint("tiny-unet")
    config = {"widths": [8, 8, 16], "num_classes": 3, "input_size": 8}
    made = [("tiny-unet", code, config), ("tiny-unet", "0" * 12, {"widths": "of other code"})]
    found = equivalent.compare(old, new, [(r"^middle\.", "center.")], made)
    ((name, (before, after)),) = found["fingerprints"].items()
    assert (name, before) == ("tiny-unet", code) and after != code
    assert found["added"] == {"tiny-unet": '{"gain": 1}'}
    assert found["compared"].startswith("first weights, outputs and gradients in 2 configurations")
    written = {"commit": "c", "torch": "t", "renamed": [[r"^middle\.", "center."]], **found}
    assert equivalent.tomllib.loads(equivalent.text([written])) == {"change": [written]}


@pytest.mark.slow
def test_code_that_computes_another_thing_is_refused(trees):
    old, new, edit = trees
    edit("networks/tiny_unet.py", bit=("x = self.up1(", "x = 1.0000001 * self.up1("))
    with pytest.raises(SystemExit, match=r"tiny-unet .* differ: output in training, gradient"):
        equivalent.compare(old, new)
    edit("networks/tiny_unet.py", gone=("widths: tuple", "breadths: tuple"))
    with pytest.raises(SystemExit, match="tiny-unet: no option widths any more"):
        equivalent.compare(old, new)
