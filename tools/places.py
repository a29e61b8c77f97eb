"""Where the service's code and data are, whatever folder a command is started in."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

ROOT = Path(__file__).resolve().parent.parent  # as the working folder is told: without links
NAME = "embedding-service"


def version() -> str:
    """Return the service's version: the top heading of the change log."""
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    found = re.search(r"^## (\S+)", changes, re.MULTILINE)
    return found[1] if found else "unknown"


def home(environ: Mapping[str, str | None]) -> Path:
    """Return the folder of the service's data.

    That is `DATA_DIR`, else `data` where the code lies here or such a folder is here already, else
    the user's own folder of data (`XDG_DATA_HOME`, or `~/.local/share`).
    """
    if given := environ.get("DATA_DIR"):
        return Path(given)
    here = Path("data")
    if here.is_dir() or Path.cwd() == ROOT:
        return here
    above = environ.get("XDG_DATA_HOME") or ""
    # A relative one is to be ignored, says the XDG Base Directory Specification.
    share = Path(above) if os.path.isabs(above) else Path.home() / ".local" / "share"
    return share / NAME


def within(data: Path) -> dict[str, str]:
    """Return the variables that put everything that the service stores into one folder."""
    return {
        "DATA_DIR": str(data),
        "STORE_DIR": str(data / "store"),
        "EMBEDDING_DB_URL": f"sqlite:///{quote(str(data / 'service.db'))}",
    }


def places(environ: Mapping[str, str | None]) -> dict[str, str]:
    """Return variables that `environ` lacks, so that each command finds the same data and models.

    In the folder of the code there are none: the settings' own defaults lead to `data` in it.
    """
    if Path.cwd() == ROOT:
        return {}
    found = within(home(environ))
    if not Path("model_config.json").is_file():
        found["MODEL_CONFIG"] = str(ROOT / "model_config.json")
    given = {name for name in environ if environ[name]}
    given |= {name.removesuffix("_FILE") for name in given if name.endswith("_FILE")}
    return {name: value for name, value in found.items() if name not in given}
