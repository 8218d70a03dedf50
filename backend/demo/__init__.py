"""The main job on real traffic, proven: drivers act, HubSpot fails on the way, and an audit compares both ends.

script (evening or a CSV of sessions) ─▶ play ─▶ application ─▶ outbox ─▶ worker ─▶ sandbox
                                                      │                                │
                                                   ledger ─────────▶ audit ◀─────── contacts
"""
