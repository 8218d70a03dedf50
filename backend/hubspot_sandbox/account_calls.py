"""The account itself: its details, what is left of its limits, and what a token may do."""

from hubspot_sandbox import errors
from hubspot_sandbox.account import Account
from hubspot_sandbox.call import Call
from hubspot_sandbox.wire import Answer, TokenInfo, iso, read_body

USER_ID = 1001
APP_ID = 2002


def account_details(account: Account, call: Call) -> Answer:
    offset = account.utc_offset()
    hours, minutes = divmod(abs(int(offset.total_seconds())) // 60, 60)
    sign = "-" if offset.total_seconds() < 0 else "+"
    body = {
        "portalId": account.settings.portal_id,
        "accountType": "DEVELOPER_TEST",
        "timeZone": account.settings.time_zone,
        "companyCurrency": "USD",
        "additionalCurrencies": [],
        "utcOffset": f"{sign}{hours:02}:{minutes:02}",
        "utcOffsetMilliseconds": int(offset.total_seconds() * 1000),
        "uiDomain": "app.hubspot.com",
        "dataHostingLocation": "na1",
    }
    if "/2026-09/" in call.path:
        body |= {"portalName": "Sandbox", "createdAt": iso(account.created_at)}
    return Answer(200, body)


def daily_usage(account: Account, _: Call) -> Answer:
    now = account.clock()
    remaining = account.daily_limit.remaining(now)
    usage = {
        "name": "private-apps-api-calls-daily",
        "usageLimit": account.daily_limit.maximum,
        "currentUsage": account.daily_limit.maximum - remaining,
        "collectedAt": iso(now),
        "fetchStatus": "SUCCESS",
        "resetsAt": iso(account.daily_limit.resets_at(now)),
    }
    return Answer(200, {"results": [usage]})


def token_info(account: Account, call: Call) -> Answer:
    token = read_body(TokenInfo, call.body).token_key
    if not account.accepts(token):
        raise errors.unauthenticated()
    body = {"userId": USER_ID, "hubId": account.settings.portal_id, "appId": APP_ID}
    return Answer(200, {**body, "scopes": sorted(account.settings.scopes)})
