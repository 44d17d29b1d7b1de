"""What daphne serves: Django answers HTTP, Channels the WebSockets."""

import os

from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.urls import path

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
# Before anything that needs the settings is imported.
django_application = get_asgi_application()

from consumers import OnlineStatusConsumer  # noqa: E402

application = ProtocolTypeRouter({
    "http": django_application,
    "websocket": URLRouter([path("ws-online-status", OnlineStatusConsumer.as_asgi())]),
})
