"""Run folders, and paired statistics over finished runs."""
