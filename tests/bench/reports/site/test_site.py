"""The site: every link leads somewhere, hostile labels stay text, the same records give the same bytes."""

import json
import re
import shlex
import socket
import subprocess
import sys
import urllib.request
from html.parser import HTMLParser
from pathlib import PurePosixPath

import pytest

import bench.studies
from bench.records import read_file
from bench.records.schema import CostRequest
from bench.reports import site
from bench.reports.record import command
from bench.studies.cells import cells
from bench.training import protocols
from bench.utils.files import write_bytes
from tests.bench import made
from tests.conftest import ROOT

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'too'"


class Links(HTMLParser):
    """Addresses that a page names, the tags that it has, and the data of its charts."""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.tags, self.charts, self.inside = [], [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, tuple(attributes)))
        self.addresses += [attributes[key] for key in ("href", "src", "data-samples") if key in attributes]
        self.inside = tag == "script" and attributes.get("type") == "application/json"

    def handle_data(self, data):
        if self.inside:
            self.charts.append(json.loads(data))
            self.inside = False


@pytest.fixture(scope="module")
def files():
    return dict(site.files(ROOT / "results"))


def _addresses(value):
    """Addresses in the data of a chart."""
    if isinstance(value, dict):
        yield from (v for k, v in value.items() if k in ("page", "image") and v)
        for each in value.values():
            yield from _addresses(each)
    elif isinstance(value, list):
        for each in value:
            yield from _addresses(each)


def test_every_link_of_every_page_leads_to_a_file_of_the_site(files):
    pages = {name: Links(text) for name, text in files.items() if name.endswith(".html")}
    assert {
        "index.html",
        "studies/components.html",
        "backbones/udit-t.html",
        "predictors.html",
    } <= pages.keys()
    for name, page in pages.items():
        for address in [*page.addresses, *_addresses(page.charts)]:
            if address == "data:,":  # no icon
                continue
            parts = []
            for part in (PurePosixPath(name).parent / address).parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            assert "/".join(parts) in files, (name, address)


def test_each_record_has_a_page_and_each_measured_figure_opens_one(files):
    records = [read_file(path) for path in (ROOT / "results").glob("*-????????????.json")]
    for record in records:
        text = files[f"records/{record.file.removesuffix('.json')}.html"]
        assert record.environment.date in text and (record.environment.commit or "unknown") in text
    cells = re.findall(r'<td[^>]*data-title="FID↓"[^>]*>(.*?)</td>', files["index.html"])
    measured = [cell for cell in cells if "±" in cell]
    assert len(measured) > 10 and all('<a href="records/quality-' in cell for cell in measured)


def test_a_study_of_several_protocols_leads_to_the_page_that_compares_them(files):
    words = "Protocols need not agree"
    pages = [name for name, text in files.items() if words in str(text)]
    assert "studies/components.html" in pages
    assert "studies/guidance.html" not in pages  # which was measured under one


def test_a_page_of_a_record_names_the_other_seeds(files):
    name, text = next((n, t) for n, t in files.items() if n.startswith("records/quality-udit-s"))
    assert all(f">seed {seed}</a>" in text for seed in (0, 1, 2)), name


def test_the_same_records_give_the_same_bytes_and_check_sees_what_is_changed(files, tmp_path):
    for name, content in {**files, "index.html": "other", "records/of-old.html": ""}.items():
        write_bytes(tmp_path / name, content if isinstance(content, bytes) else content.encode())
    (tmp_path / "studies/toy.html").unlink()
    changed, missing, left = site.check(tmp_path, ROOT / "results")  # and of no other file
    assert "index.html is not" in changed and "toy.html is missing" in missing
    assert "of-old.html is of no record" in left


def test_the_front_page_with_all_that_it_loads_is_below_3_megabytes(files):
    loaded = [files["index.html"], *(text for name, text in files.items() if name.startswith("assets/"))]
    assert sum(len(text.encode()) for text in loaded) < 3e6


def test_nothing_is_loaded_from_elsewhere(files):
    for name, text in files.items():
        if name.endswith(".html"):
            assert not re.search(r'(src|href)="(https?:)?//', text), name


@pytest.fixture
def hostile(tmp_path):
    """Records of a study whose title and label are markup."""
    written = f"title = {json.dumps(HOSTILE)}\nprotocol = 'smoke'\n[[rows]]\nlabel = {json.dumps(HOSTILE)}\n"
    written += "backbone = 'udit-t'\n[[rows]]\nlabel = 'plain'\nbackbone = 'dit-s-4'\n"
    (tmp_path / "hostile.toml").write_text(written)
    study = bench.studies.load(str(tmp_path / "hostile.toml"))
    for cell in cells(study, protocols.load("smoke"), (0, 1)):
        result = made.quality(cell.request, fid=20.0 + cell.seed)
        made.put(tmp_path / "results", result, "smoke").with_suffix(".png").write_bytes(b"no picture")
    return tmp_path


def test_a_hostile_label_stays_text(hostile):
    made_files = dict(site.files(hostile / "results", [str(hostile / "hostile.toml")]))
    for name, text in made_files.items():
        if not name.endswith(".html"):
            continue
        page = Links(text)
        assert not any("onerror" in attributes for _, attributes in page.tags), name
        assert all(tag != "img" or "class" in attributes for tag, attributes in page.tags), name
    index = Links(made_files["index.html"])
    labels = {
        value["label"]
        for chart in index.charts
        for value in chart["spec"]["data"]["values"]
        if "label" in value
    }
    assert HOSTILE in labels


def test_a_name_with_slashes_stays_within_the_site(tmp_path):
    made.put(tmp_path / "results", made.cost(CostRequest(model="../../up", config={})))
    pages = [name for name, _ in site.files(tmp_path / "results", ["toy"]) if "up" in name]
    assert "backbones/-up.html" in pages and not any("../" in name for name in pages)


def test_a_record_of_cost_names_the_command_that_makes_it_again(run_bench):
    path = next((ROOT / "results").glob("cost-udit-t-*.json"))
    record = read_file(path)
    words = shlex.split(command(record))
    assert words[:2] == ["bench", "flops"]
    status, out, _ = run_bench(*words[1:], "--json")
    (cost,) = json.loads(out)
    assert status == 0 and cost["request"]["config"] == record.request.config
    assert cost["macs"] == record.result.macs


def test_a_record_of_quality_names_the_cell_that_makes_it_again(run_bench, tmp_path):
    study = bench.studies.load("components")
    cell = cells(study, protocols.load("smoke"), (3,))[2]
    path = made.put(tmp_path / "results", made.quality(cell.request), "smoke")
    words = shlex.split(command(read_file(path), ("components", cell.row.label)))
    planned = (*words[1:], "--dry-run", "--stale", "accept", "--results", tmp_path / "results")
    assert "1 of 1 cells" not in run_bench(*planned, width=200)[1]
    path.unlink()
    status, out, _ = run_bench(*planned, width=200)
    assert status == 0 and "1 of 1 cells are to be measured" in out


def test_report_writes_and_checks_the_site(run_bench, tmp_path):
    status, out, _ = run_bench("report", "toy", "--site", tmp_path, "--results", ROOT / "results")
    assert status == 0 and "index.html" in out
    status, out, _ = run_bench("report", "toy", "--site", tmp_path, "--results", ROOT / "results", "--check")
    assert status == 0
    (tmp_path / "index.html").unlink()
    status, _, err = run_bench("report", "toy", "--site", tmp_path, "--results", ROOT / "results", "--check")
    assert status == 1 and "missing" in err and "--site" in err
    status, _, err = run_bench("report", "--site", tmp_path, "--format", "html")
    assert status == 2 and "leave --format out" in err


def test_serve_shows_the_site_until_it_is_stopped(tmp_path):
    made.put(tmp_path / "results", made.cost())
    words = [
        sys.executable,
        "-m",
        "bench.cli",
        "serve",
        "toy",
        "--port",
        "0",
        "--results",
        tmp_path / "results",
    ]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen(words, cwd=ROOT, **pipes) as serving:
        try:
            address = serving.stdout.readline().split()[0]
            with urllib.request.urlopen(address, timeout=10) as answer:
                assert "<h1>" in answer.read().decode()
        finally:
            serving.terminate()  # SIGINT may be ignored where tests run in the background
        assert serving.wait(20) == 0


def test_a_port_that_is_taken_is_told_in_one_line(run_bench, tmp_path):
    made.put(tmp_path / "results", made.cost())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = run_bench("serve", "toy", "--port", port, "--results", tmp_path / "results")
    assert status == 2 and f"port {port}" in err and "--port" in err
