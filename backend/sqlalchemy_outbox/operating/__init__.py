"""What a person may see and do, for a command line and a page."""
