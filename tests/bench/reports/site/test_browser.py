"""The site in a real browser: it sorts, filters, compares and draws, stays in its window, asks for nothing.

Skipped where there is no Chromium; with BENCH_BROWSER=required that is a failure.
"""

import json
import os
import shutil

import pytest

from bench.reports import report, site
from bench.reports.charts import COLOURS
from bench.studies.published import field
from tests.bench.reports.site.browser import open_browser, show, until
from tests.bench.reports.site.conftest import HOSTILE
from tests.conftest import ROOT

pytestmark = pytest.mark.slow
WIDTHS = (375, 1400, 2560)
PAGES = (
    "index.html",
    "noise.html",
    "studies/components.html",
    "studies/leaderboard.html",
    "backbones/udit-t.html",
)


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
    report.write(made_site, site.files(ROOT / "results"))
    return made_site


def content_width(browser):
    return browser.execute_script("return document.documentElement.scrollWidth")


def shown_rows(browser):
    """Of the board: values of the rows that its filters leave, in the order of the table."""
    return browser.execute_script("return table.getRows('active').map((row) => row.getData())")


def press(browser, selector):
    browser.execute_script("document.querySelector(arguments[0]).click()", selector)


def choose(browser, name, value):
    browser.execute_script(
        """
        const field = document.querySelector(`#filters [name="${arguments[0]}"]`);
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
        show(browser, folder / "predictors.html", width, height=20000)
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


MAIN = "256² SD latents, 102M images, noise prediction, no guidance, ancestral sampler"


def text(browser):
    return browser.find_element("id", "board").text


def test_a_head_sorts_its_column_within_each_group_and_the_address_keeps_it(browser, folder):
    show(browser, folder / "index.html")
    fids = [row["fid"] for row in shown_rows(browser) if row["group"] == MAIN]
    assert len(fids) > 10 and fids == sorted(fids)  # before anything is pressed
    head = ".tabulator-col[tabulator-field=gflops]"
    for way, sign in (("ascending", 1), ("descending", -1)):
        press(browser, f"{head} button")
        until(lambda way=way: browser.find_element("css selector", head).get_attribute("aria-sort") == way)
        found = [row for row in shown_rows(browser) if row["group"] == MAIN]
        values = [row.get("gflops") for row in found]
        known = [value for value in values if value]
        assert len(known) > 10 and known == sorted(known, key=lambda value: sign * value)
        assert values[len(known) :] == [None] * (len(values) - len(known))  # what is not known stands last
    assert "sort=gflops+desc" in browser.current_url
    browser.back()
    until(lambda: "sort=gflops+asc" in browser.current_url)
    until(lambda: browser.find_element("css selector", head).get_attribute("aria-sort") == "ascending")
    groups = [row["order"] for row in shown_rows(browser)]
    assert groups == sorted(groups)


def test_filters_leave_the_rows_that_fit_and_the_back_button_returns(browser, folder):
    show(browser, folder / "index.html")
    everything = len(shown_rows(browser))
    assert {row["extra"] for row in shown_rows(browser)} == {"none"}  # others compare no architectures
    choose(browser, "family", "U-ViT")
    published_uvit = {row.row for row in field.rows() if row.family == "U-ViT" and row.extra == "none"}
    found = shown_rows(browser)
    assert {row["row"] for row in found if row["kind"] != "measured here"} == published_uvit
    assert browser.find_element("id", "count").text == f"{len(found)} rows"
    choose(browser, "kind", "measured here")
    assert {row["kind"] for row in shown_rows(browser)} == {"measured here"}
    browser.back()
    until(lambda: len(shown_rows(browser)) == len(found))
    press(browser, "#filters button[type=reset]")
    until(lambda: len(shown_rows(browser)) == everything)
    choose(browser, "extra", "all")
    assert len(shown_rows(browser)) > len(field.rows())


def test_search_takes_words_in_any_order_and_forgives_separators(browser, folder):
    show(browser, folder / "index.html")

    def found(words):
        choose(browser, "search", words)
        return {row["row"] for row in shown_rows(browser)}

    exact = found("DiT-XL/2")
    assert "DiT-XL/2" in exact and found("xl2 dit") == exact == found("dit xl 2") | exact
    known = [row.row for row in field.rows() if row.extra == "none"]
    assert found("mhla xl") == {name for name in known if "MHLA" in name and "XL" in name}
    assert found("SDE quoted ddt") and not found("nothing of the kind")
    assert "Nothing found" in text(browser)


def test_a_column_is_shown_when_it_is_chosen_and_has_values(browser, folder):
    show(browser, folder / "index.html")
    assert "Batch" not in text(browser) and "Recorded" not in text(browser)
    press(browser, "#filters input[value=batch_size]")
    until(lambda: browser.execute_script("return table.getColumn('batch_size').isVisible()"))
    assert "columns=" in browser.current_url
    show(browser, browser.current_url)
    assert browser.execute_script("return table.getColumn('batch_size').isVisible()")
    choose(browser, "kind", "paper")
    assert not browser.execute_script("return table.getColumn('held_out').isVisible()")  # no paper has it


def test_the_header_sticks_and_rows_have_one_line(browser, folder):
    show(browser, folder / "index.html", 1280)
    heights = browser.execute_script(
        "return [...document.querySelectorAll('.tabulator-row')].map((row) => row.offsetHeight)"
    )
    assert len(heights) > 10 and max(heights) < 40
    browser.execute_script("document.querySelector('.tabulator-tableholder').scrollTop = 1500")
    until(lambda: "U-DiT-L" not in text(browser))
    header = browser.find_element("css selector", ".tabulator-header").rect
    board = browser.find_element("id", "board").rect
    assert header["y"] - board["y"] <= 1.5 and "FID" in text(browser)


def test_a_header_explains_itself_on_focus(browser, folder):
    show(browser, folder / "index.html")
    browser.execute_script("document.querySelector('[tabulator-field=rank] button').focus()")
    told = browser.find_element("id", "hint").text
    assert "1 + the number of rows of its group shown to be better" in told and "8%" in told


def test_two_rows_are_compared_and_the_address_keeps_them(browser, folder):
    show(browser, folder / "index.html")
    assert not browser.find_element("id", "comparison").is_displayed()
    for label in ("U-DiT-L", "DiCo-XL"):
        press(browser, f"input.compare[aria-label='Compare {label}']")
    bar = browser.find_element("id", "bar")
    assert bar.is_displayed() and "U-DiT-L" in bar.text and "DiCo-XL" in bar.text
    assert abs(bar.rect["y"] + bar.rect["height"] - browser.execute_script("return innerHeight")) < 2
    told = browser.find_element("id", "comparison").text
    assert "10.08" in told and "11.67" in told
    show(browser, browser.current_url, 375)
    assert browser.find_element("id", "comparison").text == told
    assert content_width(browser) <= 375


def test_a_chart_tells_a_point_and_follows_what_is_chosen(browser, folder):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.support.select import Select

    show(browser, folder / "index.html", height=3000)
    figure = browser.find_element("id", "scatter")
    axis = lambda: figure.find_element("css selector", "svg").text  # noqa: E731
    assert "GFLOPs" in axis()
    point = figure.find_element("css selector", "[aria-label='U-DiT-S']")
    ActionChains(browser).move_to_element(point).perform()
    until(lambda: browser.find_elements("css selector", "#vg-tooltip-element.visible"))
    told = browser.find_element("id", "vg-tooltip-element").text
    assert "U-DiT-S" in told and "31.51" in told
    Select(figure.find_elements("tag name", "select")[1]).select_by_visible_text("Training compute")
    until(lambda: "Training compute (EFLOPs)" in axis())
    assert "axes=" in browser.current_url
    choose(browser, "family", "DiCo")  # the table's filters act on it
    until(lambda: not figure.find_elements("css selector", "[aria-label='U-DiT-S']"))


@pytest.mark.parametrize(
    ("axes", "shown"), [("99,99", [0, 0]), ("1,99", [1, 0]), ("1", [1, 0]), ("-1,length", [0, 0])]
)
def test_an_address_of_axes_that_are_not_there_shows_the_first(browser, folder, axes, shown):
    show(browser, f"{(folder / 'index.html').as_uri()}#axes={axes}", height=3000)
    selects = browser.execute_script("return scatter.selects.map((select) => select.selectedIndex)")
    assert selects == shown
    assert plotted(browser) and browser.find_elements("css selector", "#scatter svg")


def plotted(browser):
    return browser.execute_script("return points")


NAMES = (
    "[...document.querySelectorAll('#scatter .mark-text.role-mark text')]"
    ".filter((t) => t.textContent && t.getAttribute('opacity') !== '0')"
)


def test_the_front_is_where_nothing_cheaper_is_better_and_names_do_not_collide(browser, folder):
    show(browser, folder / "index.html", 1280, 3000)
    until(lambda: browser.execute_script(f"return {NAMES}.length"))
    rows = plotted(browser)
    assert {row["group"] for row in rows} == {MAIN} and len(rows) > 40
    front = {
        row["row"]
        for row in rows
        if not any(other["cost"] <= row["cost"] and other["fid"] < row["fid"] for other in rows)
    }
    assert {"U-DiT-S", "U-DiT-B", "U-DiT-L", "DiCo-L"} <= front and "DiT-XL/2" not in front
    found = boxes(browser, NAMES)
    assert 8 <= len(found) <= 14 and {"U-DiT-S", "U-DiT-L", "DiCo-L"} <= {name for name, *_ in found}
    assert_apart(found)


def test_names_follow_their_marks_when_the_chart_is_dragged(browser, folder):
    from selenium.webdriver import ActionChains

    def apart():
        name = next(box for box in boxes(browser, NAMES) if box[0] == "U-DiT-S")
        mark = browser.find_element("css selector", "#scatter [aria-label='U-DiT-S']").rect
        return mark["x"] - name[1], mark["y"] - name[2]

    show(browser, folder / "index.html", 1280, 3000)
    before, mark = apart(), browser.find_element("css selector", "#scatter [aria-label='U-DiT-S']").rect
    place = browser.find_element("css selector", "#scatter svg")
    drag = ActionChains(browser).move_to_element_with_offset(place, -100, -120).click_and_hold()
    drag.move_by_offset(120, 40).release().perform()
    moved = lambda: browser.find_element("css selector", "#scatter [aria-label='U-DiT-S']").rect  # noqa: E731
    until(lambda: moved()["x"] > mark["x"] + 100)
    until(lambda: apart() == pytest.approx(before, abs=2))
    assert_apart(boxes(browser, NAMES))


def boxes(browser, elements):
    """Text, left, top, right and bottom of elements."""
    return browser.execute_script(
        f"""
        return {elements}.map((t) => {{
          const box = t.getBoundingClientRect();
          return [t.textContent, box.left, box.top, box.right, box.bottom];
        }});
        """
    )


def assert_apart(found):
    for i, (_, left, top, right, bottom) in enumerate(found):
        for _, other_left, other_top, other_right, other_bottom in found[i + 1 :]:
            apart = other_left > right or left > other_right or other_top > bottom or top > other_bottom
            assert apart or min(bottom, other_bottom) - max(top, other_top) < 3  # ascenders, not letters


@pytest.mark.parametrize(("file", "least"), [("fid-gflops.svg", 15), ("fid-steps.svg", 20)])
def test_names_in_the_papers_figures_do_not_collide(browser, file, least):
    browser.get((ROOT / "reports" / file).as_uri())
    found = boxes(browser, "[...document.querySelectorAll('.mark-text.role-mark text')]")
    assert len(found) >= least and {"U-DiT-S", "U-DiT-B", "U-DiT-L"} <= {name for name, *_ in found}
    assert_apart(found)


def test_the_first_chart_is_drawn_within_a_second_and_a_half(browser, folder):
    def seconds():  # of the page's thread: other work on the machine does not count
        metrics = browser.execute_cdp_cmd("Performance.getMetrics", {})["metrics"]
        return next(each["value"] for each in metrics if each["name"] == "ThreadTime")

    browser.execute_cdp_cmd("Performance.enable", {"timeDomain": "threadTicks"})
    browser.get("about:blank")
    begin = seconds()
    browser.get((folder / "index.html").as_uri())
    until(lambda: browser.find_elements("css selector", "#scatter[data-drawn]"))
    assert 0 < seconds() - begin < 1.5


def test_a_printed_page_holds_every_row_and_its_sources(browser, folder):
    show(browser, folder / "index.html")
    choose(browser, "family", "DiCo")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    browser.execute_script("dispatchEvent(new Event('beforeprint'))")
    printed = browser.find_element("css selector", ".tabulator-print-table")
    names = [row["row"] for row in shown_rows(browser)]
    rows = printed.find_elements("css selector", "tbody tr:not(.tabulator-print-table-group)")
    assert len(rows) == len(names) > 20 and all(name in printed.text for name in names)
    assert MAIN in printed.text and "[object" not in printed.text and "DiT-XL/2 " not in printed.text
    for selector in ("header", "#filters", "#board"):
        assert not browser.find_element("css selector", selector).is_displayed()
    assert (
        "https://arxiv.org/abs/2505.11196"
        in browser.find_element("id", "source-1").find_element("xpath", "..").text
    )
    browser.execute_script("dispatchEvent(new Event('afterprint'))")
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})
    assert browser.find_element("id", "board").is_displayed()


def test_a_backbone_has_one_table_of_scores_and_one_chart(browser, folder):
    show(browser, folder / "backbones/dit-xl-2.html", 1280)
    charts = [figure.text for figure in browser.find_elements("css selector", "figure.chart")]
    assert [text.splitlines()[0] for text in charts] == ["Cost by stage"]
    told = browser.find_element("css selector", "table.scores").text
    assert "7,000,000" in told and "9.62" in told and "Table 2 of arXiv 2405.02730" in told
    link = browser.find_element("css selector", "main p a")
    assert link.get_attribute("href") == "https://arxiv.org/abs/2212.09748"


def test_samples_are_enlarged_by_a_key(browser, folder):
    from selenium.webdriver import Keys

    pages = (folder / "records").glob("quality-udit-s-*")  # of these one has samples
    show(browser, next(page for page in pages if 'class="zoom"' in page.read_text("utf-8")), 1600)
    button = browser.find_element("css selector", ".zoom")
    width = lambda: button.find_element("tag name", "img").size["width"]  # noqa: E731
    assert width() == 1316  # twice the picture's own
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert width() == 2632 and content_width(browser) <= 1600


def test_colours_of_families_stand_out_in_both_themes(browser, folder):
    def light(colour):
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for background in ("#ffffff", "#0f1318"):
        for colour in COLOURS:
            high, low = sorted((light(colour), light(background)), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 3, (colour, background)


def test_a_figure_opens_its_record_and_a_source_its_paper(browser, folder):
    show(browser, folder / "index.html")
    sources = browser.find_elements("css selector", ".tabulator-cell[tabulator-field=source] a")
    assert "https://arxiv.org/abs/2405.02730" in {link.get_attribute("href") for link in sources}
    choose(browser, "kind", "measured here")
    until(lambda: browser.find_elements("css selector", "#board a[href^='records/quality-']"))
    link = browser.find_element("css selector", "#board a[href^='records/quality-']")
    address = link.get_attribute("href")
    browser.execute_script("arguments[0].click()", link)
    until(lambda: browser.current_url == address)
    main = browser.find_element("tag name", "main").text
    assert "Measure it again" in main and "bench ablate" in main and "Commit" in main


def test_menus_close_on_escape_and_outside_clicks(browser, folder):
    from selenium.webdriver import ActionChains, Keys

    show(browser, folder / "index.html")
    studies, backbones, _ = browser.find_elements("css selector", "details.menu > summary")
    opened = lambda: browser.execute_script("return document.querySelectorAll('details.menu[open]').length")  # noqa: E731
    studies.click()
    until(lambda: opened() == 1)
    browser.execute_script("arguments[0].click()", backbones)
    until(lambda: opened() == 1)
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    until(lambda: opened() == 0)
    studies.click()
    press(browser, "h1")
    until(lambda: opened() == 0)


def test_a_study_shows_its_verdict_and_one_protocol_at_a_time(browser, folder):
    show(browser, folder / "studies/components.html", 1280)
    assert browser.execute_script("return document.documentElement.scrollHeight") < 3000
    verdict = browser.find_element("css selector", ".verdict").text
    assert "U-DiT-T (+Re-param.)" in verdict and "15 of 21 pairs of rows differ significantly" in verdict
    tabs = browser.find_elements("css selector", "[role=tab]")
    sections = browser.find_elements("css selector", "[role=tabpanel]")
    assert tabs[0].text == "proxy-cifar-32" and len(tabs) == len(sections) > 3
    assert [section.is_displayed() for section in sections] == [True] + [False] * (len(sections) - 1)
    press(browser, "[role=tab]:nth-child(2)")
    until(sections[1].is_displayed)
    assert not sections[0].is_displayed()
    browser.back()
    until(sections[0].is_displayed)


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
    assert HOSTILE in {row["row"] for row in shown_rows(browser)}
    choose(browser, "kind", "measured here")
    until(lambda: HOSTILE in text(browser))
    assert not browser.find_elements("css selector", "#board img")
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
    assert browser.title == "denoiser-bench: diffusion backbones"
    told = [entry["message"] for entry in browser.get_log("browser")]
    assert sum("Content Security Policy" in text for text in told) == 2
