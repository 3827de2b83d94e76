"""What a model costs: its operations at the sizes of the papers, and its time beside a head."""
