"""The families: one file, one frozen network; `video_llava.py` answers to `video-llava`. Loaded by name only."""
