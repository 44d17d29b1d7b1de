"""WebSocket libraries that others wrote: each comes in, is seen, sees others, leaves, and comes back where it promises that."""
import json
from harness import Case, STEADY

ALICE = "/v1/connect?user=alice&room=lobby"


def told(matches):
    """Matches a program's line of JSON that carries a message from the server."""
    def check(line):
        try:
            said = json.loads(line)
        except ValueError:
            return False
        # A page's line of the console is a list of what was logged.
        things = said.get("console", [said])
        return any(matches(thing["message"]) for thing in things if isinstance(thing, dict) and "message" in thing)
    return check


def names(key, user):
    return told(lambda message: user in [member["user"] for member in message.get(key, [])])


class Libraries(Case):
    def comes_in(self, server, start):
        """Starts a client, and has both sides see each other and a third come and go."""
        observer = self.observer(server)
        client = start()
        observer.sees("alice")
        client.said("a snapshot with the observer", names("members", "observer"))
        third = self.observer(server, "carol")
        client.said("the third in a diff", names("joined", "carol"))
        third.close()
        client.said("that the third left", names("left", "carol"))
        return client, observer

    def comes_back(self, server, client):
        """Restarts the server: the client has to find it again by itself, and is told everything anew."""
        client.lines.clear()
        server.restart()
        observer = self.observer(server, "after")
        observer.sees("alice")
        client.said("a welcome", told(lambda message: message["type"] == "welcome"))
        self.observer(server, "later")
        client.said("who came later", names("joined", "later"))
        return observer

    def leaves(self, client, observer, reason):
        client.finish()
        observer.misses("alice")
        self.assertEqual(observer.departures("alice"), [reason])

    def test_ws(self):
        server = self.server("--ttl", "10s")
        client, observer = self.comes_in(server, lambda: self.node("ws.mjs", server.websocket + ALICE))
        # It answers pings by itself. Two of them, each after half of a silent lease and more, are more than one.
        client.lines.clear()
        for _ in range(2):
            client.said("a ping", lambda line: "ping" in line)
            client.lines.pop(next(at for at, line in enumerate(client.lines) if "ping" in line))
        self.assertEqual(observer.departures("alice"), [])
        self.leaves(client, observer, "closed")

    def test_ws_is_told_why_the_server_goes(self):
        server = self.server(*STEADY)
        client, _ = self.comes_in(server, lambda: self.node("ws.mjs", server.websocket + ALICE))
        server.stop()
        client.said("a close with 1012", lambda line: json.loads(line).get("close") == 1012)

    def test_reconnecting_websocket(self):
        server = self.server(*STEADY)
        client, _ = self.comes_in(server, lambda: self.node("reconnecting-websocket.mjs", server.websocket + ALICE))
        self.leaves(client, self.comes_back(server, client), "closed")

    def test_reconnectingwebsocket_in_a_browser(self):
        server = self.server(*STEADY)
        library = "npm:reconnectingwebsocket/reconnecting-websocket.js"
        script = "tests/clients/programs/reconnectingwebsocket.js"
        client, _ = self.comes_in(server, lambda: self.node("in-browser.mjs", server.http, library, script))
        # The page goes without a word, as a closed tab does: its grace ends.
        self.leaves(client, self.comes_back(server, client), "timeout")

    def test_python_websockets(self):
        server = self.server(*STEADY)
        client, _ = self.comes_in(server, lambda: self.python("websockets_client.py", server.websocket + ALICE))
        self.leaves(client, self.comes_back(server, client), "closed")
