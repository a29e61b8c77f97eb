"""The control of lint-rules.yml: each rule finds what it is for, and lets pass what is right.

Read by `make lint`; never run.
"""

import logging
import os
import pickle
import subprocess

import numpy
import requests
import yaml

log = logging.getLogger("bad")


def unsafe(self, password, user, n_tokens, max_tokens, app):
    # ruleid: pickle-is-read-in-one-place
    pickle.loads(b"")
    # ruleid: pickle-is-read-in-one-place
    numpy.load("x", allow_pickle=True)
    # ruleid: yaml-makes-no-objects
    yaml.load("x", yaml.Loader)
    # ruleid: requests-have-a-timeout
    requests.get("http://x")
    # ruleid: requests-have-a-timeout
    self._session.post("http://x", json=1)
    # ruleid: no-shell
    subprocess.run("ls", shell=True)
    # ruleid: no-shell
    os.system("ls")
    # ruleid: no-code-from-data
    eval("1")
    # ruleid: no-secret-in-a-log
    log.info("signed in with %s", password)
    # ruleid: no-secret-in-a-log
    log.warning(f"the key is {user.api_key}")
    # ruleid: no-secret-in-a-log
    log.info("%s", user.key.get_secret_value())
    # ruleid: no-debugger-on-the-web
    app.run(debug=True)


def safe(self, n_tokens, max_tokens, name, app, model):
    # ok: pickle-is-read-in-one-place
    numpy.load("x", allow_pickle=False)
    # ok: yaml-makes-no-objects
    yaml.safe_load("x")
    # ok: requests-have-a-timeout
    requests.get("http://x", timeout=3)
    # ok: requests-have-a-timeout
    self._session.post("http://x", json=1, timeout=3)
    # ok: no-shell
    subprocess.run(["ls"])
    # ok: no-code-from-data
    model.eval()
    # ok: no-secret-in-a-log
    log.info("%d of %d tokens of %s", n_tokens, max_tokens, name)
    # ok: no-debugger-on-the-web
    app.run(port=1)
