"""The status page in a real browser: while work runs, without JavaScript, on a telephone, in the dark, by keyboard."""

import re
import signal
from collections.abc import AsyncIterator
from itertools import product
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from tests.fakes.browser import chromium, keep_screenshot, visiting
from tests.fakes.daemon import environment_for, started
from tests.fakes.status import FRESH, HOSTILE, SAMPLES, TROUBLED, WELL, showing
from tests.fakes.task_api_server import FakeTaskApi, answer

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATIENCE = 15_000
"""Milliseconds that a busy machine may take for what should take one second."""

TELEPHONE = 360
READABLE = 4.5
"""Contrast of text that WCAG asks for at level AA."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    async with chromium() as opened:
        yield opened


def figure(page: Page, name: str) -> object:
    return page.locator("#figures div", has_text=name).locator("strong")


# --- While work runs --------------------------------------------------------------------------------------------------


async def test_it_follows_a_daemon_at_work(browser: Browser, tmp_path: Path) -> None:
    async with FakeTaskApi() as api:
        api.add({"_id": "refused", "content": {"text": "a text"}})
        api.script("patch", answer(422, {"message": HOSTILE}))
        env = environment_for(api, tmp_path, rate_limit_per_hour=1_000, delivery_concurrency=1)
        async with started("run", folder=tmp_path, env=env) as daemon:
            async with visiting(browser, await daemon.url()) as visit:
                page = visit.page
                await expect(page.locator("#connection")).to_have_text("Live", timeout=PATIENCE)
                await expect(figure(page, "Parked")).to_have_text("1", timeout=PATIENCE)
                await expect(page.locator("#parked tbody")).to_contain_text("<img src=x onerror=alert(1)>")
                api.add({"_id": "bad", "content": {}})
                await expect(page.locator("#failures tbody")).to_contain_text(
                    "content.text must be a string", timeout=PATIENCE
                )
                await expect(page).to_have_title(re.compile("^Ready, with something"), timeout=PATIENCE)
                api.add(*({"_id": str(number), "content": {"text": f"text {number}"}} for number in range(200)))
                await expect(figure(page, "Settled in an hour")).to_have_text("202", timeout=PATIENCE)
                await expect(figure(page, "Failed in an hour")).to_have_text("1")
                await expect(page.locator("#limits .used").first).to_have_text("201 of 1,000", timeout=PATIENCE)
                assert await page.locator("#throughput rect.succeeded").count() > 0
                await keep_screenshot(page, "at-work")
                daemon.send(signal.SIGTERM)
                assert await daemon.ended() == 0
                await expect(page.locator("#connection")).to_contain_text("what you see is old", timeout=PATIENCE)
            assert await daemon.url() == "".join(visit.origins())
            assert [request for request in visit.requests if not request.endswith("/events")] == [visit.requests[0]]
            assert all("ERR_" in complaint for complaint in visit.complaints)  # the daemon had gone


async def test_what_a_reader_does_stays_while_the_page_changes(browser: Browser) -> None:
    async with showing(WELL) as (server, lookout), visiting(browser, server.url) as visit:
        page = visit.page
        await expect(page.locator("#connection")).to_have_text("Live")
        await page.locator("summary").click()
        await page.locator("h1").evaluate("(heading) => getSelection().selectAllChildren(heading)")
        lookout.shown = TROUBLED
        await expect(page.locator("#headline-title")).to_have_text("Ready, with something to look at", timeout=PATIENCE)
        assert await page.title() == "Ready, with something to look at · processor-7c9f4d · AI Task Processor"
        await expect(page.locator("details table")).to_be_visible()
        await expect(page.locator("summary")).to_be_focused()
        assert await page.evaluate("() => getSelection().toString()") == "AI Task Processor"
        lookout.shown = WELL
        await expect(page.locator("#parked")).to_contain_text("Nothing is parked", timeout=PATIENCE)
        assert await same_as_when_loaded(page, browser, server.url)
        assert visit.complaints == []


async def same_as_when_loaded(page: Page, browser: Browser, url: str) -> bool:
    """Whether a page that went through changes is the one that somebody else sees now."""
    asked = "() => document.querySelector('main').outerHTML.replaceAll(' open=\"\"', '')"
    async with visiting(browser, url) as other:
        return bool(await page.evaluate(asked) == await other.page.evaluate(asked))


async def test_it_comes_back_by_itself(browser: Browser) -> None:
    async with showing(FRESH) as (server, _), visiting(browser, server.url) as visit:
        live = visit.page.locator("#connection")
        await expect(live).to_have_text("Live")
        port = server.port
        await server.__aexit__(None, None, None)
        await expect(live).to_contain_text("No connection since", timeout=PATIENCE)
        async with showing(WELL, port):
            await expect(live).to_have_text("Live", timeout=PATIENCE)
            await expect(visit.page.locator("#headline-title")).to_have_text("Ready")


async def test_a_page_that_nobody_looks_at_leaves_its_place_to_others(browser: Browser) -> None:
    async with showing(WELL) as (server, _), visiting(browser, server.url) as visit:
        page = visit.page
        await expect(page.locator("#connection")).to_have_text("Live")
        async with page.expect_event("requestfailed") as left:
            await page.evaluate(SEEN, "hidden")
        assert (await left.value).url == f"{server.url}/events"
        async with page.expect_request("**/events"):
            await page.evaluate(SEEN, "visible")
        assert visit.complaints == []


SEEN = """
(state) => {
  Object.defineProperty(document, 'hidden', { value: state === 'hidden', configurable: true });
  document.dispatchEvent(new Event('visibilitychange'));
}
"""
"""What a browser does when its tab is put behind others, and taken in front again."""


# --- For everybody ----------------------------------------------------------------------------------------------------


async def test_it_can_be_read_without_javascript(browser: Browser) -> None:
    async with showing(TROUBLED) as (server, _), visiting(browser, server.url, java_script_enabled=False) as visit:
        page = visit.page
        await expect(page.get_by_role("heading", name="Ready, with something to look at")).to_be_visible()
        await expect(page.locator("#connection")).to_have_text("As of 2023-11-14 22:13:20 UTC. Reload")
        await expect(page.locator("noscript meta[http-equiv=refresh]")).to_have_attribute("content", "10")
        await expect(page.locator("#throughput svg")).to_be_visible()
        await page.get_by_role("link", name="Reload").click()
        assert visit.requests == [f"{server.url}/"] * 2


@pytest.mark.parametrize("name", SAMPLES)
async def test_it_is_readable_at_any_width_by_day_and_by_night(browser: Browser, name: str) -> None:
    async with showing(SAMPLES[name]) as (server, _), visiting(browser, server.url) as visit:
        page = visit.page
        await expect(page.locator("#connection")).to_have_text("Live")
        for width, scheme in product((1_200, 700, TELEPHONE), ("light", "dark")):
            await page.set_viewport_size({"width": width, "height": 800})
            await page.emulate_media(color_scheme=scheme)
            assert await page.evaluate("() => document.documentElement.scrollWidth") == width
            assert await page.evaluate(TOO_FAINT, READABLE) == []
            await keep_screenshot(page, f"{name}-{scheme}-{width}")
        assert visit.complaints == []
        assert visit.origins() == {server.url}


async def test_night_is_dark_and_day_is_bright(browser: Browser) -> None:
    async with showing(WELL) as (server, _):
        for scheme, bright in (("light", True), ("dark", False)):
            async with visiting(browser, server.url, color_scheme=scheme) as visit:
                paper = await visit.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
                assert (sum(map(int, paper.removeprefix("rgb(").removesuffix(")").split(","))) > 384) is bright


async def test_it_can_be_used_by_keyboard(browser: Browser) -> None:
    async with showing(WELL) as (server, _), visiting(browser, server.url) as visit:
        page = visit.page
        await expect(page.locator("#connection")).to_have_text("Live")
        await page.keyboard.press("Tab")
        await expect(page.get_by_text("Skip to the status")).to_be_in_viewport()
        assert await page.evaluate("() => getComputedStyle(document.activeElement).outlineStyle") == "solid"
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await page.keyboard.press("Tab")
        await expect(page.locator("summary")).to_be_focused()
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("columnheader", name="Minutes ago")).to_be_visible()
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="/status")).to_be_focused()


async def test_it_is_told_to_those_who_cannot_see_it(browser: Browser) -> None:
    async with showing(TROUBLED) as (server, _), visiting(browser, server.url) as visit:
        page = visit.page
        for landmark in ("banner", "main", "contentinfo", "navigation"):
            await expect(page.get_by_role(landmark)).to_have_count(1)
        await expect(page.get_by_role("heading", level=1)).to_have_count(1)
        for name in ("Last hour", "Checks", "Limits", "Circuit breakers", "Money and work", "Parked tasks"):
            await expect(page.get_by_role("region", name=name)).to_have_count(1)
        await expect(page.get_by_role("img", name="Tasks settled in each of the last 60 minutes")).to_be_visible()
        await expect(page.locator("#headline-title")).to_have_attribute("aria-live", "polite")
        await expect(page.get_by_role("status")).to_have_text("Live")
        assert await page.evaluate("() => [...document.querySelectorAll('[id]')].length") == await page.evaluate(
            "() => new Set([...document.querySelectorAll('[id]')].map((one) => one.id)).size"
        )


async def test_what_servers_say_is_text_and_nothing_else(browser: Browser) -> None:
    async with showing(TROUBLED) as (server, _), visiting(browser, server.url) as visit:
        await expect(visit.page.locator("#connection")).to_have_text("Live")
        assert await visit.page.locator("main :is(img, script, iframe, object)").count() == 0
        for section in ("#failures", "#parked", "#breakers", "#headline"):
            await expect(visit.page.locator(section)).to_contain_text(HOSTILE)
        assert visit.complaints == []
        assert await visit.page.evaluate(SMUGGLED) == "script-src-attr"
        assert await visit.page.evaluate("() => window.smuggled") is None


SMUGGLED = """
() => new Promise((refused) => {
  document.addEventListener('securitypolicyviolation', (violation) => refused(violation.effectiveDirective));
  document.body.insertAdjacentHTML('beforeend', '<button onclick="window.smuggled = true">x</button>');
  document.body.lastChild.click();
})
"""
"""Answers by which rule a handler was refused that should never have come onto the page."""

TOO_FAINT = """
(least) => {
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (colour) => {
    const [red, green, blue] = rgb(colour).map((one) => one / 255)
      .map((one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const paper = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const colour = getComputedStyle(one).backgroundColor;
      if (rgb(colour)[3] === 255) return colour;
    }
    return 'white';
  };
  const found = new Set();
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const element = texts.currentNode.parentElement;
    if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest('svg, script')) continue;
    const [a, b] = [light(getComputedStyle(element).color), light(paper(element))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < least) found.add(`${contrast.toFixed(2)}: ${texts.currentNode.data}`);
  }
  return [...found];
}
"""
"""The texts that stand out from what is behind them by less than so much."""
