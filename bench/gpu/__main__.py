"""`python -m bench.gpu` and `python -m bench.gpu pack DIR`."""

import os
import sys

if __name__ == "__main__":
    os.environ.setdefault("TQDM_DISABLE", "1")  # a bar for each model hides what is said
    if sys.argv[1:2] == ["pack"]:
        from bench.gpu import pack  # it needs torch, which the driver does without until it forks

        pack.main(sys.argv[2:])
    else:
        from bench.gpu import driver

        sys.exit(driver.main(sys.argv[1:]))
