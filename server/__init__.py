"""What gunicorn needs beyond its settings; `gunicorn.conf.py` is the only caller."""
