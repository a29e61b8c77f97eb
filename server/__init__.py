"""What gunicorn needs beyond its settings, for `gunicorn.conf.py`, and the image's health check."""
