"""Makes calls with client libraries, and prints what each gave as JSON.

`python run.py of_openai of_cohere` makes every call of these files, in one process: what
importing the libraries costs is paid once. Standard input says where the service is and what to
send. This runs in a virtual environment of its own, without anything of the service.
"""

import importlib
import inspect
import json
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

sys.path.insert(0, os.path.dirname(__file__))


def plain(value: Any) -> Any:
    """Turn what a library gives into something that JSON has."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if hasattr(value, "model_dump"):
        return value.model_dump()
    raise TypeError(type(value).__name__)


def calls_of(module: ModuleType) -> dict[str, Callable[[SimpleNamespace], Any]]:
    """Return the public functions of a file, by name."""
    return {
        name: function
        for name, function in vars(module).items()
        if inspect.isfunction(function)
        and function.__module__ == module.__name__
        and not name.startswith("_")
    }


def refusal(call: Callable[[], Any]) -> dict[str, Any]:
    """Return the exception that a call ends with: the names of its classes, and what it says."""
    try:
        given = call()
    except Exception as exc:
        names = [f"{kind.__module__.split('.')[0]}.{kind.__name__}" for kind in type(exc).__mro__]
        body = getattr(exc, "body", None) or getattr(exc, "response", "")
        said = f"{exc} {getattr(body, 'text', body)}"
        return {"kinds": names, "says": said, "status": getattr(exc, "status_code", None)}
    return {"kinds": [], "says": f"it was not refused: {given!r:.200}", "status": None}


def too_often(call: Callable[[], Any]) -> dict[str, Any]:
    """Return the exception of a call that sends what a minute allows, made once or twice."""
    first = refusal(call)
    return first if first["kinds"] else refusal(call)


def main() -> None:
    """Make the calls."""
    warnings.simplefilter("ignore")
    given = SimpleNamespace(**json.load(sys.stdin), refusal=refusal, too_often=too_often)
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is not the answer
    answers: dict[str, Any] = {}
    for name in sys.argv[1:]:
        try:
            module = importlib.import_module(name)
        except Exception:
            answers[name] = {"failed": traceback.format_exc()}
            continue
        for call, function in calls_of(module).items():
            try:
                answers[f"{name}.{call}"] = {"gave": function(given)}
            except Exception:
                answers[f"{name}.{call}"] = {"failed": traceback.format_exc()}
    json.dump(answers, out, default=plain)
    out.close()
    os._exit(0)  # some libraries leave threads that would be waited for


if __name__ == "__main__":
    main()
