"""The command line: the dataclasses of the other rooms, read aloud."""
