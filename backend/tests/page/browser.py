"""An operator with Debian's chromium: what the console says, and which hosts are asked, is watched all the time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, sync_playwright

from tests.conftest import missing_tool
from tests.page.conftest import TOKEN

CHROMIUM = Path("/usr/bin/chromium")
AXE = Path(__file__).parent / "vendor" / "axe-4.14.1.min.js"
PHONE = {"width": 360, "height": 740}


@contextmanager
def chromium(*arguments: str) -> Iterator[Browser]:
    if not CHROMIUM.exists():
        missing_tool(f"The browser tests need {CHROMIUM}, of Debian's package chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(CHROMIUM), args=arguments)
        yield browser
        browser.close()


@dataclass
class Operator:
    page: Page
    address: str
    complaints: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.page.set_default_timeout(20_000)
        self.page.on("console", lambda it: self.complaints.append(f"{it.type}: {it.text}"))
        self.page.on("pageerror", lambda it: self.complaints.append(f"error: {it}"))
        self.page.on("dialog", lambda it: self.complaints.append(f"dialog: {it.message}"))
        self.page.on("request", lambda it: self._watch(it.url))

    def go(self, path: str) -> None:
        self.page.goto(f"{self.address}{path}")

    def sign_in(self, name: str = "Ada") -> None:
        self.go("/")
        self.page.get_by_label("Your name").fill(name)
        self.page.get_by_label("Operator's token").fill(TOKEN)
        self.page.get_by_role("button", name="Sign in").click()
        self.page.get_by_role("heading", name="Overview").wait_for(state="attached")
        self.page.wait_for_load_state()

    def figure(self, name: str) -> str:
        return self.page.locator(f"[data-figure={name}] [data-value]").inner_text()

    def picture(self, name: str) -> str:
        """The chart as drawn now."""
        drawn: str = self.page.evaluate(
            "name => document.querySelector(`[data-figure=${name}] canvas`).toDataURL()", name
        )
        return drawn

    def violations(self) -> list[str]:
        """What axe finds serious or critical on this page, in the light and in the dark."""
        found = []
        for scheme in ("light", "dark"):
            self.page.emulate_media(color_scheme=scheme)
            # The policy forbids inline scripts, and does not concern the browser's own debugger.
            self.page.evaluate(f"if (!window.axe) {{ {AXE.read_text()} }}")
            report = self.page.evaluate("axe.run({resultTypes: ['violations']})")
            found += [
                f"{scheme}: {it['id']}: {json.dumps([node['html'] for node in it['nodes']][:3])}"
                for it in report["violations"]
                if it["impact"] in ("serious", "critical")
            ]
        self.page.emulate_media(color_scheme="light")
        return found

    def is_wider_than_the_screen(self) -> bool:
        wider: bool = self.page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
        return wider

    def _watch(self, url: str) -> None:
        if urlsplit(url).netloc != urlsplit(self.address).netloc:
            self.complaints.append(f"request to {url}")
