"""The environment of TEI's and of Infinity's container, read as settings of this service.

TEI's names are read only where `MODEL_ID` is set, and Infinity's only where `INFINITY_MODEL_ID` is:
alone, `API_KEY` or `REVISION` may be anybody's. `HOSTNAME` and `OLLAMA_HOST` are never read: every
container has the one, and neighbours set the other. A name of our own wins over one of theirs. What
cannot be honoured stops the start. docs/clients.md has every name in one table.
"""

import argparse
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import SecretStr

from config.access import check_key
from config.fields import ConfigError

log = logging.getLogger("config")

Values = Mapping[str, Any]
Reader = Callable[[str], Values]  # fields of `Config` or of a model's entry; raises ValueError
TRUE, FALSE = ("true", "1", "yes", "y", "on", "t"), ("false", "0", "no", "n", "off", "f")
OUR_MODELS = ("EMBEDDING_MODEL", "EMBEDDING_MODEL_NAME", "SUPPORTED_MODELS")
OUR_PORTS = ("EMBEDDING_PORT", "EMBEDDINGS_PORT", "PORT")
# Where the image of each model's name listens: the variable that says it, and the port without one.
PORTS = {"MODEL_ID": ("AIP_HTTP_PORT", "80"), "INFINITY_MODEL_ID": ("INFINITY_PORT", "7997")}
# SageMaker starts an image with the word `serve`, and TEI's then reads these.
SAGEMAKER = {"HF_MODEL_ID": "MODEL_ID", "HF_MODEL_REVISION": "REVISION"}
SAGEMAKER_PORT = "8080"
# TEI's image keeps models here, and ours what it stores.
VOLUME = "/data"
CACHES = ("EMBEDDING_MODEL_CACHE_DIR", "HUGGINGFACE_HUB_CACHE", "HF_HUB_CACHE")


class Theirs(NamedTuple):
    """What a rival's environment says: fields of `Config`, and the name that each has there."""

    values: dict[str, Any]
    given: dict[str, str]


# -- how a value of theirs is read -----------------------------------------------------------------


def _as(field: str) -> Reader:
    """Return a reader for a name that means what a field means."""
    return lambda text: {field: text}


def _of(words: Mapping[str, Values], why: str = "") -> Reader:
    """Return a reader for a name with these values; others are refused, with the reason `why`."""
    known = {word.lower(): values for word, values in words.items()}

    def read(text: str) -> Values:
        if text.lower() not in known:
            raise ValueError(f"it must be {' or '.join(words)}{why and f': {why}'}")
        return known[text.lower()]

    return read


def _flag(yes: Values, no: Values) -> Reader:
    """Return a reader for true and false."""
    return _of({**dict.fromkeys(TRUE, yes), **dict.fromkeys(FALSE, no)})


def _only(*words: str, why: str) -> Reader:
    """Return a reader for a name of which only these values can be honoured."""
    return _of(dict.fromkeys(words, {}), why)


def _refused(why: str) -> Reader:
    def read(text: str) -> Values:
        raise ValueError(why)

    return read


def _no_effect(text: str) -> Values:
    """Read a name that says how the other service does its work, and changes no result."""
    return {}


def _key(text: str) -> Values:
    """Read the one key that every request must bear; `/metrics` needs none there."""
    check_key("the key", SecretStr(text))
    return {"auth_enabled": True, "api_key_secret": text, "metrics_public": True}


def _requests_at_once(text: str) -> Values:
    """Read how many requests may run: of the threads one in eight stays free for refusals."""
    if not text.isdecimal() or not 1 <= int(text) <= 3584:
        raise ValueError("it must be 1 to 3584")
    most = int(text)
    return {"threads": next(n for n in range(most + 1, 4097) if n - max(1, n // 8) == most)}


def _metrics_port(text: str) -> Values:
    return {"enable_metrics": True, "metrics_port": text, "metrics_host": "0.0.0.0"}  # nosec B104


def _prompt(text: str) -> Values:
    return {"prompts": {"default": text}, "default_prompt_name": "default"}


def _devices(text: str) -> Values:
    """Read Infinity's numbers of GPUs, such as `0,1`."""
    numbers = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in numbers):
        raise ValueError("it must be the numbers of GPUs, such as 0,1")
    found = tuple(f"cuda:{part}" for part in numbers)
    return {"device": found[0]} if len(found) == 1 else {"devices": found}


# -- the names -------------------------------------------------------------------------------------

# Names of TEI's that are names of ours too, and mean the same.
SAME = ("DTYPE", "HF_API_TOKEN", "HF_TOKEN", "MAX_BATCH_TOKENS", "PORT")
MEAN, FIRST = {"pooling": "mean"}, {"pooling": "cls"}
TEI: Mapping[str, Reader] = {
    "API_KEY": _key,
    "AUTO_TRUNCATE": _flag({"truncate": "right"}, {"truncate": "error"}),
    "CORS_ALLOW_ORIGIN": _as("cors_origins"),
    "DENSE_PATH": _only("2_Dense", why="the Dense layers are those that modules.json names"),
    "DISABLE_SPANS": _no_effect,
    "HUGGINGFACE_HUB_CACHE": _as("model_cache_dir"),
    "JSON_OUTPUT": _flag({"log_format": "json"}, {"log_format": "line"}),
    "MAX_BATCH_REQUESTS": _as("max_batch_size"),
    "MAX_CLIENT_BATCH_SIZE": _as("max_texts"),
    "MAX_CONCURRENT_REQUESTS": _requests_at_once,
    "OTLP_ENDPOINT": _refused(
        "traces are sent over HTTP here, not gRPC: set OTEL_ENABLED=true and "
        "OTEL_EXPORTER_OTLP_ENDPOINT=http://host:4318, and leave this out"
    ),
    "OTLP_SERVICE_NAME": _as("otel_service_name"),
    "PAYLOAD_LIMIT": _as("max_request_bytes"),
    "PROMETHEUS_PORT": _metrics_port,
    "TASK": _no_effect,
    "TOKENIZATION_WORKERS": _no_effect,
    "UDS_PATH": _no_effect,
}
TEI_MODEL: Mapping[str, Reader] = {
    "DEFAULT_PROMPT": _prompt,
    "DEFAULT_PROMPT_NAME": _as("default_prompt_name"),
    "POOLING": _of(
        {"cls": FIRST, "mean": MEAN, "last-token": {"pooling": "lasttoken"},
         "splade": {"type": "sparse"}}
    ),
    "REVISION": _as("revision"),
    "SERVED_MODEL_NAME": _as("id"),
}  # fmt: skip

INFINITY: Mapping[str, Reader] = {
    "API_KEY": _key,
    "HOST": _as("host"),
    "LOG_LEVEL": lambda text: {"log_level": "DEBUG" if text.lower() == "trace" else text},
    "PERMISSIVE_CORS": _flag({"cors_origins": "*"}, {"cors_origins": ()}),
    "PORT": _as("port"),
    "PRELOAD_ONLY": _only(*FALSE, why="this service stays up; models load once, at the start"),
    "PROXY_ROOT_PATH": _refused("this service answers at / only; leave it out"),
    "QUEUE_SIZE": _no_effect,
    "REDIRECT_SLASH": _no_effect,
    "URL_PREFIX": _only("/", "/v1", why="/embeddings and /v1/embeddings are both served"),
}  # fmt: skip
INFINITY_MODEL: Mapping[str, Reader] = {
    "BATCH_SIZE": _as("max_batch_size"),
    "BETTERTRANSFORMER": _no_effect,
    "COMPILE": _no_effect,
    "DEVICE": _of(
        {"auto": {}, "cpu": {"device": "cpu"}, "cuda": {"device": "cuda"},
         "mps": {"device": "mps"}}, "there is nothing for others here"
    ),
    "DEVICE_ID": _devices,
    "DTYPE": _of(
        {"auto": {}, "bfloat16": {"dtype": "bfloat16"}, "float16": {"dtype": "float16"},
         "float32": {"dtype": "float32"}, "int8": {"dtype": "int8"}}, "there are no others here"
    ),
    "EMBEDDING_DTYPE": _only("float32", why="each request says it here, by output_dtype"),
    "ENGINE": _of({"torch": {}, "optimum": {"backend": "onnx"}}, "there are no others here"),
    "LENGTHS_VIA_TOKENIZE": _no_effect,
    "MODEL_WARMUP": _no_effect,
    "POOLING_METHOD": _of({"auto": {}, "cls": FIRST, "mean": MEAN}),
    "REVISION": _as("revision"),
    "SERVED_MODEL_NAME": _as("id"),
    "TRUST_REMOTE_CODE": _no_effect,
    "VECTOR_DISK_CACHE": _no_effect,
}  # fmt: skip
# What Infinity's clients call the only model.
NO_NAME = "default/not-specified"


def names() -> set[str]:
    """Return every name of theirs that is read where their model's name is."""
    ours = {"MODEL_ID", *TEI, *TEI_MODEL}
    return ours | {f"INFINITY_{name}" for name in ("MODEL_ID", *INFINITY, *INFINITY_MODEL)}


# -- an environment --------------------------------------------------------------------------------


def read(environ: Mapping[str, str | None]) -> Theirs:
    """Return what TEI's or Infinity's environment says; nothing where neither names a model.

    Raises ConfigError with everything that cannot be honoured.
    """
    set_here = {name: value for name, value in environ.items() if value and value.strip()}
    chosen = [name for name in PORTS if name in set_here]
    if not chosen:
        return Theirs({}, {})
    clash = [name for name in OUR_MODELS if name in set_here]
    if len(chosen) + len(clash) > 1:
        raise ConfigError([f"{' and '.join(chosen + clash)} all name models; set one of them"])
    problems: list[str] = []
    if chosen == ["MODEL_ID"]:
        theirs = _of_tei(set_here, problems)
    else:
        theirs = _of_infinity(set_here, problems)
    on = (set_here.get(name, "").strip().lower() for name in ("AUTH_ENABLED", "REQUIRE_AUTH"))
    if "auth_enabled" in theirs.values and any(word in FALSE for word in on):
        key = theirs.given["auth_enabled"]
        problems.append(f"{key} asks for a key and AUTH_ENABLED=false for none; leave one out")
    if problems:
        raise ConfigError(problems)
    return theirs


def _of_tei(environ: Mapping[str, str], problems: list[str]) -> Theirs:
    if "DEFAULT_PROMPT" in environ and "DEFAULT_PROMPT_NAME" in environ:
        problems.append("DEFAULT_PROMPT and DEFAULT_PROMPT_NAME both say the prompt; set one")
    name = environ["MODEL_ID"].strip()
    entry = {"id": name, "model_name": name}
    for their, reader in TEI_MODEL.items():
        entry |= _value(their, environ.get(their), reader, problems)
    found = _fields(TEI, "", environ, problems)
    # A container of TEI has one model and serves it by whatever name.
    found.values.update(given_models=(entry,), unknown_model="default")
    found.given.update(given_models="MODEL_ID")
    return found


def _of_infinity(environ: Mapping[str, str], problems: list[str]) -> Theirs:
    models = list(filter(None, _items(environ["INFINITY_MODEL_ID"])))
    entries: list[dict[str, Any]] = [{"id": name, "model_name": name} for name in models]
    if not models:
        raise ConfigError(["INFINITY_MODEL_ID: it names no model"])
    for name, reader in INFINITY_MODEL.items():
        their = f"INFINITY_{name}"
        values = _items(environ.get(their, ""))
        if len(values) not in (0, 1, len(models)):
            problems.append(
                f"{their}: it has {len(values)} values for {len(models)} models; give one, or one "
                "for each, with ; between them"
            )
            continue
        for entry, value in zip(
            entries, values * (len(models) // len(values or models)), strict=False
        ):
            if name == "DEVICE_ID" and entry.get("device") in ("cpu", "mps"):
                continue  # of these there is one
            entry.update(_value(their, value, reader, problems))
    known = {*names(), "INFINITY_MODEL_ID"}
    for their in sorted(name for name in environ if name.startswith("INFINITY_")):
        if their not in known:
            log.warning("%s is set and not read: it is no setting that this service knows", their)
    entries[0]["aliases"] = (NO_NAME,)
    found = _fields(INFINITY, "INFINITY_", environ, problems)
    found.values.update(given_models=tuple(entries))
    found.given.update(given_models="INFINITY_MODEL_ID")
    return found


def _items(text: str) -> list[str]:
    """Return the values of a list with `;` between them, and perhaps after the last."""
    return [part.strip() for part in text.removesuffix(";").split(";")] if text else []


def _fields(
    readers: Mapping[str, Reader], start: str, environ: Mapping[str, str], problems: list[str]
) -> Theirs:
    found = Theirs({}, {})
    for name, reader in readers.items():
        their = start + name
        values = _value(their, environ.get(their), reader, problems)
        found.values.update(values)
        found.given.update(dict.fromkeys(values, their))
    return found


def _value(their: str, text: str | None, reader: Reader, problems: list[str]) -> Values:
    """Return what a value of theirs means; note a problem where it cannot be honoured."""
    if not text:
        return {}
    if reader is not _prompt:  # a blank at its end counts
        text = text.strip()
    if reader is _no_effect:
        log.info("%s has no effect here (docs/clients.md)", their)
    try:
        return reader(text)
    except ValueError as exc:
        shown = "" if reader is _key else f"={text[:80]}"
        problems.append(f"{their}{shown}: {exc}")
        return {}


# -- TEI's command line ----------------------------------------------------------------------------


class _Once(argparse.Action):
    """Stores a value, and refuses a second one."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any,
        option_string: str | None = None,
    ) -> None:  # fmt: skip
        if getattr(namespace, self.dest) is not None:
            raise argparse.ArgumentError(self, "it is given more than once; give it once")
        setattr(namespace, self.dest, values)


def flags() -> argparse.ArgumentParser:
    """Return what reads TEI's flags; each is stored under the name that it has in an environment.

    So a flag wins over the variable of its name, and a name of our own over it, but for the three
    flags that are stored under the first of our names.
    """
    parser = argparse.ArgumentParser(
        prog="serve", allow_abbrev=False, argument_default=None,
        epilog="Every other flag is gunicorn's: gunicorn --help lists them.",
    )  # fmt: skip
    also = {"HOSTNAME": "EMBEDDING_HOST", "PORT": "EMBEDDING_PORT", "DTYPE": "EMBEDDING_DTYPE"}
    for name in sorted({"MODEL_ID", "HOSTNAME", *SAME, *TEI, *TEI_MODEL} - {"TASK"}):
        words = ["--" + name.lower().replace("_", "-"), *(["-p"] if name == "PORT" else [])]
        kind: dict[str, Any] = {"dest": also.get(name, name), "metavar": name, "action": _Once}
        if name in ("AUTO_TRUNCATE", "DISABLE_SPANS", "JSON_OUTPUT"):
            kind |= {"nargs": "?", "const": "true"}
        if name == "CORS_ALLOW_ORIGIN":
            kind["action"] = "append"
        parser.add_argument(*words, **kind)
    return parser


def environment(arguments: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """Return TEI's flags as environment variables, and the arguments that are not TEI's."""
    found, others = flags().parse_known_args(arguments)
    given = {name: value for name, value in vars(found).items() if value is not None}
    lists = {name: ",".join(value) for name, value in given.items() if isinstance(value, list)}
    return given | lists, others


def started(
    environ: Mapping[str, str | None], arguments: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Return what an image adds to its environment, and the arguments that are not TEI's.

    `environ` is without the addresses that Kubernetes puts there. Where none is set the port, and
    the place of the models, are those of the image whose model's name is given: what reaches that
    one reaches this one. The first argument may be the word that starts another image.
    Raises ConfigError for flags that mean nothing without a model.
    """
    word = arguments[0] if arguments else ""
    if word == "v2":
        raise ConfigError(
            ["v2: Infinity's command line is not read; set its variables, as INFINITY_MODEL_ID"]
        )
    given = arguments[1:] if word in ("serve", "text-embeddings-router") else arguments
    found, others = environment(given)
    if word == "serve" and not {**environ, **found}.get("MODEL_ID"):
        found |= {name: text for at, name in SAGEMAKER.items() if (text := environ.get(at))}
    whole = {**environ, **found}
    only_with_a_model = sorted(found.keys() & {*TEI, *TEI_MODEL})
    if only_with_a_model and not whole.get("MODEL_ID"):
        named = ", ".join("--" + name.lower().replace("_", "-") for name in only_with_a_model)
        raise ConfigError([f"{named}: --model-id is missing, which TEI's flags need"])
    ports = [whole.get(name) for name in OUR_PORTS]
    ports += [SAGEMAKER_PORT] if word == "serve" else []
    for name, (variable, port) in PORTS.items():
        ports += [whole.get(variable), port] if whole.get(name) else []
    if chosen := next(filter(None, ports), None):
        found["EMBEDDING_PORT"] = chosen
    of_tei = whole.get("MODEL_ID") and whole.get("DATA_DIR") == VOLUME
    if of_tei and not any(map(whole.get, CACHES)):
        found["HUGGINGFACE_HUB_CACHE"] = VOLUME
    return found, others
