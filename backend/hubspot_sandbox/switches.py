"""What nobody outside HubSpot knows, one switch each; a client should be right either way.

The defaults are the likelier reading.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict


class Switches(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    identical_write_bumps_lastmodifieddate: bool = False
    """Whether writing what is already there counts as a modification."""
    echo_trace_ids: bool = True
    """Whether results repeat `objectWriteTraceId`."""
    trace_ids_split_upserts: bool = True
    """Whether a batch upsert with trace ids is answered row by row; documented for batch create only."""
    email_conflict: Literal["conflict", "coordinates"] = "conflict"
    """How an address of another contact is refused when a contact is addressed by a custom key: 409 or 400."""
    empty_email: Literal["clears", "refused"] = "clears"
    """What an empty text written to `email` does: it takes the primary address away, or is 400 VALIDATION_ERROR."""
    former_email: Literal["dropped", "secondary"] = "dropped"
    """What becomes of a primary address that another one, or none, takes the place of."""
    merged_away_keys: Literal["freed", "kept"] = "freed"
    """Whether a key that only the losing contact of a merge had can be given to another contact."""
    merged_away_records: Literal["missing", "redirected"] = "missing"
    """What the record id of a contact that was merged away leads to: nothing, or the contact that was made of it."""
    gdpr_delete: Literal["allowed", "forbidden", "refused"] = "allowed"
    """What a GDPR deletion is answered where the account has it off: 403 FORBIDDEN, or 400 VALIDATION_ERROR."""
    gdpr_delete_of_archived: bool = True
    """Whether an archived contact can be erased by its record id, or is not found."""
    erased_record: Literal["missing", "emptied"] = "missing"
    """How the record id of an erased contact reads: not found, or as a contact without a property."""
    write_to_archived_email: Literal["new", "restore"] = "new"
    """What a create or upsert with the address of an archived contact makes: a new contact, or that one restored."""
    missing_scopes_in: Literal["errors", "context"] = "errors"
    """Where a 403 names the missing scopes; both have been seen."""
    retry_after_on_throttle: bool = False
    """Whether a 429 of the ten-second or search limit carries Retry-After."""
    search_policy_name: bool = False
    """Whether a search's 429 has `policyName: SECONDLY`, as in older recordings."""
    duplicate_event: Literal["accepted", "refused"] = "accepted"
    """What a custom event with a uuid seen before gets: 204 and no second occurrence, or 400."""
    bad_event_in_batch: Literal["refuses_all", "dropped"] = "refuses_all"
    """What one bad event does to a batch of them: 400 for all, or 204 and it alone is lost."""
    event_creates_contact: bool = False
    """Whether an event for an address nobody has creates a contact."""
