"""Django's settings, as short as an app without database, templates and accounts allows."""

import os

# Nothing is signed here, but Django will not start without it.
SECRET_KEY = os.environ.get("SECRET_KEY") or os.urandom(32).hex()
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
TIME_ZONE = "UTC"
INSTALLED_APPS = ["channels"]
# It gives answers their Content-Length.
MIDDLEWARE = ["django.middleware.common.CommonMiddleware"]
ROOT_URLCONF = "urls"
ASGI_APPLICATION = "asgi.application"

REDIS_URL = os.environ["REDIS_URL"]
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.core.RedisChannelLayer",
        "CONFIG": {
            # Socket timeout and connections are what redis-py did before its version 8, whose limits end consumers: reading
            # gives up after 5 s, which is as long as the layer waits for a message (channels_redis issue 422), and of 100
            # connections each join or leave needs one.
            "hosts": [{"address": REDIS_URL, "socket_timeout": None, "max_connections": 5000}],
            # Beyond it the layer drops messages without a word. With the 100 of the default, some of 200 people who
            # joined at once were shown half of the others.
            "capacity": 10_000,
        },
    },
}
