"""Keys, records, recipes, dtypes, errors, progress: what every room of the store passes on."""
