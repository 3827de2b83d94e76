"""Folders of finished trainings, and paired statistics over them."""
