"""A program that writes batches into PostgreSQL until stopped; run by `test_sql_faults.py`.

It takes a URL, its number, the rows of a batch and a file that stops it, and prints a line for
every batch that was acknowledged (`ack NUMBER INSERTED ATTEMPTS`), after the acknowledgement. The
file's name with `.away` is made when a batch was refused.
"""

import time
from dataclasses import replace
from pathlib import Path

import errors
from store import Item
from store.pgvector import POOL, PostgresStore


def main(url: str, worker: str, rows: str, stop: str) -> None:
    with PostgresStore(url, pool=replace(POOL, connect_timeout_s=2)) as store:
        number = 0
        while not Path(stop).exists():
            items = [
                Item(
                    f"{worker}-{number}-{i}",
                    [1.0, number, i],
                    None,
                    {"batch": f"{worker}-{number}"},
                )
                for i in range(int(rows))
            ]
            attempts = 0
            while True:
                attempts += 1
                try:
                    written = store.upsert("c", items)
                    break
                except errors.Unavailable:
                    Path(f"{stop}.away").touch()
                    if Path(stop).exists():
                        return
                    time.sleep(0.05)
            print(f"ack {number} {written.inserted} {attempts}", flush=True)
            number += 1
