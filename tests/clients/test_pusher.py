"""Pusher's stock libraries, unchanged: channels of pusher-js and laravel-echo in Node. The application uses the stock
libraries for Python and for Node."""
from harness import wait_until
from pusher_side import PusherCase

ROOM = "presence-room"
SUCCEEDED, ADDED, REMOVED = "pusher:subscription_succeeded", "pusher:member_added", "pusher:member_removed"


class Presence(PusherCase):
    def come_and_go(self, kind):
        self.start(kind)
        ann = self.clients.open("ann", "7")
        roster = ann.joins(ROOM)
        self.assertEqual((roster["count"], roster["me"]), (1, {"id": "7", "info": {"name": "ann"}}))
        bob = self.clients.open("bob", "9")
        roster = bob.joins(ROOM)
        self.assertEqual(roster["members"], {"7": {"name": "ann"}, "9": {"name": "bob"}})
        self.assertEqual(ann.expect(ADDED, ROOM), {"id": "9", "info": {"name": "bob"}})
        self.assertEqual(self.members(ROOM), ["7", "9"])
        bob.unsubscribe(channel=ROOM)
        self.assertEqual(ann.expect(REMOVED, ROOM), {"id": "9", "info": {"name": "bob"}})
        bob.joins(ROOM)
        ann.expect(ADDED, ROOM)
        bob.disconnect()
        ann.expect(REMOVED, ROOM)
        self.assertEqual(self.members(ROOM), ["7"])
        self.assertEqual([event for event, _ in ann.events(ROOM)], [SUCCEEDED, ADDED, REMOVED, ADDED, REMOVED])

    def test_members_come_and_go_with_an_application_in_python(self):
        self.come_and_go("python")

    def test_members_come_and_go_with_an_application_in_node(self):
        self.come_and_go("node")

    def test_two_tabs_of_a_user_are_one_member(self):
        self.start()
        ann = self.clients.open("ann", "7")
        ann.joins(ROOM)
        tabs = [self.clients.open(f"tab {number}", {"user_id": "9", "user_info": {"name": "bob"}}) for number in (1, 2)]
        counts = [tab.joins(ROOM)["count"] for tab in tabs]
        self.assertEqual(counts, [2, 2])
        self.assertEqual(self.application.channel(ROOM, ["user_count"]), {"occupied": True, "user_count": 2})
        tabs[0].disconnect()
        # A later event of the same channel shows that the first tab's end was not one.
        self.clients.open("carol", "11").joins(ROOM)
        ann.expect(ADDED, ROOM, lambda member: member["id"] == "11")
        tabs[1].disconnect()
        ann.expect(REMOVED, ROOM)
        seen = [(event, data["id"]) for event, data in ann.events(ROOM)[1:]]
        self.assertEqual(seen, [(ADDED, "9"), (ADDED, "11"), (REMOVED, "9")])

    def test_user_ids_keep_their_type_and_info_may_be_missing(self):
        self.start()
        ann = self.clients.open("ann", {"user_id": 7})
        self.assertEqual(ann.joins(ROOM)["me"], {"id": 7, "info": None})
        self.clients.open("bob", {"user_id": 9, "user_info": {"name": "Bj\u00f6rn / \"B\" \U0001f389"}}).joins(ROOM)
        self.assertEqual(ann.expect(ADDED, ROOM), {"id": 9, "info": {"name": "Bj\u00f6rn / \"B\" \U0001f389"}})
        self.assertEqual(self.members(ROOM), ["7", "9"])

    def test_a_reload_is_invisible_to_others(self):
        self.start()
        ann = self.clients.open("ann", "7")
        ann.joins(ROOM)
        bob = self.clients.open("bob", "9", channels=[ROOM])
        ann.expect(ADDED, ROOM)
        bob.expect(SUCCEEDED, ROOM)
        for _ in range(3):
            bob.reload()
            self.assertEqual(bob.expect(SUCCEEDED, ROOM)["count"], 2)
        # A later event of the same channel shows that the reloads were none.
        self.clients.open("carol", "11").joins(ROOM)
        ann.expect(ADDED, ROOM, lambda member: member["id"] == "11")
        self.assertEqual([event for event, _ in ann.events(ROOM)], [SUCCEEDED, ADDED, ADDED])

    def test_a_page_that_does_not_return_leaves_after_the_grace_period(self):
        self.start(grace="1s")
        ann = self.clients.open("ann", "7")
        ann.joins(ROOM)
        self.clients.open("bob", "9").joins(ROOM)
        ann.expect(ADDED, ROOM)
        self.clients.do("leavePage", "bob")
        ann.expect(REMOVED, ROOM)

    def test_clients_return_by_themselves_when_the_server_restarts(self):
        self.start()
        people = [self.clients.open(name, user) for name, user in [("ann", "7"), ("bob", "9"), ("carol", "11")]]
        for client in people:
            client.joins(ROOM)
        self.rollcall.restart()
        for client in people:
            client.expect(SUCCEEDED, ROOM)
        everyone = ["11", "7", "9"]
        self.clients.settle(ROOM, {client.name: everyone for client in people})
        self.assertEqual(self.members(ROOM), everyone)
        for client in people:
            self.assertNotIn(REMOVED, [event for event, _ in client.events(ROOM)])
        for tally in self.clients.tally(ROOM).values():
            self.assertEqual((tally["rosters"], tally["duplicates"]), (2, []))


class Echo(PusherCase):
    def join(self, name, user, broadcaster="pusher"):
        client = self.clients.open(name, user, echo=broadcaster)
        client.join(room="room", events=[".news"], whispers=["typing"])
        here = client.expect("here", "echo room")
        return client, sorted(info["name"] for info in here)

    def here_joining_leaving_whisper(self, kind, broadcaster):
        self.start(kind)
        ann, here = self.join("ann", "7", broadcaster)
        self.assertEqual(here, ["ann"])
        bob, here = self.join("bob", "9", broadcaster)
        self.assertEqual(here, ["ann", "bob"])
        self.assertEqual(ann.expect("joining", "echo room"), {"name": "bob"})
        bob.whisper(room="room", event="typing", data={"text": "hi"})
        self.assertEqual(ann.expect("whisper typing", "echo room"), {"text": "hi"})
        self.application.trigger(ROOM, "news", {"text": "all"})
        for client in ann, bob:
            self.assertEqual(client.expect(".news", "echo room"), {"text": "all"})
        bob.leaveRoom(room="room")
        self.assertEqual(ann.expect("leaving", "echo room"), {"name": "bob"})
        self.assertEqual([event for event, _ in ann.events("echo room")],
                         ["here", "joining", "whisper typing", ".news", "leaving"])
        # Whispers do not come back to the client that whispers.
        self.assertEqual([event for event, _ in bob.events("echo room")], ["here", ".news"])

    def test_with_the_broadcaster_pusher_and_an_application_in_python(self):
        self.here_joining_leaving_whisper("python", "pusher")

    def test_with_the_broadcaster_reverb_and_an_application_in_node(self):
        self.here_joining_leaving_whisper("node", "reverb")

    def test_events_of_public_private_and_encrypted_channels(self):
        self.start()
        ann = self.clients.open("ann", "7", echo="pusher").connected()
        channels = {"channel": "orders", "private": "private-orders", "encryptedPrivate": "private-encrypted-orders"}
        for kind, channel in channels.items():
            ann.listen(kind=kind, name="orders", event=f".{kind}")
            wait = lambda: self.application.channel(channel)["occupied"]
            wait_until(f"{channel} is occupied", wait)
            self.application.trigger(channel, kind, {"in": channel})
            self.assertEqual(ann.expect(f".{kind}", "echo orders"), {"in": channel})

    def test_an_application_that_refuses_reaches_the_error_callback(self):
        self.start()
        ann = self.clients.open("ann", "7", echo="pusher")
        ann.join(room="forbidden")
        self.assertEqual(ann.expect("error", "echo forbidden")["status"], 403)


class Channels(PusherCase):
    def publish(self, kind):
        self.start(kind)
        ann, bob = self.clients.open("ann", "7"), self.clients.open("bob", "9")
        for client in ann, bob:
            for channel in "news", "private-news", "private-encrypted-news":
                self.assertEqual(client.joins(channel), {})
        for data in {"text": "a \"b\" \u00e9 \U0001f389"}, "text", ["list", 1, None]:
            for channel in "news", "private-news", "private-encrypted-news":
                self.application.trigger(channel, "item", data)
                for client in ann, bob:
                    self.assertEqual(client.expect("item", channel), data)
        self.application.trigger(["news", "private-news"], "both", {"n": 1})
        batch = [{"channel": channel, "name": "batch", "data": {"in": channel}}
                 for channel in ["news", "private-news", "private-encrypted-news"]]
        self.application.trigger_batch(batch)
        for client in ann, bob:
            for channel in "news", "private-news":
                self.assertEqual(client.expect("both", channel), {"n": 1})
            for event in batch:
                self.assertEqual(client.expect("batch", event["channel"]), event["data"])

    def test_events_of_an_application_in_python(self):
        self.publish("python")

    def test_events_of_an_application_in_node(self):
        self.publish("node")

    def questions(self, kind):
        self.start(kind)
        ann, bob, tab = self.clients.open("ann", "7"), self.clients.open("bob", "9"), self.clients.open("tab", "9")
        for client in ann, bob, tab:
            client.joins(ROOM)
        ann.joins("news")
        ann.joins("private-news")
        everything = self.application.channels()["channels"]
        self.assertEqual(sorted(everything), ["news", ROOM, "private-news"])
        presence = self.application.channels("presence-", ["user_count"])
        self.assertEqual(presence, {"channels": {ROOM: {"user_count": 2}}})
        one = self.application.channel(ROOM, ["user_count", "subscription_count"])
        self.assertEqual(one, {"occupied": True, "user_count": 2, "subscription_count": 3})
        self.assertEqual(self.application.channel("news", ["subscription_count"]),
                         {"occupied": True, "subscription_count": 1})
        self.assertEqual(self.application.channel("empty")["occupied"], False)
        self.assertEqual(self.members(ROOM), ["7", "9"])

    def test_questions_of_an_application_in_python(self):
        self.questions("python")

    def test_questions_of_an_application_in_node(self):
        self.questions("node")

    def exclude(self, kind):
        self.start(kind)
        ann, bob = self.clients.open("ann", "7"), self.clients.open("bob", "9")
        socket = ann.connected().socket_id()
        for client in ann, bob:
            client.joins("news")
        self.application.trigger("news", "first", {}, socket)
        self.application.trigger("news", "second", {})
        for client, seen in (ann, ["second"]), (bob, ["first", "second"]):
            client.expect("second", "news")
            self.assertEqual([event for event, _ in client.events("news")[1:]], seen)

    def test_an_application_in_python_excludes_the_client_that_caused_an_event(self):
        self.exclude("python")

    def test_an_application_in_node_excludes_the_client_that_caused_an_event(self):
        self.exclude("node")

    def test_client_events_reach_all_others(self):
        self.start()
        names = [("ann", "7"), ("bob", "9"), ("carol", "11")]
        ann, bob, carol = (self.clients.open(name, user) for name, user in names)
        for channel in "private-chat", ROOM:
            for client in ann, bob, carol:
                client.joins(channel)
            ann.trigger(channel=channel, event="client-typing", data={"text": "hi"})
            bob.trigger(channel=channel, event="client-typing", data={"text": "ho"})
            # The order of two senders is not defined.
            seen = lambda: [sorted(data["text"] for event, data in client.events(channel) if event == "client-typing")
                            for client in (ann, bob, carol)]
            wait_until(lambda: f"the events; the clients have {seen()}", lambda: len(seen()[2]) == 2 and all(seen()))
            self.application.trigger(channel, "end", {})
            for client in ann, bob, carol:
                client.expect("end", channel)
            self.assertEqual(seen(), [["ho"], ["hi"], ["hi", "ho"]])

    def test_a_client_that_subscribes_twice_in_a_hurry_is_subscribed(self):
        self.start()
        ann = self.clients.open("ann", "7").connected()
        for channel in "news", "private-news", ROOM:
            ann.subscribe(channel)
            ann.unsubscribe(channel=channel)
            ann.subscribe(channel)
            ann.expect(SUCCEEDED, channel)
            wait_until(f"{channel} is occupied", lambda: self.application.channel(channel)["occupied"])
            self.application.trigger(channel, "item", {"n": 1})
            ann.expect("item", channel)
        self.assertEqual(self.members(ROOM), ["7"])

    def test_refused_subscriptions_reach_the_binding_and_the_connection_stays(self):
        self.start()
        ann = self.clients.open("ann", "7")
        for channel, status in ("private-forbidden", 403), ("private-wrong", 401), ("presence-wrong", 401):
            ann.subscribe(channel)
            self.assertEqual(ann.expect("pusher:subscription_error", channel)["status"], status)
        ann.joins("private-right")
        states = [report["data"] for report in ann.reports() if report["event"] == "state"]
        self.assertEqual(states, ["connected"])

    def test_a_key_of_no_application_ends_the_connection_for_good(self):
        self.start()
        ann = self.clients.open("ann", "7", key="unknown")
        self.assertEqual(ann.expect("error")["data"]["code"], 4001)
        self.assertEqual(ann.expect("state"), "disconnected")
