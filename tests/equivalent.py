r"""Which fingerprints of backbones stand for the same numbers: writes `registry/equivalent.toml`.

    python -m tests.equivalent COMMIT [--renamed PATTERN=REPLACEMENT]

A record is stale when its backbone's code has another fingerprint, though code that was only made better
computes the same. This checks out the code of COMMIT and builds every registered variant whose fingerprint
differs from the present one, old and new, as registered (on a grid of 16 cells where it can be) and in every
configuration that a record of `results/` has. Where first weights of one seed, outputs in training and
deployed, and gradients are equal to the bit, records of the old code stay valid; where any differs, nothing
is written and the exit status is 1.

A backbone may have gained options: records from before keep their requests if the default computes what the
old code did, which is what is compared. Parameters that were renamed are named by `--renamed`, a pattern of
the old name as `re.sub` takes it: `--renamed '\.(\d+)\.ca\.=.\1.attention.'`.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GRID = 16
Renamed = list[tuple[str, str]]  # patterns of old names of parameters, and what takes their place
Task = tuple[str, dict[str, Any]]  # a backbone and its configuration


# ---- in the tree of one code, in a process of its own ----


def known() -> dict[str, Any]:
    """Fingerprint, and options with their defaults, of each built-in backbone."""
    import registry
    from registry.values import plain

    def defaults(name: str) -> dict[str, Any]:
        return {option: plain(p.default) for option, p in registry.backbones.options(name).items()}

    names = [n for n in registry.names() if registry.backbones.find(n).module.startswith("registry.")]
    return {name: (registry.backbones.fingerprint(name), defaults(name)) for name in names}


def observe(tasks: list[Task], renamed: Renamed) -> list[dict[str, str]]:
    """Digests of all that a backbone computes, by what they are of, for each task."""
    return [dict(_observed(name, config, renamed)) for name, config in tasks]


def _observed(name: str, config: dict[str, Any], renamed: Renamed) -> Iterator[tuple[str, str]]:
    import torch

    import registry

    def present(key: str) -> str:
        for pattern, replacement in renamed:
            key = re.sub(pattern, replacement, key)
        return key

    try:
        torch.manual_seed(0)
        network: Any = registry.create(name, **{"input_size": GRID, **config})
    except registry.UsageError:  # too small for it
        torch.manual_seed(0)
        network = registry.create(name, **config)
    for key, value in network.state_dict().items():
        yield f"first weight {present(key)}", _digest(value)
    with torch.no_grad():
        # Networks start with closed branches, behind which anything could compute anything.
        for key, parameter in network.named_parameters():
            noise = torch.Generator().manual_seed(zlib.crc32(present(key).encode()))
            parameter.add_(torch.randn(parameter.shape, generator=noise), alpha=0.05)
    gradients: dict[str, str] = {}

    def take(key: str, parameter: Any) -> None:
        gradients[f"gradient {key}"] = _digest(parameter.grad)
        parameter.grad = None  # as large as the network

    for key, parameter in network.named_parameters():
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(functools.partial(take, present(key)))
    torch.manual_seed(1)
    inputs = network.example_inputs(2)
    if len(inputs) == 3 and inputs[1].dim() == 1:  # a denoiser: the same time and labels from either code
        inputs = inputs[0], torch.tensor([0.2, 0.7]), torch.arange(2) % max(network.num_classes, 1)
    torch.manual_seed(2)
    output = network(*inputs)
    yield "output in training", _digest(output)
    (output * torch.randn(output.shape)).sum().backward()
    yield from gradients.items()
    with torch.no_grad():
        yield "output of the deployed network", _digest(network.deploy()(*inputs))


def _digest(tensor: Any) -> str:
    import torch

    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def asked(tree: Path, question: str, *arguments: Any) -> Any:
    """What a function of this file answers in a tree of code."""
    # -P: the folder of this file has packages of the names of ours.
    run = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).resolve()), question],
        input=json.dumps(arguments),
        capture_output=True,
        text=True,
        cwd=tree,
        env=os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
        check=False,
    )
    if run.returncode:
        raise SystemExit(f"error: in {tree}, exit status {run.returncode}:\n{run.stderr}")
    return json.loads(run.stdout)


# ---- both ----


def compare(
    old: Path, new: Path, renamed: Renamed = (), configs: Iterable[tuple[str, str, dict[str, Any]]] = ()
) -> dict[str, Any]:
    """What changed between two trees of code and computes the same, as `equivalent.toml` has it.

    Args:
        old, new: roots of the trees.
        renamed: parameters.
        configs: further configurations, each of a backbone whose code has a fingerprint.

    Returns:
        fingerprints: name -> old and new; added: name -> options that it gained, as JSON; and the evidence.
        Empty where no fingerprint differs.

    Raises:
        SystemExit: something that is computed differs, or an option is gone; all of it is printed.
    """
    from registry.fingerprints import equivalent

    before, after = asked(old, "known"), asked(new, "known")
    changed = [name for name in before if name in after and before[name][0] != after[name][0]]
    tasks: list[Task] = []
    for name in changed:
        tasks.append((name, {o: value for o, value in before[name][1].items() if o != "input_size"}))
        tasks += [
            (name, config) for of, code, config in configs if of == name and equivalent(code, before[name][0])
        ]
    tasks = [task for i, task in enumerate(tasks) if task not in tasks[:i]]
    gone = {name: sorted(before[name][1].keys() - after[name][1].keys()) for name in changed}
    problems = [
        f"{name}: no option {', '.join(options)} any more" for name, options in gone.items() if options
    ]
    if changed and not problems:
        were, are = asked(old, "observe", tasks, renamed), asked(new, "observe", tasks, [])
        for (name, config), was, now in zip(tasks, were, are, strict=True):
            differing = [what for what in was | now if was.get(what) != now.get(what)]
            if differing:
                shown = ", ".join(differing[:5]) + (", …" if len(differing) > 5 else "")
                problems.append(
                    f"{name} {json.dumps(config)}: {len(differing)} of {len(was)} differ: {shown}"
                )
    if problems:
        raise SystemExit("error: not equivalent\n" + "\n".join(problems))
    if not changed:
        return {}
    added = {name: {o: v for o, v in after[name][1].items() if o not in before[name][1]} for name in changed}
    return {
        "compared": f"first weights, outputs and gradients in {len(tasks)} configurations: "
        f"{sum(map(len, were))} tensors, equal to the bit",
        "fingerprints": {name: [before[name][0], after[name][0]] for name in changed},
        "added": {name: json.dumps(options) for name, options in added.items() if options},
    }


def text(changes: list[dict[str, Any]]) -> str:
    """`equivalent.toml` of some changes."""
    lines = ["# Written by `python -m tests.equivalent`: see `registry.fingerprints`."]
    for change in changes:
        lines += ["", "[[change]]"]
        for key in ("commit", "torch", "compared", "renamed"):
            lines.append(f"{key} = {json.dumps(change[key], ensure_ascii=False)}")
        for part in ("fingerprints", "added"):
            if change[part]:
                lines.append(f"[change.{part}]")
                lines += [f"{name} = {json.dumps(value)}" for name, value in change[part].items()]
    return "\n".join(lines) + "\n"


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the code of a commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git = ["git", "-C", str(ROOT), "worktree"]
        subprocess.run([*git, "add", "--quiet", "--detach", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def main() -> None:
    """Compare, and write what is equivalent."""
    import torch

    from bench import records
    from registry.fingerprints import EQUIVALENT

    parser = argparse.ArgumentParser(prog="python -m tests.equivalent", description=__doc__)
    parser.add_argument("commit", help="of the old code")
    parser.add_argument("--renamed", action="append", default=[], metavar="PATTERN=REPLACEMENT")
    arguments = parser.parse_args()
    renamed = [tuple(each.split("=", 1)) for each in arguments.renamed]
    git = ["git", "-C", str(ROOT), "rev-parse", "--short=12", arguments.commit]
    commit = subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    made = [
        (record.request.model, record.fingerprints.code, record.request.config)
        for record in records.read(ROOT / "results")
        if record.fingerprints.code
    ]
    with checked_out(commit) as old:
        found = compare(old, ROOT, renamed, made)
    if not found:
        raise SystemExit("no fingerprint differs: nothing to write")
    print(f"{', '.join(found['fingerprints'])}: {found['compared']}")
    changes = tomllib.loads(EQUIVALENT.read_text("utf-8"))["change"]
    for change in changes:  # of the same old code, before what is new was changed again
        change.setdefault("added", {})
        for name, (old_code, _) in found["fingerprints"].items():
            if change["fingerprints"].get(name, [""])[0] == old_code:
                del change["fingerprints"][name]
    kept = [change for change in changes if change["fingerprints"]]
    present = {"commit": commit, "torch": torch.__version__, "renamed": renamed, **found}
    EQUIVALENT.write_text(text([*kept, present]), "utf-8")


if __name__ == "__main__":
    if sys.argv[1:] in (["known"], ["observe"]):
        print(json.dumps(globals()[sys.argv[1]](*json.load(sys.stdin))))
    else:
        main()
