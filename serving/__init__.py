"""Models at work: loaded, exchanged, shared between requests in passes, watched."""
