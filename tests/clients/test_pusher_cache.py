"""Cache channels of pusher-js: new subscribers receive the last event of the application, which uses the stock libraries
for Python and for Node."""
import json

from harness import wait_until
from pusher_side import PusherCase

CHANNELS = ["cache-news", "private-cache-news", "private-encrypted-cache-news", "presence-cache-news"]
MISS, SUCCEEDED = "pusher:cache_miss", "pusher:subscription_succeeded"


class CacheChannels(PusherCase):
    def cached(self, kind):
        self.start(kind)
        ann = self.clients.open("ann", "7")
        for channel in CHANNELS:
            ann.joins(channel)
            self.assertIsNone(ann.expect(MISS, channel))
            for number in 1, 2:
                self.application.trigger(channel, "headline", {"number": number, "in": channel})
                self.assertEqual(ann.expect("headline", channel), {"number": number, "in": channel})
        bob = self.clients.open("bob", "9")
        for channel in CHANNELS:
            bob.joins(channel)
            self.assertEqual(bob.expect("headline", channel), {"number": 2, "in": channel})
            self.assertEqual([event for event, _ in bob.events(channel)], [SUCCEEDED, "headline"])

    def test_the_last_event_of_an_application_in_python(self):
        self.cached("python")

    def test_the_last_event_of_an_application_in_node(self):
        self.cached("node")

    def test_an_event_is_cached_without_subscribers_and_a_subscriber_who_returns_receives_it(self):
        self.start()
        self.application.trigger("cache-news", "headline", {"number": 1})
        ann = self.clients.open("ann", "7")
        for _ in range(2):
            ann.joins("cache-news")
            self.assertEqual(ann.expect("headline", "cache-news"), {"number": 1})
            ann.unsubscribe(channel="cache-news")

    def test_client_events_are_not_cached(self):
        self.start()
        names = [("ann", "7"), ("bob", "9"), ("carol", "11")]
        ann, bob, carol = (self.clients.open(name, user) for name, user in names)
        for client in ann, bob:
            client.joins("private-cache-news")
            client.expect(MISS, "private-cache-news")
        ann.trigger(channel="private-cache-news", event="client-typing", data={"text": "hi"})
        bob.expect("client-typing", "private-cache-news")
        carol.joins("private-cache-news")
        carol.expect(MISS, "private-cache-news")

    def cache_is_asked(self, kind):
        self.start(kind)
        self.clients.open("ann", "7").joins("cache-news")
        self.assertIsNone(self.application.channel("cache-news", ["cache"])["cache"])
        self.application.trigger("cache-news", "headline", {"number": 1})
        # The event is kept from the next tick on.
        ask = lambda: self.application.channel("cache-news", ["cache"])["cache"]
        cache = wait_until("a cached event", ask)
        self.assertEqual(json.loads(cache["data"]), {"number": 1})
        self.assertTrue(0 < cache["ttl"] <= 1800, cache)

    def test_the_cache_is_asked_by_an_application_in_python(self):
        self.cache_is_asked("python")

    def test_the_cache_is_asked_by_an_application_in_node(self):
        self.cache_is_asked("node")
