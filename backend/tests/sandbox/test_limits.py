"""The rolling ten seconds and the day, as a client sees them."""

from collections.abc import Iterator

import httpx2
import pytest

from hubspot_sandbox import Sandbox, Switches
from tests.sandbox.conftest import MovableClock

NOON_IN_NEW_YORK = 1_800_032_400.0  # 2027-01-15T17:00:00Z


@pytest.fixture
def time() -> MovableClock:
    return MovableClock(NOON_IN_NEW_YORK)


@pytest.fixture
def small_account(time: MovableClock) -> Iterator[Sandbox]:
    with Sandbox(rate_max=3, daily_max=5, clock=time) as sandbox:
        yield sandbox


def ask(sandbox: Sandbox, token: str = "a") -> httpx2.Response:
    url = f"{sandbox.url}/account-info/v3/details"
    return httpx2.get(url, headers={"Authorization": f"Bearer {token}"}, trust_env=False)


def test_the_window_of_ten_seconds_rolls(small_account: Sandbox, time: MovableClock) -> None:
    def remaining_after(seconds: float) -> str:
        time.advance(seconds)
        answer = ask(small_account)
        return answer.headers["x-hubspot-ratelimit-remaining"] if answer.status_code == 200 else "refused"

    assert [remaining_after(seconds) for seconds in (0, 4, 4)] == ["2", "1", "0"]
    assert remaining_after(1.9) == "refused"
    assert remaining_after(0.1) == "0"  # The first request is ten seconds old and counts no more.


def test_a_token_over_its_limit_gets_hubspots_body_and_no_retry_after(small_account: Sandbox) -> None:
    for _ in range(3):
        assert ask(small_account).status_code == 200
    refused = ask(small_account)
    assert refused.status_code == 429
    body = refused.json()
    assert body["policyName"] == "TEN_SECONDLY_ROLLING"
    assert body["errorType"] == "RATE_LIMIT"
    assert "category" not in body
    assert body["correlationId"] == refused.headers["x-hubspot-correlation-id"]
    assert "retry-after" not in refused.headers
    assert ask(small_account, token="b").status_code == 200


def test_the_day_is_shared_by_all_tokens_and_ends_at_the_accounts_midnight(
    small_account: Sandbox, time: MovableClock
) -> None:
    for i in range(5):
        assert ask(small_account, token=str(i)).status_code == 200
    refused = ask(small_account, token="new")
    assert refused.status_code == 429
    assert refused.json()["policyName"] == "DAILY"
    assert refused.headers["x-hubspot-ratelimit-daily-remaining"] == "0"
    time.advance(11 * 3600)
    assert ask(small_account).status_code == 429
    time.advance(3600)
    answer = ask(small_account)
    assert answer.status_code == 200
    assert answer.headers["x-hubspot-ratelimit-daily"] == "5"
    assert answer.headers["x-hubspot-ratelimit-daily-remaining"] == "4"
    assert answer.headers["x-hubspot-ratelimit-interval-milliseconds"] == "10000"


def test_retry_after_on_a_throttle_is_a_switch(time: MovableClock) -> None:
    with Sandbox(rate_max=1, clock=time, switches=Switches(retry_after_on_throttle=True)) as sandbox:
        ask(sandbox)
        assert ask(sandbox).headers["retry-after"] == "10"


def search(sandbox: Sandbox, token: str = "a") -> httpx2.Response:
    url = f"{sandbox.url}/crm/objects/2026-09/contacts/search"
    return httpx2.post(url, json={}, headers={"Authorization": f"Bearer {token}"}, trust_env=False)


def test_searches_have_a_limit_of_their_own_and_show_no_burst_headers(time: MovableClock) -> None:
    with Sandbox(clock=time) as sandbox:
        answers = [search(sandbox) for _ in range(6)]
        assert [it.status_code for it in answers] == [200] * 5 + [429]
        assert (answers[5].json()["category"], answers[5].json().get("policyName")) == ("RATE_LIMITS", None)
        for answer in answers:
            assert "x-hubspot-ratelimit-max" not in answer.headers
            assert answer.headers["x-hubspot-ratelimit-daily"] == "625000"
        assert ask(sandbox).headers["x-hubspot-ratelimit-remaining"] == "189"
        time.advance(1)
        assert search(sandbox).status_code == 200


def test_a_public_apps_token_shows_no_daily_headers(time: MovableClock) -> None:
    with Sandbox(clock=time) as sandbox:
        assert "x-hubspot-ratelimit-daily" not in ask(sandbox, "oauth-1").headers
        assert ask(sandbox, "oauth-1").headers["x-hubspot-ratelimit-max"] == "110"
        assert not [name for name in search(sandbox, "oauth-1").headers if name.startswith("x-hubspot-ratelimit")]


def test_event_sends_are_exempt_from_every_limit(small_account: Sandbox) -> None:
    url, headers = f"{small_account.url}/events/2026-09/send", {"Authorization": "Bearer a"}
    for _ in range(7):
        assert httpx2.post(url, json={}, headers=headers, trust_env=False).status_code == 400
    assert ask(small_account).headers["x-hubspot-ratelimit-daily-remaining"] == "4"


def test_the_days_usage_and_the_tokens_scopes_can_be_asked_for(small_account: Sandbox) -> None:
    headers = {"Authorization": "Bearer a"}
    usage = httpx2.get(
        f"{small_account.url}/account-info/2026-09/api-usage/daily/private-apps", headers=headers, trust_env=False
    ).json()["results"][0]
    assert (usage["usageLimit"], usage["currentUsage"], usage["resetsAt"]) == (5, 1, "2027-01-16T05:00:00.000Z")
    small_account.change(scopes=["crm.objects.contacts.read"])
    url = f"{small_account.url}/oauth/v2/private-apps/get/access-token-info"
    info = httpx2.post(url, json={"tokenKey": "a"}, headers=headers, trust_env=False).json()
    assert (info["hubId"], info["scopes"]) == (12345678, ["crm.objects.contacts.read"])
    write = f"{small_account.url}/crm/objects/2026-09/contacts"
    refused = httpx2.post(write, json={"properties": {}}, headers=headers, trust_env=False)
    assert refused.status_code == 403
    assert refused.json()["errors"][0]["context"]["requiredGranularScopes"] == ["crm.objects.contacts.write"]
