"""One room in all protocols at once: with `--pusher-rooms`, a presence channel of pusher-js is a room of presence.js, of
native clients and of the older protocols, and all of them see the same members."""
import contextlib, json, random, threading, time

import jwt
from harness import connect, get_json, wait_until
from pusher_side import APP, TALLY_SECONDS, PusherCase
from websockets.exceptions import ConnectionClosed

SECRET, KEY = "the secret of the application in these tests", "the key of the application"
CHANNEL = "presence-lobby"


def bearer(user):
    token = jwt.encode({"sub": user, "exp": int(time.time()) + 3600}, SECRET, "HS256")
    return {"Authorization": f"Bearer {token}"}


class OlderClient:
    """A client of an older protocol, which keeps the members that it is told about."""

    def __init__(self, case, path, user, first=None):
        self.members, self.user, self.resources = set(), user, contextlib.ExitStack()
        url = case.rollcall.websocket + path
        self.socket = self.resources.enter_context(connect(url, additional_headers=bearer(user)))
        case.addCleanup(self.resources.close)
        if first:
            self.socket.send(first)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for text in self.socket:
                self.apply(json.loads(text))
        except ConnectionClosed:
            pass

    def seen(self):
        return sorted(self.members)

    def leave(self):
        self.resources.close()


class ListClient(OlderClient):
    def __init__(self, case, user):
        super().__init__(case, f"/ws/{user}", user, "heartbeat")

    def apply(self, message):
        if message["type"] == "online_users":
            self.members = set(message["users"])


class StatusClient(OlderClient):
    """It is told nothing about its own user."""

    def __init__(self, case, user):
        super().__init__(case, f"/ws-online-status?userId={user}", user)

    def apply(self, message):
        change = {"USER_ONLINE": self.members.add, "USER_OFFLINE": self.members.discard}.get(message["type"])
        if change:
            change(message["userId"])

    def seen(self):
        return sorted({*self.members, self.user})


class ChatClient(OlderClient):
    def __init__(self, case, user):
        super().__init__(case, "/ws", user, json.dumps({"type": "join", "payload": {"user": user}}))

    def apply(self, message):
        change = {"join": self.members.add, "leave": self.members.discard}.get(message["type"])
        if change:
            change(message["payload"]["user"])


class NativeClient:
    def __init__(self, case, user):
        self.observer = case.observer(case.rollcall, user, headers=bearer(user))

    def seen(self):
        return sorted(self.observer.members)

    def leave(self):
        self.observer.close()


class PresenceClient:
    """presence.js in Node."""

    def __init__(self, case, user):
        token = bearer(user)["Authorization"].removeprefix("Bearer ")
        self.program = case.node("presence.mjs", case.rollcall.http, token)

    def seen(self):
        lists = [json.loads(line)["members"] for line in list(self.program.lines) if "members" in line]
        return lists[-1] if lists else []

    def leave(self):
        self.program.finish()


class PusherClient:
    """pusher-js in Node."""

    def __init__(self, case, user):
        self.clients, self.name = case.clients, f"client of {user}"
        self.client = case.clients.open(self.name, {"user_id": user}, channels=[CHANNEL])

    def seen(self):
        tally = self.clients.tally(CHANNEL).get(self.name)
        return tally["library"]["ids"] if tally and tally["isConnected"] else []

    def leave(self):
        self.client.disconnect()


class OneRoom(PusherCase):
    def setUp(self):
        # The user of the list sends one heartbeat, and must stay for the rest of the test.
        self.start(ttl="10m", flags=["--jwt-secret", SECRET, "--api-key", KEY, "--pusher-rooms", APP["id"]])

    def answers(self):
        """What the server answers, by the native HTTP API and by that of Pusher."""
        headers = {"Authorization": f"Bearer {KEY}"}
        native = get_json(f"{self.rollcall.http}/v1/rooms/lobby/members", headers=headers)["members"]
        return [sorted(member["user"] for member in native), self.members(CHANNEL)]

    def agree(self, clients, members):
        views = lambda: [(type(client).__name__, client.seen()) for client in clients]
        agreed = lambda: all(seen == members for seen in [*(seen for _, seen in views()), *self.answers()])
        wait_until(lambda: f"{members} in all views; they are {views()}; the server has {self.answers()}", agreed,
                   TALLY_SECONDS)

    def test_all_protocols_see_the_same_members(self):
        starts = {"native": NativeClient, "presence": PresenceClient, "pusher": PusherClient, "chat": ChatClient,
                  "status": StatusClient}
        # The chat shows only what happens after its client came, and its history.
        order = ["chat", *random.sample([name for name in starts if name != "chat"], len(starts) - 1)]
        clients, members = {}, []
        for name in order:
            clients[name] = starts[name](self, name)
            members = sorted([*members, name])
            self.agree(clients.values(), members)
        # A second connection of a user in another protocol is the same member.
        second = PusherClient(self, "native")
        self.agree([*clients.values(), second], members)
        clients.pop("native").leave()
        self.agree([*clients.values(), second], members)
        second.leave()
        members.remove("native")
        self.agree(clients.values(), members)
        # The user of this list stays until the lease ends.
        clients["list"] = ListClient(self, "list")
        members = sorted([*members, "list"])
        self.agree(clients.values(), members)
        for name in random.sample([name for name in clients if name != "list"], len(clients) - 1):
            clients.pop(name).leave()
            members.remove(name)
            self.agree(clients.values(), members)
