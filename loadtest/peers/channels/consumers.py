"""One connection: tells everybody else when its user comes and goes, after the consumers of the Channels tutorial."""

import json
import time
from datetime import datetime, timezone
from urllib.parse import parse_qs

from autobahn.exception import Disconnected
from channels.generic.websocket import AsyncWebsocketConsumer

import online

GROUP = "online-status"
# It would be 1008, but daphne's WebSocket library lets an application send 1000 or 3000 to 4999 only, and daphne no reason.
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
        # In the group before the list is read: who comes in between is told twice rather than not at all.
        await self.channel_layer.group_add(GROUP, self.channel_name)
        is_first = await online.enter(self.user)
        for user in await online.users():
            await self.show("USER_ONLINE", user, now())
        if is_first:
            await self.tell_all("USER_ONLINE")

    async def disconnect(self, code):
        if self.user is None:
            return
        await self.channel_layer.group_discard(GROUP, self.channel_name)
        if await online.leave(self.user):
            await self.tell_all("USER_OFFLINE")

    async def tell_all(self, kind):
        message = {"type": "user.status", "kind": kind, "user": self.user, "timestamp": now()}
        await self.channel_layer.group_send(GROUP, message)

    async def user_status(self, event):
        await self.show(event["kind"], event["user"], event["timestamp"])

    async def show(self, kind, user, timestamp):
        if user != self.user:
            await self.send_message(kind, user, timestamp)

    async def send_message(self, kind, user, timestamp, **more):
        try:
            await self.send(json.dumps({"type": kind, "userId": user, "timestamp": timestamp, **more}))
        except Disconnected:
            # Its disconnect comes next. If this ended the consumer, disconnect() would not be called and the user stay online.
            pass
