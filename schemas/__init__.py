"""The JSON of every route, one file a subject: bodies and replies. Knows no HTTP."""
