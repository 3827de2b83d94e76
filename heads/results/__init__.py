"""What a result looks like: tables, rows of results.jsonl, the HTML page."""
