"""What the account's admin requires of contacts; HubSpot holds writes to it from version 2026-09 on."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field

from hubspot_sandbox import errors


class ConditionalRule(BaseModel):
    """Contacts whose property `when` is `equals` must have a value in `require`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: str
    equals: str
    require: str


class AccountRules(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    required: tuple[str, ...] = ()
    """What a new contact must have a value in."""
    conditional: tuple[ConditionalRule, ...] = ()
    validations: dict[str, dict[str, tuple[str, ...]]] = Field(default={})
    """Of a property, the arguments of each rule on its values by the rule's type; to be read, none is enforced."""

    def properties(self) -> set[str]:
        """Every property that a rule names."""
        conditional = {name for rule in self.conditional for name in (rule.when, rule.require)}
        return {*self.required, *conditional}

    def check(self, properties: Mapping[str, str], *, is_new: bool) -> None:
        """Refuse a contact that would have these properties."""
        if is_new and (missing := [name for name in self.required if not properties.get(name)]):
            raise errors.required_property_missing("MISSING_REQUIRED_PROPERTY", missing)
        broken = [
            rule.require
            for rule in self.conditional
            if properties.get(rule.when) == rule.equals and not properties.get(rule.require)
        ]
        if broken:
            raise errors.required_property_missing("MISSING_CONDITIONAL_REQUIRED_PROPERTY", broken)
