"""Pages in headless Chromium, opened from disk: what they fetch, and whether everybody can move, read and print them."""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.small_runs import Runs, run

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine (.ci/run installs it)"),
]
sync_api = pytest.importorskip("playwright.sync_api")
axe = pytest.importorskip("axe_playwright_python.sync_playwright")

# No display and no graphics card: Chromium draws WebGL in software.
ARGUMENTS = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--ignore-gpu-blocklist"]
PAGES = (
    "table_model",
    "table_clean",
    "table_audit",
    "scans_clean",
    "organs_model",
    "visits_clean",
    "visits_chart",
    "compared",
)
MOVABLE = {
    "table_model": ".slider table",
    "scans_clean": ".slider .views canvas",
    "organs_model": ".slider .mesh canvas",
}


@dataclass
class Opened:
    """A page, and what it did that it should not have done."""

    page: object
    fetched: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(runs: Runs, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    compared = tmp_path_factory.mktemp("compared") / "page.html"
    assert run("report", runs("table_audit"), runs("straight_audit"), "--to", compared) == 0
    return {name: runs(name) / "report.html" for name in PAGES if name != "compared"} | {"compared": compared}


def opened(browser: object, path: Path, width: int = 1400, scheme: str = "light") -> Opened:
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    found = Opened(context.new_page())
    own = path.as_uri()
    found.page.on(
        "request",
        lambda asked: (
            found.fetched.append(asked.url)
            if asked.url != own and not asked.url.startswith(("data:", "blob:"))
            else None
        ),
    )
    found.page.on(
        "console", lambda said: found.complaints.append(said.text) if said.type in {"error", "warning"} else None
    )
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.goto(own)
    sync_api.expect(found.page.locator(".slider:not([data-ready])")).to_have_count(0, timeout=60_000)
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [380, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_opens_from_disk_at_any_width_and_everybody_can_use_it(
    browser: object, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    found = opened(browser, pages[name], width, scheme)
    assert found.page.evaluate("document.documentElement.scrollWidth") <= width
    found.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    serious = [
        f"{one['id']}: {one['nodes'][0]['html'][:200]}"
        for one in axe.Axe().run(found.page).response["violations"]
        if one["impact"] in {"serious", "critical"}
    ]
    assert serious == []
    assert (found.fetched, found.complaints) == ([], [])
    found.page.context.close()


@pytest.mark.parametrize("name", MOVABLE)
def test_the_slider_changes_the_picture_and_back_brings_it_back(
    browser: object, pages: dict[str, Path], name: str
) -> None:
    found = opened(browser, pages[name])
    shown = found.page.locator(MOVABLE[name]).first

    def picture() -> str:
        found.page.wait_for_timeout(300)
        return shown.evaluate("(one) => one.toDataURL ? one.toDataURL() : one.innerHTML")

    def comes(wanted: Callable[[str], bool]) -> bool:
        """A slow machine takes its time to draw."""
        return any(wanted(picture()) for _ in range(30))

    before = picture()
    assert picture() == before, "nothing moves by itself where motion is to be reduced"
    assert found.page.locator(".slider .said").inner_text() == "As the person is."
    age = found.page.locator(".slider input[type=range]").first
    age.focus()
    for _ in range(3):
        found.page.keyboard.press("ArrowRight")
    assert "Moved: age" in found.page.locator(".slider .said").inner_text()
    assert "year" in age.get_attribute("aria-valuetext")
    assert comes(lambda now: now != before)
    transformed = picture()
    found.page.keyboard.press("End")
    assert "Outside training: age was" in found.page.locator(".slider .said").inner_text()
    assert comes(lambda now: now != transformed)
    found.page.get_by_role("button", name="Back to the person").click()
    assert comes(lambda now: now == before)
    assert (found.fetched, found.complaints) == ([], [])
    found.page.context.close()


def test_a_level_can_be_chosen_and_slices_can_be_moved(browser: object, pages: dict[str, Path]) -> None:
    found = opened(browser, pages["scans_clean"])
    canvas = found.page.locator(".slider .views canvas").first
    before = canvas.screenshot()
    found.page.locator(".slider select").last.select_option(index=1)
    assert "site" in found.page.locator(".slider .said").inner_text()
    assert canvas.screenshot() != before
    before = canvas.screenshot()
    found.page.get_by_label("sagittal slice", exact=True).last.fill("10")
    assert canvas.screenshot() != before
    found.page.context.close()


def test_a_mesh_turns_by_mouse_and_keyboard(browser: object, pages: dict[str, Path]) -> None:
    found = opened(browser, pages["organs_model"])
    mesh = found.page.locator(".slider .mesh canvas").first
    mesh.scroll_into_view_if_needed()
    found.page.wait_for_timeout(400)
    pictures = [mesh.screenshot()]
    box = mesh.bounding_box()
    found.page.mouse.move(box["x"] + 200, box["y"] + 200)
    found.page.mouse.down()
    found.page.mouse.move(box["x"] + 320, box["y"] + 220, steps=4)
    found.page.mouse.up()
    found.page.wait_for_timeout(400)
    pictures.append(mesh.screenshot())
    mesh.press("ArrowLeft")
    found.page.wait_for_timeout(400)
    pictures.append(mesh.screenshot())
    assert len(set(pictures)) == 3
    found.page.context.close()


def test_the_fan_follows_its_slider(browser: object, pages: dict[str, Path]) -> None:
    found = opened(browser, pages["visits_clean"])
    fan = found.page.locator(".slider[data-kind=fan]")
    said, before = fan.locator(".said").inner_text(), fan.locator("svg").inner_html()
    assert "after the last visit" in said
    years = fan.locator("input[type=range]")
    years.focus()
    for _ in range(6):
        found.page.keyboard.press("ArrowLeft")
    assert fan.locator(".said").inner_text() != said
    assert fan.locator("svg").inner_html() != before
    fan.locator("select").first.select_option(index=2)
    assert fan.locator("path.visit").count() >= 1
    fan.get_by_role("button", name="Back to the start").click()
    assert fan.locator("svg").inner_html() == before
    found.page.context.close()


def test_people_are_found_among_their_centiles(browser: object, pages: dict[str, Path]) -> None:
    found = opened(browser, pages["visits_chart"])
    chart = found.page.locator(".slider[data-kind=chart]")
    before = chart.locator(".views").inner_html()
    assert chart.locator(".panel svg").count() == 2
    panel = chart.locator(".panel svg").first
    panel.scroll_into_view_if_needed()
    marks = panel.locator("path.person").get_attribute("d").split("M")[1].split("h")[0].split(",")
    box = panel.bounding_box()
    place = [
        box[axis] + box[size] * float(own) / 100
        for axis, size, own in zip("xy", ("width", "height"), marks, strict=True)
    ]
    found.page.mouse.move(*place)
    told = chart.locator(".tip").first.inner_text()
    assert told.startswith("sub-")
    assert ", z " in told
    found.page.mouse.click(*place)
    assert told in chart.locator(".said").inner_text()
    assert chart.locator(".profile tbody tr").count() == 3
    assert chart.locator("path.mine").first.get_attribute("d").count("M") == 2
    assert chart.locator("path.kept").first.get_attribute("d").count("M") == 2
    chart.locator("select").last.select_option("change")
    assert "change a year" in chart.locator(".said").inner_text()
    chart.locator(".profile button").last.click()
    assert chart.locator("select").first.evaluate("(one) => one.selectedIndex") >= 0
    chart.get_by_role("button", name="Back to the start").click()
    assert chart.locator(".profile tbody tr").count() == 0
    assert chart.locator(".views").inner_html().count("<path") == before.count("<path")
    assert (found.fetched, found.complaints) == ([], [])
    found.page.context.close()


def test_without_webgl_the_rest_of_the_page_is_there(browser: object, pages: dict[str, Path]) -> None:
    page = browser.new_page()
    page.add_init_script("HTMLCanvasElement.prototype.getContext = () => null")
    page.goto(pages["organs_model"].as_uri())
    page.locator(".slider[data-ready=failed]").wait_for()
    assert "cannot be shown here" in page.locator(".slider .said").inner_text()
    assert page.get_by_role("heading", name="Model sheet").is_visible()
    page.close()


def test_faults_of_accessibility_would_be_found(browser: object, tmp_path: Path) -> None:
    page = browser.new_page()
    bad = "<title>x</title><img src='data:,'><p style='color:#ddd;background:#fff'>hard to read"
    (tmp_path / "bad.html").write_text(bad, encoding="utf-8")
    page.goto((tmp_path / "bad.html").as_uri())
    found = {one["id"] for one in axe.Axe().run(page).response["violations"]}
    assert {"image-alt", "color-contrast"} <= found
    page.close()


def test_print_shows_what_is_folded_away(browser: object, pages: dict[str, Path]) -> None:
    found = opened(browser, pages["table_audit"])
    assert found.page.locator("details[open]").count() == 0
    found.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert found.page.locator("details:not([open])").count() == 0
    assert found.page.pdf().startswith(b"%PDF")
    found.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert found.page.locator("details[open]").count() == 0
    found.page.context.close()
