"""`check`: the settings here, and a running service, each route of it."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from commands import walk
from commands.findings import Finding
from commands.service_checks import settings
from config.fields import read_dotenv
from tools.answers import Json, say, told
from tools.places import places
from tools.service import HERE, Key, Url, checked_url

EXAMPLES = """\b
examples:
  embedding-service check
  embedding-service check --settings
  embedding-service check --url http://gpu-box:8001 --key emb_...

\b
The exit code is the number of checks that failed, 100 at most. `doctor` looks at the machine.
"""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=EXAMPLES)
def check(
    only_settings: Annotated[
        bool, typer.Option("--settings", help="Check the settings here alone, and no service.")
    ] = False,
    url: Url = HERE,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Check the settings here, and then what a running service promises. Leaves nothing in it."""
    with told(as_json):
        checked_url(url)
    os.environ.update(places({**read_dotenv(Path(".env")), **os.environ}))
    _, _, findings = settings()
    failed = sum(finding.state == "problem" for finding in findings)
    if not as_json:
        for finding in findings:
            print(_line(finding))
    answer: dict[str, Any] = {"settings": [finding.as_dict() for finding in findings]}
    if not only_settings:
        service = walk.Service(url, key)
        found = list(walk.results(service)) if as_json else walk.told(service)
        failed += sum(result.state == "FAIL" for result in found)
        answer["checks"] = [result._asdict() for result in found]
    if as_json:
        say({"failed": failed, **answer}, "", as_json)
    raise typer.Exit(min(failed, 100))


def _line(finding: Finding) -> str:
    mark = {"ok": "ok", "warning": "warn", "problem": "FAIL"}[finding.state]
    return f"{mark:<4}  {finding.name:<36} {'':>10}  {finding.fact}"
