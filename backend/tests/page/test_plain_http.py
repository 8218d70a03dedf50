"""An operator on a private network: plain HTTP, and a name that no browser takes for its own machine."""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import expect

from app.settings import OPERATOR_PAGE
from tests.page.browser import Operator, chromium
from tests.page.conftest import serving, settings_for

NAME = "ops.example"


def test_operator_signs_in_acts_and_signs_out_over_plain_http(database_url):
    with (
        serving(settings_for(database_url)) as address,
        chromium(f"--host-resolver-rules=MAP {NAME} 127.0.0.1") as browser,
    ):
        operator = Operator(browser.new_page(), f"http://{NAME}:{urlsplit(address).port}{OPERATOR_PAGE}")
        page = operator.page
        sent: list[dict[str, str]] = []
        page.on("request", lambda request: sent.append(request.all_headers()) if request.method == "POST" else None)
        operator.go("/sign-in")
        expect(page.get_by_text("this connection is not encrypted")).to_be_visible()
        operator.sign_in()
        page.get_by_text("Hold all deliveries").click()
        page.get_by_label("Why").fill("Merging contacts")
        page.get_by_role("button", name="Hold", exact=True).click()
        expect(page.get_by_text("Merging contacts").first).to_be_visible()
        page.get_by_role("button", name="Sign out").click()
        expect(page.get_by_role("button", name="Sign in")).to_be_visible()
        origins = {headers.get("origin") for headers in sent}
        assert origins == {f"http://{NAME}:{urlsplit(address).port}"}
        assert not any("sec-fetch-site" in headers for headers in sent)
