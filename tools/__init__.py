"""Embedding whole files through a running service."""
