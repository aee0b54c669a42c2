"""The site in a real browser: it sorts, filters, compares and draws, stays in its window, asks for nothing.

Skipped where there is no Chromium; with BENCH_BROWSER=required that is a failure.
"""

import json
import os
import shutil

import pytest

from bench.reports import site
from bench.reports.site import Site
from bench.studies.published import rows as published_rows
from tests.bench.reports.site.browser import open_browser, show, until
from tests.bench.reports.site.conftest import HOSTILE
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
WIDTHS = (375, 1400, 2560)
PAGES = ("index.html", "studies/components.html", "studies/leaderboard.html", "backbones/udit-t.html")


@pytest.fixture(scope="module")
def browser():
    opened = open_browser()
    if opened is None:
        message = "needs Chromium and its driver, such as Debian's chromium and chromium-driver"
        if os.environ.get("BENCH_BROWSER") == "required":
            pytest.fail(message)
        pytest.skip(message)
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made_site = tmp_path_factory.mktemp("site")
    site.write(made_site, ROOT / "results")
    return made_site


def content_width(browser):
    return browser.execute_script("return document.documentElement.scrollWidth")


HEAD = "[...document.querySelectorAll('#leaderboard thead th')].find(head => head.textContent === '{}')"


def shown_rows(browser):
    """Of the leaderboard: text of the cells of each row that can be seen, by heading."""
    return browser.execute_script(
        """
        const table = document.getElementById('leaderboard');
        const heads = [...table.tHead.rows[0].cells].map((head) => head.textContent);
        return [...table.tBodies].flatMap((body) => [...body.rows])
          .filter((row) => row.offsetParent && row.cells.length > 1)
          .map((row) => Object.fromEntries([...row.cells].map((cell, i) => [heads[i], cell.textContent])));
        """
    )


def press(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def choose(browser, name, value):
    browser.execute_script(
        """
        const field = document.querySelector(`#filters [name=${arguments[0]}]`);
        field.value = arguments[1];
        field.dispatchEvent(new Event('input', { bubbles: true }));
        """,
        name,
        value,
    )


def test_pages_fit_their_window_without_errors_and_ask_for_nothing(browser, folder):
    record = next((folder / "records").glob("quality-udit-s-*")).relative_to(folder)
    browser.get_log("browser"), browser.get_log("performance")
    for page in (*PAGES, "predictors.html", str(record)):
        for width in WIDTHS:
            show(browser, folder / page, width, dark=width == 375)
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width, (
                page,
                width,
            )
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file://", "data:")) for url in asked)


def test_no_legend_is_wider_than_its_chart(browser, folder):
    for width in (375, 1100, 1500):
        show(browser, folder / "studies/components.html", width, height=20000)
        over = browser.execute_script(
            """
            return [...document.querySelectorAll('figure.chart svg')].flatMap((svg) =>
              [...svg.querySelectorAll('.role-legend-entry')].map((legend) =>
                legend.getBoundingClientRect().right - svg.getBoundingClientRect().right));
            """
        )
        assert over and max(over) <= 1, (width, over)


def test_dark_and_light_differ_and_text_stands_out_in_both(browser, folder):
    def contrast():
        colours = browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.color, s.backgroundColor]"
        )
        lights = []
        for colour in colours:
            channels = [int(c) / 255 for c in colour[4:-1].split(",")[:3]]
            linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
            lights.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
        return colours, (max(lights) + 0.05) / (min(lights) + 0.05)

    found = []
    for dark in (False, True):
        show(browser, folder / "index.html", dark=dark)
        found.append(contrast())
    assert found[0][0] != found[1][0] and all(ratio >= 7 for _, ratio in found)  # WCAG AAA


def test_a_head_sorts_its_column_within_each_group(browser, folder):
    show(browser, folder / "index.html")
    place = browser.execute_script(f"return {HEAD.format('GFLOPs')}.cellIndex")
    head = f"#leaderboard thead th:nth-child({place + 1})"
    group = "Published: noise prediction, no guidance, 400K steps"
    choose(browser, "group", group)
    for order, sign in (("ascending", 1), ("descending", -1)):
        press(browser, f"{head} button")
        assert browser.execute_script(f"return document.querySelector('{head}').ariaSort") == order
        values = [row["GFLOPs"] for row in shown_rows(browser)]
        known = [float(value) for value in values if value]
        assert len(known) > 10 and known == sorted(known, key=lambda value: sign * value)
        assert values[len(known) :] == [""] * (len(values) - len(known))  # what is not known stands last


def test_filters_leave_the_rows_that_fit(browser, folder):
    show(browser, folder / "index.html")
    everything = len(shown_rows(browser))
    choose(browser, "group", "Published: flow, no guidance, 400K steps")
    flows = {row.label for row in published_rows("leaderboard") if row.objective == "flow"}
    assert {row["Model"] for row in shown_rows(browser)} == flows
    choose(browser, "search", "XL")
    assert [row["Model"] for row in shown_rows(browser)] == ["SiT-XL/2"]
    press(browser, "#filters button[type=reset]")
    until(lambda: len(shown_rows(browser)) == everything)
    choose(browser, "family", "dico")
    assert {row["Family"] for row in shown_rows(browser)} == {"dico"}


def test_a_column_is_shown_when_it_is_chosen(browser, folder):
    show(browser, folder / "index.html")
    head = HEAD.format("Memory (MiB)")
    assert browser.execute_script(f"return {head}.hidden")
    browser.execute_script(
        f"document.querySelector(`#filters input[value='${{{head}.cellIndex}}']`).click()",
    )
    assert not browser.execute_script(f"return {head}.hidden")


def test_two_rows_are_compared_and_the_address_keeps_them(browser, folder):
    show(browser, folder / "index.html")
    assert not browser.find_element("id", "comparison").is_displayed()
    for label in ("U-DiT-S", "DiT-S/2"):
        press(browser, f"input.compare[aria-label='Compare {label}']")
    text = browser.find_element("id", "comparison").text
    assert "U-DiT-S" in text and "DiT-S/2" in text and "31.51" in text
    address = browser.current_url
    show(browser, address)
    assert browser.find_element("id", "comparison").text == text


def test_a_chart_tells_a_point_and_follows_what_is_chosen(browser, folder):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.select import Select

    show(browser, folder / "index.html")
    figure = browser.find_element("css selector", "figure.chart")
    axis = lambda: figure.find_element("css selector", "svg").text  # noqa: E731
    assert "GFLOPs" in axis()
    point = figure.find_element("css selector", "[aria-label='U-DiT-S']")
    ActionChains(browser).move_to_element(point).perform()
    until(lambda: browser.find_elements("css selector", "#vg-tooltip-element.visible"))
    told = browser.find_element("id", "vg-tooltip-element").text
    assert "U-DiT-S" in told and "31.51" in told
    cost = figure.find_elements("tag name", "select")[1]
    Select(cost).select_by_visible_text("Params (M)")
    until(lambda: "Params (M)" in axis())


def test_the_front_is_where_nothing_cheaper_is_better(browser, folder):
    show(browser, folder / "index.html")
    (group, *_) = Site.load(ROOT / "results").groups  # which is shown first
    points = {
        standing.line.label: (standing.line.cost.cost.paper_gflops, float(row.printed["fid"]))
        for standing in group.standings
        if (row := standing.line.row.published) and standing.line.cost
    }
    front = {
        label
        for label, (cost, fid) in points.items()
        if not any(other <= cost and better < fid for other, better in points.values())
    }
    named = browser.find_elements("css selector", "figure.chart .mark-text.role-mark text")
    assert {text.text for text in named} == front and len(front) > 5


def test_a_figure_opens_its_record(browser, folder):
    show(browser, folder / "index.html")
    link = browser.find_element("css selector", "#leaderboard a[href^='records/quality-']")
    address = link.get_attribute("href")
    browser.execute_script("arguments[0].click()", link)
    until(lambda: browser.current_url == address)
    text = browser.find_element("tag name", "main").text
    assert "Measure it again" in text and "bench ablate" in text and "commit" in text


def test_the_keyboard_reaches_and_turns_a_head(browser, folder):
    from selenium.webdriver import Keys

    show(browser, folder / "studies/components.html")
    button = browser.find_element("css selector", "table.sortable thead button")
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert browser.execute_script("return document.activeElement.closest('th').ariaSort") == "ascending"


def test_hostile_records_run_nothing_and_show_their_text(browser, hostile):
    browser.get_log("browser")
    pages = sorted((hostile / "site").rglob("*.html"))
    assert {page.parent.name for page in pages} == {"site", "studies", "backbones", "records"}
    for page in pages:
        show(browser, page, 375, height=4000)  # an alert would be an error here
        assert content_width(browser) <= 375
        assert not browser.find_elements("css selector", "img[onerror]")
        if page.parent.name == "records":
            assert HOSTILE in browser.find_element("tag name", "main").text
    show(browser, hostile / "site/index.html")
    assert HOSTILE in {row["Model"] for row in shown_rows(browser)}
    (study,) = (hostile / "site/studies").iterdir()
    show(browser, study, 375)
    assert HOSTILE in browser.find_element("tag name", "h1").text
    assert browser.get_log("browser") == []


def test_the_policy_of_a_page_stops_a_script_that_got_in(browser, folder, tmp_path):
    shutil.copytree(folder / "assets", tmp_path / "assets")
    text = (folder / "index.html").read_text("utf-8")
    script = "<script>document.title = 'ran'</script><img src='x' onerror='document.title = `ran`'>"
    (tmp_path / "index.html").write_text(text.replace("<main>", f"<main>{script}"), "utf-8")
    show(browser, tmp_path / "index.html")  # its charts are drawn
    assert browser.title == "denoiser-bench: leaderboard"
    told = [entry["message"] for entry in browser.get_log("browser")]
    assert sum("Content Security Policy" in text for text in told) == 2
