"""Labels, splits, folds and times of the videos in a store: read, write, digest, and splits where none are given.

They lie in `annotations/<name>.jsonl`, apart from the features, so that a label can be corrected without touching a
part; the digest is named in every result.
"""

from .derived import copy_annotations, load
from .groups import Groups, group_of, groups
from .lists import class_list, class_lists
from .names import SPLITS, near_equal_labels, near_equal_warning, require_split
from .rows import Annotation, Annotations, read_annotations, segment, source, write_annotations
from .splits import with_class_split, with_video_split
from .update import Update, update_rows

__all__ = [
    "SPLITS",
    "Annotation",
    "Annotations",
    "Groups",
    "Update",
    "class_list",
    "class_lists",
    "copy_annotations",
    "group_of",
    "groups",
    "load",
    "near_equal_labels",
    "near_equal_warning",
    "read_annotations",
    "require_split",
    "segment",
    "source",
    "update_rows",
    "with_class_split",
    "with_video_split",
    "write_annotations",
]
