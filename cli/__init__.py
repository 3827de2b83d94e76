"""The command line: its options are made from the settings dataclasses of the other rooms."""
