"""What `embed_file.py` is made of: reading rows, asking the service, spooling vectors."""
