"""Found by the interpreters of a test's service: its model process then holds hurting models.

Python imports this at its start, by its name. What else a service starts is as it always is.
"""

import os
import sys
from pathlib import Path

if "serving.model_process" in sys.orig_argv:
    import numpy as np

    import embedders
    from embedders.base import Encoded, Item
    from serving.model_process import folder
    from tests.faults.hurting import Hurting, build

    class Greedy(Hurting):
        """Obeys `greedy` too: it asks the system for more memory than there is."""

        def encode(self, items: list[Item], deadline: float | None = None) -> Encoded:
            if any("greedy" in str(item.payload).split() for item in items):
                np.ones(1 << 50)
            return super().encode(items, deadline)

    def greedy(*given: object) -> Greedy:
        build(*given)  # obeys what is said of a load
        return Greedy()

    embedders.EMBEDDERS["fake"] = greedy
    if version := os.environ.get("VERSION_FILE"):  # what an upgrade changes
        _version = Path(version).read_text()
        folder.code_version = lambda: _version
