"""Which folders a change of the settings may load a model from.

What the service is started with may be anywhere. Who may only change settings reads no other
folders of the machine by it: else errors would tell what is in them.
"""

import os
from pathlib import Path

from config import Config
from errors import Invalid


def check_folder(name: str, start: Config) -> None:
    """Raise Invalid if `name` is a folder that only the start's configuration may name."""
    if any(name in spec.names for spec in start.catalogue()[0]):
        return
    path_like = name.startswith(("/", ".", "~")) or "\\" in name or ".." in Path(name).parts
    if not path_like and not os.path.isdir(name):
        return
    from huggingface_hub import constants

    roots = (*start.model_dirs, start.model_cache_dir or constants.HF_HUB_CACHE)
    try:
        place = Path(os.path.realpath(name))
    except (OSError, ValueError):  # a link that may not be read, as /proc/1/root; a NUL
        place = Path()
    if not any(place.is_relative_to(os.path.realpath(os.path.expanduser(root))) for root in roots):
        raise Invalid(
            "model_name: a folder may be chosen while the service runs only in those of MODEL_DIRS "
            "or the model cache; add it there or to model_config.json and start again. Nothing was "
            "changed",
            param="model_name",
        )
