"""Measures the service beside its rivals: `make bench`, or each file by itself."""
