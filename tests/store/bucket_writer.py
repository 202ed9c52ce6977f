"""A writer among several: opens the store and changes a page at one word from stdin, and commits at the next."""

from __future__ import annotations

import sys

import small_store
from sifu_store import Store
from sifu_store.errors import StoreConflictError


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(url: str, name: str) -> None:
    for number, _ in enumerate(iter(sys.stdin.readline, "")):
        with Store.open(url, write=True) as store:
            small_store.write_page(store, 0, float(number))
            say(store.snapshot)
            sys.stdin.readline()
            try:
                say(f"won {store.commit(f'{name} {number}', command='train', changes={'number': number})}")
            except StoreConflictError as error:
                say(f"lost {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
