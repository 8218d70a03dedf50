"""The properties that every HubSpot account has from its first day, as far as contacts need them."""

from collections.abc import Mapping

from hubspot_sandbox.properties import ContactSchema, PropertyDefinition, PropertyGroup
from hubspot_sandbox.wire import Option


def standard_schema(now: float) -> ContactSchema:
    """The schema of a fresh account: HubSpot's own properties and nobody else's."""
    group = PropertyGroup("contactinformation", "Contact information", 0)

    def standard(
        name: str,
        label: str,
        property_type: str = "string",
        field_type: str = "text",
        options: Mapping[str, str] | None = None,
        *,
        read_only: bool = False,
    ) -> PropertyDefinition:
        listed = (options or {}).items()
        return PropertyDefinition(
            name,
            label,
            property_type,
            field_type,
            group.name,
            now,
            now,
            options=tuple(Option(label=text, value=value, display_order=i) for i, (value, text) in enumerate(listed)),
            hubspot_defined=True,
            read_only_value=read_only,
        )

    return ContactSchema(
        [
            standard("email", "Email"),
            standard("hs_additional_emails", "Additional email addresses"),
            standard("firstname", "First name"),
            standard("lastname", "Last name"),
            standard("phone", "Phone number", field_type="phonenumber"),
            standard("mobilephone", "Mobile phone number", field_type="phonenumber"),
            standard("company", "Company name"),
            standard("jobtitle", "Job title"),
            standard("website", "Website URL"),
            standard("address", "Street address"),
            standard("city", "City"),
            standard("state", "State/Region"),
            standard("zip", "Postal code"),
            standard("country", "Country/Region"),
            standard("hubspot_owner_id", "Contact owner"),
            standard("hs_lead_status", "Lead status", "enumeration", "radio", _LEAD_STATUSES),
            standard("lifecyclestage", "Lifecycle stage", "enumeration", "radio", _LIFECYCLE_STAGES),
            standard("createdate", "Create date", "datetime", "date", read_only=True),
            standard("lastmodifieddate", "Last modified date", "datetime", "date", read_only=True),
            standard("hs_object_id", "Record ID", "number", "number", read_only=True),
            standard("hs_email_domain", "Email domain", read_only=True),
            standard("hs_merged_object_ids", "Merged record IDs", read_only=True),
        ],
        [group],
    )


_LIFECYCLE_STAGES = {
    "subscriber": "Subscriber",
    "lead": "Lead",
    "marketingqualifiedlead": "Marketing qualified lead",
    "salesqualifiedlead": "Sales qualified lead",
    "opportunity": "Opportunity",
    "customer": "Customer",
    "evangelist": "Evangelist",
    "other": "Other",
}
_LEAD_STATUSES = {
    "NEW": "New",
    "OPEN": "Open",
    "IN_PROGRESS": "In progress",
    "CONNECTED": "Connected",
    "UNQUALIFIED": "Unqualified",
}
