"""Long-term action anticipation: the segments of the next half of a video from its first 20 or 30 %, scored by MoC."""

from .contract import AnticipationHead as AnticipationHead
from .contract import Batch as Batch
from .contract import Prediction as Prediction
from .contract import future_losses as future_losses
from .contract import normalised as normalised
from .contract import past_loss as past_loss
from .contract import targets as targets
