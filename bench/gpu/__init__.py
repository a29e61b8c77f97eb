"""Everything that only a GPU can show, in one call: `python -m bench.gpu`.

Each part is a process with a limit of its own; what it finds is in `result.jsonl` at once, and the
table comes last. `--device cpu --seconds 0.2` rehearses every part without a GPU, and
`python -m bench.gpu pack DIR` makes the folder that a machine without network needs.
"""
