"""The ASGI application: Django handles HTTP, Channels handles WebSockets."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
# Django must be set up before modules that need the settings are imported.
django_application = get_asgi_application()

from consumers import OnlineStatusConsumer  # noqa: E402

application = ProtocolTypeRouter({
    "http": django_application,
    "websocket": URLRouter([path("ws-online-status", OnlineStatusConsumer.as_asgi())]),
})
