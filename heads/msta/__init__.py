"""MSTA: adapters in the upper blocks of both ViCLIP towers, trained from cached tokens of the block below."""
