"""Checks a running service: `python test_client.py [http://localhost:8001]`.

Prints a line for each check; the exit code is the number of those that failed. Set
EMBEDDING_API_KEY if the service asks for a key. Leaves nothing in the service.
`embedding-service check` does the same, and looks at the settings too.
"""

import argparse
import os
import sys

from commands.walk import Service, told

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Check a running embedding service.")
    parser.add_argument("url", nargs="?", default="http://localhost:8001", help="(%(default)s)")
    url = parser.parse_args().url
    if not url.startswith(("http://", "https://")):
        parser.error(f"{url}: it needs http:// or https://, as in http://localhost:8001")
    found = told(Service(url, os.environ.get("EMBEDDING_API_KEY")))
    sys.exit(min(sum(result.state == "FAIL" for result in found), 100))
