"""What extraction and training must agree on, in pure functions: episodes, K-shot lists, filled-in prompts."""

from .episodes import Episode, EpisodeList, EpisodeSpec, draw_episode
from .prompts import fill_prompt, option_list, prompt_fields, prompt_id, spoken
from .shots import k_shot

__all__ = [
    "Episode",
    "EpisodeList",
    "EpisodeSpec",
    "draw_episode",
    "fill_prompt",
    "k_shot",
    "option_list",
    "prompt_fields",
    "prompt_id",
    "spoken",
]
