"""A real Chromium without a window, driven from a test; what it complains of is a fault of the page."""

import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.async_api import Browser, Page, async_playwright

HOW = "Chromium is not installed: on Debian and Ubuntu, apt-get install chromium fonts-dejavu-core"
SCREENSHOTS = Path(__file__).parents[2] / "build" / "screenshots"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Start it; skips the test where it is missing and need not be there."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        (pytest.fail if os.environ.get("REQUIRE_SERVICES") == "1" else pytest.skip)(HOW)
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=found, args=ARGUMENTS)
        try:
            yield browser
        finally:
            await browser.close()


@dataclass
class Visit:
    """An open page, with all that it asked for and complained of."""

    page: Page
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def origins(self) -> set[str]:
        """Where its requests went."""
        return {f"{parts.scheme}://{parts.netloc}" for parts in map(urlsplit, self.requests) if parts.scheme != "data"}


@asynccontextmanager
async def visiting(browser: Browser, url: str, *, width: int = 1_200, **context: Any) -> AsyncIterator[Visit]:
    """Open ``url`` in a profile of its own."""
    opened = await browser.new_context(viewport={"width": width, "height": 800}, **context)
    try:
        visit = Visit(await opened.new_page())
        visit.page.on("request", lambda request: visit.requests.append(request.url))
        visit.page.on("console", lambda message: visit.complaints.append(message.text))
        visit.page.on("pageerror", lambda error: visit.complaints.append(str(error)))
        await visit.page.goto(url)
        yield visit
    finally:
        await opened.close()


async def keep_screenshot(page: Page, name: str) -> None:
    """Keep what it looks like, for people to look at."""
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)
