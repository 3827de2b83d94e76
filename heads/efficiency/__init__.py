"""What a head costs: parameters, FLOPs, time and memory."""
