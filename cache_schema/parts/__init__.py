"""One part of a store on disk: its files, how they are written, mapped and read."""
