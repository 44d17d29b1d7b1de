"""One connection: all other users receive an event when its user comes or goes. Modeled on the Channels tutorial."""

import json
import time
from datetime import datetime, timezone
from urllib.parse import parse_qs

from autobahn.exception import Disconnected
from channels.generic.websocket import AsyncWebsocketConsumer

import online

GROUP = "online-status"
# Not 1008: daphne's WebSocket library allows applications only 1000 and 3000 to 4999, and daphne sends no reason.
USER_ID_REQUIRED = 4008


def now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class OnlineStatusConsumer(AsyncWebsocketConsumer):
    user: int | str | None = None

    async def connect(self):
        await self.accept()
        query = parse_qs(self.scope["query_string"].decode())
        if "userId" not in query:
            await self.close(USER_ID_REQUIRED, "User ID required")
            return
        self.user = online.typed(query["userId"][0])
        connection = f"{self.user}-{time.time_ns() // 1_000_000}"
        await self.send_message("CONNECTION_ESTABLISHED", self.user, now(), connectionId=connection)
        # Joins the group before it reads the list: a user who comes in between is sent twice rather than not at all.
        await self.channel_layer.group_add(GROUP, self.channel_name)
        is_first = await online.connect(self.user)
        for user in await online.users():
            await self.send_status("USER_ONLINE", user, now())
        if is_first:
            await self.send_to_all("USER_ONLINE")

    async def disconnect(self, code):
        if self.user is None:
            return
        await self.channel_layer.group_discard(GROUP, self.channel_name)
        if await online.disconnect(self.user):
            await self.send_to_all("USER_OFFLINE")

    async def send_to_all(self, kind):
        message = {"type": "user.status", "kind": kind, "user": self.user, "timestamp": now()}
        await self.channel_layer.group_send(GROUP, message)

    async def user_status(self, event):
        await self.send_status(event["kind"], event["user"], event["timestamp"])

    async def send_status(self, kind, user, timestamp):
        if user != self.user:
            await self.send_message(kind, user, timestamp)

    async def send_message(self, kind, user, timestamp, **more):
        try:
            await self.send(json.dumps({"type": kind, "userId": user, "timestamp": timestamp, **more}))
        except Disconnected:
            # disconnect() follows. If the exception ended the consumer, it would not be called, and the user would stay
            # online.
            pass
