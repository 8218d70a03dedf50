"""Rules that an admin has set on the values of our properties, which can be read before an event breaks one.

https://developers.hubspot.com/docs/api-reference/latest/crm/property-validations/get-property-validations
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, Field

from hubspot_sync.answer import Answer, parsed
from hubspot_sync.check import Check, warned
from hubspot_sync.client import HubSpotClient
from hubspot_sync.errors import NoAnswer
from hubspot_sync.integration import Integration
from hubspot_sync.limits import call_in_control_slot
from sqlalchemy_outbox.gate.gate import Gate

# HubSpot enforces them on writes by the API from this version on.
_ENFORCED_FROM = "2026-09"
_RULES_SHOWN_MAX = 20
_ARGUMENTS_SHOWN_MAX = 5


def _objects(value: object) -> object:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


def _texts(value: object) -> object:
    return [str(entry) for entry in value[:_ARGUMENTS_SHOWN_MAX]] if isinstance(value, list) else []


class _Rule(BaseModel):
    rule_type: Annotated[str, BeforeValidator(str)] = Field(default="a rule", alias="ruleType")
    arguments: Annotated[list[str], BeforeValidator(_texts)] = Field(default_factory=list, alias="ruleArguments")


class _Ruled(BaseModel):
    name: Annotated[str, BeforeValidator(str)] = Field(default="", alias="propertyName")
    rules: Annotated[list[_Rule], BeforeValidator(_objects)] = Field(
        default_factory=list, alias="propertyValidationRules"
    )


class _RuledList(BaseModel):
    results: Annotated[list[_Ruled], BeforeValidator(_objects)]


async def check_rules(client: HubSpotClient, gate: Gate, integration: Integration) -> list[Check]:
    """The rules that an event of ours may break, and so fail; nothing where there are none, or none is enforced."""
    name = "validation rules"
    version = integration.settings.hubspot_api_version
    if version == "v3" or version < _ENFORCED_FROM:
        return []
    try:
        answer = await call_in_control_slot(gate, client.validation_rules)
    except NoAnswer as error:
        return [warned(name, f"unknown ({error})", "look again")]
    found = parsed(_RuledList, answer.body) if answer.is_success else None
    if found is None:
        return [warned(name, f"unknown ({answer.summary()})", "see in HubSpot which properties have rules")]
    ours = {declared.name for declared in integration.catalog.properties}
    rules = [_in_words(ruled, answer) for ruled in found.results if ruled.name in ours and ruled.rules]
    remedy = "see that our values keep them, or take them off in HubSpot: an event that breaks one fails"
    return [warned(name, "; ".join(rules[:_RULES_SHOWN_MAX]), remedy)] if rules else []


def _in_words(ruled: _Ruled, answer: Answer) -> str:
    return f"{ruled.name}: {', '.join(_words(rule, answer) for rule in ruled.rules)}"


def _words(rule: _Rule, answer: Answer) -> str:
    arguments = " ".join(rule.arguments)
    return answer.shown(f"{rule.rule_type} ({arguments})" if arguments else rule.rule_type)
