"""Minimal Django settings for an application without database, templates and accounts."""

import os

# Nothing is signed, but Django does not start without a key.
SECRET_KEY = os.environ.get("SECRET_KEY") or os.urandom(32).hex()
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
TIME_ZONE = "UTC"
INSTALLED_APPS = ["channels"]
# Adds Content-Length to responses.
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "urls"
ASGI_APPLICATION = "asgi.application"

REDIS_URL = os.environ["REDIS_URL"]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # Socket timeout and connections as before redis-py 8, whose limits end consumers: a read times out after 5
            # s, which is how long the layer waits for a message (channels_redis issue 422), and each join or leave
            # needs a connection of the 100 that it allows.
            "hosts": [{"address": REDIS_URL, "socket_timeout": None, "max_connections": 5000}],
            # Beyond the capacity the layer silently drops messages. With the default of 100, some of 200 users who
            # joined at once received only half of the others.
            "capacity": 10_000,
        },
    },
}
