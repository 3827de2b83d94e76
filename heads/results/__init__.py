"""Output of results: tables, rows of results.jsonl, HTML pages."""
