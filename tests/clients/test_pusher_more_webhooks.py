"""Webhooks in Pusher's format about client events, cache misses and counts of subscribers, which stock pusher-js clients
cause and the library of the application verifies; and the counts that clients are told."""
import http.server, unittest

import pusher
from harness import USAGE, wait_until
from pusher_side import APP, PusherCase, Site

library = pusher.Pusher(app_id=APP["id"], key=APP["key"], secret=APP["secret"])


class Hook(http.server.BaseHTTPRequestHandler):
    """Keeps the events that the library verifies."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        request = library.validate_webhook(self.headers["x-pusher-key"], self.headers["x-pusher-signature"], body)
        self.server.events += request["events"]
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


class Hooked(PusherCase):
    EVENTS = []

    def setUp(self):
        self.hook = self.stopped_later(Site(Hook))
        self.hook.events = []
        self.start(flags=["--webhook-url", f"{self.hook.url}/hook", "--webhook-format", "pusher", *self.EVENTS])

    def event(self, name):
        find = lambda: next((event for event in self.hook.events if event["name"] == name), None)
        return wait_until(lambda: f"{name}; there are {self.hook.events}", find)


class Events(Hooked):
    EVENTS = ["--webhook-events", "client_event,cache_miss"]

    def test_a_client_event(self):
        ann = self.clients.open("ann", "7").connected()
        ann.joins("presence-room")
        ann.trigger(channel="presence-room", event="client-typing", data={"text": "hi"})
        event = self.event("client_event")
        self.assertEqual((event["channel"], event["event"], event["user_id"], event["socket_id"]),
                         ("presence-room", "client-typing", "7", ann.socket_id()))
        self.assertIn("hi", event["data"])

    def test_a_cache_miss(self):
        self.clients.open("ann", "7").joins("cache-news")
        self.assertEqual(self.event("cache_miss")["channel"], "cache-news")


@unittest.skipUnless("subscription-count" in USAGE, "this server has no subscription counts")
class Counts(Hooked):
    OPTIONS = ["subscription-count"]
    EVENTS = ["--webhook-events", "subscription_count"] if "subscription_count" in USAGE else []

    def test_counts_of_subscribers(self):
        ann, bob = self.clients.open("ann", "7"), self.clients.open("bob", "9")
        ann.joins("news")
        bob.joins("news")
        ann.expect("pusher:subscription_count", "news", lambda data: data["subscription_count"] == 2)
        bob.disconnect()
        ann.expect("pusher:subscription_count", "news", lambda data: data["subscription_count"] == 1)

    @unittest.skipUnless("subscription_count" in USAGE, "this server reports no subscription counts")
    def test_a_webhook_with_the_count(self):
        self.clients.open("ann", "7").joins("news")
        self.assertEqual(self.event("subscription_count")["channel"], "news")
