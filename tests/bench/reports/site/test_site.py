"""The site: every link leads somewhere, hostile labels stay text, the same records give the same bytes."""

import csv
import io
import json
import re
import shlex
from html import unescape
from html.parser import HTMLParser
from pathlib import PurePosixPath

import altair
import numpy as np
import pytest

import bench.studies
import registry
from bench.cli.options import parse_overrides
from bench.records import read_file
from bench.records.schema import CostRequest, ProfileRequest
from bench.reports import proxy, report, site
from bench.reports.record import command
from bench.studies.cells import cells, reference_digest
from bench.studies.published import field
from bench.training import protocols
from bench.utils.files import write_bytes
from tests.bench import made
from tests.bench.reports.site.conftest import HOSTILE, NAME
from tests.conftest import ROOT


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


@pytest.mark.slow
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
            if address == "data:," or address.startswith(("https://", "#")):  # no icon; sources
                continue
            parts = []
            for part in (PurePosixPath(name).parent / address).parts:
                parts = parts[:-1] if part == ".." else [*parts, part]
            assert "/".join(parts) in files, (name, address)


@pytest.mark.slow
def test_every_kind_of_chart_fits_the_schema_of_vega_lite(files):
    found = [chart for name, text in files.items() if name.endswith(".html") for chart in Links(text).charts]
    kinds = {json.dumps(_shape(chart["spec"])): chart["spec"] for chart in found if "spec" in chart}
    assert len(kinds) > 8
    for spec in kinds.values():
        assert altair.Chart.from_dict(spec).to_dict(validate=True)


def _shape(spec):
    """A specification without the numbers it shows."""
    if isinstance(spec, dict):
        return {key: _shape(value) for key, value in spec.items() if key not in ("values", "title", "height")}
    return [_shape(value) for value in spec] if isinstance(spec, list) else spec


@pytest.mark.slow
def test_each_record_has_a_page_and_each_measured_figure_opens_one(files):
    records = [read_file(path) for path in (ROOT / "results").glob("*-????????????.json")]
    for record in records:
        text = files[f"records/{record.file.removesuffix('.json')}.html"]
        assert record.environment.date in text and (record.environment.commit or "unknown") in text
    (board, *_) = Links(files["index.html"]).charts
    measured = [row for row in board["rows"] if "±" in row.get("texts", {}).get("fid", "")]
    assert len(measured) > 10 and all(row["page"].startswith("records/quality-") for row in measured)


@pytest.mark.slow
def test_the_board_holds_every_published_figure_with_its_source(files):
    rows = list(csv.DictReader(io.StringIO(files["board.csv"])))
    found = {(row["row"], float(row["fid"] or 0), row["source"], row["url"]) for row in rows}
    assert {(each.row, each.fid, each.source, each.source_url) for each in field.rows()} <= found
    assert {"U-DiT-S", "U-DiT-B", "U-DiT-L"} <= {row["row"] for row in rows}  # of its own tables
    addresses = set(re.findall(r"url = \{(.*?)\}", files["sources.bib"]))
    published = {row["url"] for row in rows if row["kind"] != "measured here"}
    assert published == addresses and len(addresses) == files["sources.bib"].count("@misc{")


@pytest.mark.slow
def test_a_study_of_several_protocols_leads_to_the_page_that_compares_them(files):
    words = "Protocols can disagree"
    pages = [name for name, text in files.items() if words in str(text)]
    assert "studies/components.html" in pages
    assert "studies/guidance.html" not in pages  # which was measured under one


@pytest.mark.slow
def test_a_page_of_a_record_names_the_other_seeds(files):
    name, text = next((n, t) for n, t in files.items() if n.startswith("records/quality-udit-s"))
    assert all(f">seed {seed}</a>" in text for seed in (0, 1, 2)), name


@pytest.mark.slow
def test_the_same_records_give_the_same_bytes_and_check_sees_what_is_changed(files, tmp_path):
    for name, content in {**files, "index.html": "other", "records/of-old.html": ""}.items():
        write_bytes(tmp_path / name, content if isinstance(content, bytes) else content.encode())
    (tmp_path / "studies/toy.html").unlink()
    again = dict(site.files(ROOT / "results"))
    changed, missing = report.check(tmp_path, again.items())  # and of no other file
    (left,) = site.left_over(tmp_path, again)
    assert "index.html, line 1: is 'other'" in changed and "toy.html is missing" in missing
    assert "of-old.html is of no record" in left


@pytest.mark.slow
def test_the_front_page_with_all_that_it_loads_is_below_3_megabytes(files):
    loaded = [files["index.html"], *(text for name, text in files.items() if name.startswith("assets/"))]
    assert sum(len(text.encode()) for text in loaded) < 3e6


@pytest.mark.slow
def test_nothing_is_loaded_from_elsewhere(files):
    for name, text in files.items():
        if name.endswith(".html"):
            assert not re.search(r'<(?!a )[^>]*(src|href)="(https?:)?//', text), name


def test_a_hostile_text_stays_text(hostile):
    pages = sorted((hostile / "site").rglob("*.html"))
    assert len(list((hostile / "results").glob("*.json"))) == 8
    for path in pages:
        page = Links(path.read_text("utf-8"))
        assert not any("onerror" in attributes for _, attributes in page.tags), path
        assert all(tag != "img" or "class" in attributes for tag, attributes in page.tags), path
    (board, *_) = Links((hostile / "site/index.html").read_text("utf-8")).charts
    assert HOSTILE in {row["row"] for row in board["rows"]}


def test_a_study_of_ones_own_takes_nothing_from_the_built_in_ones(tmp_path):
    """No published row of the board, and not by its name a title or the page that judges protocols."""
    paths = []
    for name in proxy.STUDIES:
        paths.append(str(tmp_path / f"{name}.toml"))
        text = f"title = 'My {name}'\n[[rows]]\nlabel = 'a'\nbackbone = 'udit-t'\n"
        (tmp_path / f"{name}.toml").write_text(text)
    (tmp_path / "results").mkdir()
    own, every = (site.Site.load(tmp_path / "results", studies) for studies in (paths, []))
    assert own.board.rows == every.board.rows and len(own.board.rows) > len(field.rows())
    assert list(own.titles.values()) == [f"My {name}" for name in proxy.STUDIES]
    assert every.has_predictors and not own.has_predictors


def test_a_command_is_quoted_for_the_shell(hostile):
    commands = []
    for path in (hostile / "site").rglob("*.html"):
        for text in re.findall("<pre>(.*?)</pre>", path.read_text("utf-8"), re.DOTALL):
            commands += [shlex.split(line, comments=True) for line in unescape(text).splitlines()]
    assert ["bench", "flops", "--model", HOSTILE] in commands
    study = str(hostile / f"{NAME}.toml")
    assert ["bench", "ablate", study] in commands
    assert {words[2] for words in commands if words[1] == "ablate"} == {study}
    assert [bench.studies.load(name).argument for name in (study, "toy")] == [study, "toy"]
    (flops,) = [words for words in commands if words[1] == "flops" and "--set" in words]
    assert {"ffn": HOSTILE} in [parse_overrides([word]) for word in flops[5::2]]
    kinds = {"flops", "profile", "throughput", "ablate"}
    assert {words[1] for words in commands} == kinds and all(words[0] == "bench" for words in commands)


def test_a_name_with_slashes_stays_within_the_site(tmp_path):
    made.put(tmp_path / "results", made.cost(CostRequest(model="../../up", config={})))
    pages = [name for name, _ in site.files(tmp_path / "results", ["toy"]) if "up" in name]
    assert any(name.startswith("backbones/-up-") for name in pages)
    assert not any("../" in name for name in pages)


def test_no_two_names_share_a_page(tmp_path):
    for name in ("a b", "a-b", "a/b"):
        made.put(tmp_path / "results", made.cost(CostRequest(model=name, config={})))
    made_files = [(name, text) for name, text in site.files(tmp_path / "results", ["toy"])]
    assert len({name for name, _ in made_files}) == len(made_files)
    titles = [re.search("<h1>(.*?)</h1>", t)[1] for n, t in made_files if n.startswith("backbones/a-b")]
    assert sorted(titles) == ["a b", "a-b", "a/b"]


def test_two_studies_with_one_page_are_refused(run_bench, tmp_path):
    (tmp_path / "results").mkdir()
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        text = f"title = '{folder}'\n[[rows]]\nlabel = 'a'\nbackbone = 'udit-t'\n"
        (tmp_path / folder / "same.toml").write_text(text)
        for name in ("table-5", "scaling"):
            (tmp_path / folder / f"{name}.toml").write_text(text)
    for pair in (
        ["one/same.toml", "two/same.toml"],
        ["downsampler", "one/table-5.toml"],
        ["scaling", "one/scaling.toml"],  # on the site
    ):
        studies = [tmp_path / name if "/" in name else name for name in pair]
        for where in (["--site"], ["--out"]):
            words = ("report", *studies, *where, tmp_path / "made", "--results", tmp_path / "results")
            status, _, err = run_bench(*words)
            assert status == 2 and err.count("\n") == 1 and "would have one page" in err
            assert all(str(study) in err for study in studies)
    assert not (tmp_path / "made").exists()


def test_a_record_of_cost_names_the_command_that_makes_it_again(run_bench):
    path = next((ROOT / "results").glob("cost-udit-t-*.json"))
    record = read_file(path)
    words = shlex.split(command(record))
    assert words[:2] == ["bench", "flops"]
    status, out, _ = run_bench(*words[1:], "--json")
    (cost,) = json.loads(out)
    assert status == 0 and cost["request"]["config"] == record.request.config
    assert cost["macs"] == record.result.macs


@pytest.mark.parametrize(("dtype", "batch_size"), [("fp32", 8), ("bf16", 3)])
def test_a_record_of_a_profile_names_the_command_that_makes_it_again(run_bench, tmp_path, dtype, batch_size):
    config = registry.canonical("tiny-unet", {"input_size": 8})
    measured = {"device_name": "Some CPU", "dtype": dtype, "batch_size": batch_size}
    request = ProfileRequest(model="tiny-unet", config=config, **measured)
    words = shlex.split(command(read_file(made.put(tmp_path, made.profile(request)))))
    status, out, err = run_bench(*words[1:], "--repeats", "1", "--json")
    assert status == 0, err
    (again,) = json.loads(out)
    assert again["request"] | {"device_name": "Some CPU"} == request.model_dump(mode="json")


@pytest.mark.parametrize("compared", [False, True])
def test_a_record_of_quality_names_the_cell_that_makes_it_again(run_bench, tmp_path, compared):
    study, reference = bench.studies.load("components"), tmp_path / "reference.npz"
    np.savez(reference, arr_0=np.zeros((16, 16, 16, 3), np.uint8))
    digest = reference_digest(reference) if compared else None
    cell = cells(study, protocols.load("smoke"), (3,), digest)[2]
    path = made.put(tmp_path / "results", made.quality(cell.request), "smoke")
    words = shlex.split(command(read_file(path), ("components", cell.row.label)))
    words = [str(reference) if word == "FILE" else word for word in words]
    (page,) = (t for n, t in site.files(tmp_path / "results", ["components"]) if n.startswith("records/"))
    assert (f"FILE: the reference with digest {digest}." in page) == compared
    planned = (*words[1:], "--dry-run", "--stale", "accept", "--results", tmp_path / "results")
    assert "1 of 1 cells" not in run_bench(*planned, width=200)[1]
    path.unlink()
    status, out, err = run_bench(*planned, width=200)
    assert status == 0 and "1 of 1 cells are to be measured" in out, err


@pytest.mark.slow
def test_report_writes_and_checks_the_site(run_bench, tmp_path):
    status, out, _ = run_bench("report", "toy", "--site", tmp_path, "--results", ROOT / "results")
    assert status == 0 and "index.html" in out
    status, out, _ = run_bench("report", "toy", "--site", tmp_path, "--results", ROOT / "results", "--check")
    assert status == 0
    (tmp_path / "index.html").unlink()
    status, _, err = run_bench("report", "toy", "--site", tmp_path, "--results", ROOT / "results", "--check")
    assert status == 1 and "missing" in err and "--site" in err
    status, _, err = run_bench("report", "--site", tmp_path, "--format", "html")
    assert status == 2 and "leave one of them out" in err
