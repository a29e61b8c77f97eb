"""`doctor`: looks at everything that a service here depends on, and says what to do."""

import logging
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import typer

from commands import machine_checks as machine
from commands import service_checks as service
from commands.findings import Finding, problem
from config.fields import read_dotenv
from tools.answers import Json, say
from tools.places import places

EXAMPLES = """\b
examples:
  embedding-service doctor
  EMBEDDING_PORT=8080 REDIS_ENABLED=true embedding-service doctor
  embedding-service doctor --json

\b
Reads the environment and .env as the service does, and changes nothing. The exit code is 1 if there
is a problem, 0 with warnings alone.
"""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


@app.command(epilog=EXAMPLES)
def doctor(as_json: Json = False) -> None:
    """Find what is wrong with this machine and the settings, and say what to do."""
    logging.getLogger().addHandler(logging.NullHandler())  # what is found is all that is said
    os.environ.update(places({**read_dotenv(Path(".env")), **os.environ}))
    findings = []
    for finding in look():
        findings.append(finding)
        if not as_json:
            print(f"{finding.state:<8} {finding.name:<16} {finding.fact}", flush=True)
            if finding.do:
                print(f"{'':<25} -> {finding.do}", flush=True)
    count = {state: sum(f.state == state for f in findings) for state in ("problem", "warning")}
    end = f"\n{count['problem']} problems, {count['warning']} warnings"
    facts = [finding.as_dict() for finding in findings]
    say(
        {"problems": count["problem"], "warnings": count["warning"], "findings": facts},
        end,
        as_json,
    )
    raise typer.Exit(1 if count["problem"] else 0)


def look() -> Iterator[Finding]:
    """Yield what each check finds. One that fails is a problem, and the others go on."""
    config, specs, found = service.settings()
    yield from found
    absent: list[str] = []
    checks: dict[str, Callable[[], list[Finding]]] = {
        "Python": machine.python, "packages": machine.packages, "CPU": machine.cpu,
        "memory": machine.memory, "open files": machine.open_files,
        "GPU": lambda: machine.gpu(config.device if config else "auto"),
    }  # fmt: skip
    if config is not None:

        def models() -> list[Finding]:
            found, names = service.models(config, specs)
            absent.extend(names)
            return found

        checks |= {
            "access": lambda: service.access(config),
            "models": models,
            "hub": lambda: service.hub_reached(absent),
            "folders": lambda: service.folders(config, absent),
            "ports": lambda: service.ports(config),
            "database": lambda: service.database(config),
            "vector store": lambda: service.store(config),
            "Redis": lambda: service.redis(config),
        }
    for name, check in checks.items():
        try:
            yield from check()
        except Exception as exc:
            fact = f"could not be looked at ({type(exc).__name__}: {exc})"
            yield problem(name, fact[:300], "please report this")
