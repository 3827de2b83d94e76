"""The parts of VidPrism: aggregation, interaction, experts and their combination, losses, and the released weights."""
