#!/usr/bin/env bash
# SQLAlchemy 2.0 opens an SQLite file for writing although its URL says `?mode=ro`, without a word; 2.1 warns.
#
# SQLAlchemy 2.0.44 and 2.1.9. Guess: the file is opened read-only, or the URL is refused, by both. Seen: without `uri=true`
# the option is left out, and what was to be read only is written.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
seen=""
for version in 2.0.44 2.1.9; do
  python3 -m venv "$folder/$version"
  "$folder/$version/bin/pip" install --quiet --disable-pip-version-check "SQLAlchemy==$version"
  said=$("$folder/$version/bin/python" - "$folder/$version.db" <<'PY'
import sys
import warnings

from sqlalchemy import create_engine, text

with warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    with create_engine(f"sqlite:///{sys.argv[1]}?mode=ro").begin() as connection:
        connection.execute(text("CREATE TABLE written (id INTEGER)"))
print("written,", "with a warning" if warned else "without a word")
PY
)
  echo "SQLAlchemy $version: $said"
  seen="$seen$version $said; "
done
if [ "$seen" != "2.0.44 written, without a word; 2.1.9 written, with a warning; " ]; then
  echo "the behaviour has changed"
  exit 1
fi
