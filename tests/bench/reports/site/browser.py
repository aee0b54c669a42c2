"""A real browser for the site, and a picture of its front page:

python -m tests.bench.reports.site.browser reports/site.png
"""

import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.reports import report, site

NAMES = ("chromium", "chromium-browser", "google-chrome")


def open_browser():
    """Chromium without a window; None where it or its driver is not installed."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        return None
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))


def show(browser, page, width=1400, height=900, dark=False):
    """Open a page in a window of some size, and wait until the charts in sight are drawn."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    browser.get("about:blank")  # so that another #… is another visit
    browser.get(page if isinstance(page, str) else page.as_uri())
    charts = "[...document.querySelectorAll('figure.chart')]"
    ready = "(document.getElementById('board')?.dataset.ready ?? 'none')"
    until(lambda: browser.execute_script(f"return {ready}"))
    drawn = "(f) => f.dataset.drawn || !f.checkVisibility() || f.getBoundingClientRect().top > innerHeight"
    until(lambda: browser.execute_script(f"return {charts}.every({drawn})"))


def until(condition, seconds=30):
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "not in time"
        time.sleep(0.05)


if __name__ == "__main__":
    browser = open_browser()
    assert browser is not None, "needs Chromium and its driver"
    with tempfile.TemporaryDirectory() as folder:
        report.write(folder, site.files("results"))
        show(browser, Path(folder) / "index.html", 1100, 1150)
        browser.save_screenshot(sys.argv[1])
    browser.quit()
