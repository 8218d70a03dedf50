#!/usr/bin/env bash
# A remark behind a phone number, like "(work)", is read as digits of the number, and where a country's numbers vary in
# length the longer number is valid.
#
# phonenumbers 9.0.43. Guess: the remark is left out, or the text is refused; letters are digits only in numbers that are
# spelled with them, like 1-800-FLOWERS.
# Seen: "+49 30 123456 (work)" is +49301234569675, a valid number; "+49 30 123456" is one too.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "phonenumbers==9.0.43"
"$folder/venv/bin/python" - <<'PY'
import phonenumbers

seen = {}
for text in ("+49 30 123456", "+49 30 123456 (work)", "+43 1 23456 (home)"):
    number = phonenumbers.parse(text)
    written = phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)
    seen[text] = (written, phonenumbers.is_valid_number(number))
    print(f"{text!r} is {written}, valid: {seen[text][1]}")
if seen != {
    "+49 30 123456": ("+4930123456", True),
    "+49 30 123456 (work)": ("+49301234569675", True),
    "+43 1 23456 (home)": ("+431234564663", True),
}:
    raise SystemExit("the behaviour has changed")
PY
