"""The operator's page: what `sqlalchemy_outbox.operations` tells and does, for a person with a browser.

    page = OperatorPage()
    app.mount("/ops/hubspot", page)
    async with page.serving(integration, Door(operator_token), worker=lambda: host.status):
        ...  # in the application's lifespan

guard ─▶ signed in? ─▶ a view (overview, events, contacts, actions) ─▶ outbox.operations

It holds no SQL, blocks no event loop (views run in threads), and shows what is personal only after a reveal.
"""

from hubspot_sync.page.application import OperatorPage
from hubspot_sync.page.door import Door

__all__ = ["Door", "OperatorPage"]
