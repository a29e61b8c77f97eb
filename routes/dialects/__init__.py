"""What the clients of other services send, and what they read: one file a dialect.

Each holds its bodies, its replies, its error body and its handlers, and nothing else: what they
have in common is in `routes/embed.py`. Importing this package adds their rows to the route table.
"""

import importlib
import pkgutil

for _each in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_each.name}")
