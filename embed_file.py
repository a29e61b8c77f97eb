"""Embeds a file through a running service: `python embed_file.py texts.jsonl out.npy`."""

from tools.embed_file import main

if __name__ == "__main__":
    main()
