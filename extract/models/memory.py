"""Running out of memory: what is freed before another try, and what a model that does not fit is told."""

from __future__ import annotations

import torch

from vfc.cache_schema.values.errors import Refused, first_line, is_out_of_memory
from vfc.extract.backbone import Backbone


def load_model(backbone: Backbone, device: torch.device) -> None:
    """Load the weights of a model.

    Raises:
        Refused: memory cannot hold them.
        VfcError: see `Backbone.load`.
    """
    try:
        backbone.load()
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        other = "" if device.type == "cpu" else ", or --device cpu, which takes the memory of the machine"
        raise Refused(
            f"Out of memory while the model is loaded to {device}: {first_line(error)}",
            "Give --compute-dtype bf16 (half of fp32), a lower --layer (blocks above the highest are not loaded), a "
            f"smaller --checkpoint{other}. Another dtype, layer or checkpoint needs another --out.",
        ) from error
