"""Users of pusher-js who sign in: their own channel, watchlists, and connections that the application ends. The application
uses the stock libraries for Python and for Node."""
from pusher_side import PusherCase

SIGNED_IN, SUCCEEDED = "global pusher:signin_success", "pusher:subscription_succeeded"


class Users(PusherCase):
    def sign_in(self, name, user, *watched, **options):
        client = self.clients.open(name, {"user_id": user, "watchlist": list(watched)}, **options)
        client.signin()
        client.expect(SIGNED_IN)
        return client

    def message_a_user(self, kind):
        self.start(kind)
        tabs = [self.sign_in("tab 1", "7"), self.sign_in("tab 2", "7")]
        bob = self.sign_in("bob", "9")
        for client in [*tabs, bob]:
            client.is_reachable(self.application)
        self.application.send_to_user("7", "note", {"text": "for 7"})
        self.application.send_to_user("9", "note", {"text": "for 9"})
        for client, text in (tabs[0], "for 7"), (tabs[1], "for 7"), (bob, "for 9"):
            self.assertEqual(client.expect("note", "user"), {"text": text})

    def test_an_application_in_python_sends_to_a_user(self):
        self.message_a_user("python")

    def test_an_application_in_node_sends_to_a_user(self):
        self.message_a_user("node")

    def test_watchlists_show_users_coming_and_going(self):
        self.start()
        bob = self.sign_in("bob", "9")
        ann = self.sign_in("ann", "7", "9", "11")
        self.assertEqual((ann.expect("online"), ann.expect("offline")), (["9"], ["11"]))
        # A subscription is not enough, and a second tab is nothing new.
        self.clients.open("stranger", "11").joins("presence-room")
        tabs = [self.sign_in("tab 1", "11"), self.sign_in("tab 2", "11")]
        self.assertEqual(ann.expect("online"), ["11"])
        tabs[0].disconnect()
        bob.disconnect()
        self.assertEqual(ann.expect("offline"), ["9"])
        tabs[1].disconnect()
        self.assertEqual(ann.expect("offline"), ["11"])
        told = [(event, users) for event, users in ann.events(None) if event in ("online", "offline")]
        self.assertEqual(told, [("online", ["9"]), ("offline", ["11"]), ("online", ["11"]), ("offline", ["9"]),
                                ("offline", ["11"])])

    def terminate(self, kind):
        self.start(kind)
        ann = self.sign_in("ann", "7", "9")
        self.assertEqual(ann.expect("offline"), ["9"])
        tabs = [self.sign_in("tab 1", "9"), self.sign_in("tab 2", "9")]
        self.assertEqual(ann.expect("online"), ["9"])
        self.application.terminate("9")
        for tab in tabs:
            error = tab.expect("error", matches=lambda error: error is not None)
            self.assertEqual(error["data"]["code"], 4009)
            self.assertEqual(tab.expect("state"), "disconnected")
        self.assertEqual(ann.expect("offline"), ["9"])
        # Others stay, and the user may return.
        self.sign_in("bob again", "9")
        self.assertEqual(ann.expect("online"), ["9"])
        self.assertNotIn("disconnected", [report["data"] for report in ann.reports()])

    def test_an_application_in_python_ends_the_connections_of_a_user(self):
        self.terminate("python")

    def test_an_application_in_node_ends_the_connections_of_a_user(self):
        self.terminate("node")

    def test_a_user_who_has_signed_in_joins_without_channel_data(self):
        self.start()
        user = {"user_id": "7", "user_info": {"name": "ann"}, "signed_in": True}
        ann = self.clients.open("ann", user)
        ann.signin()
        ann.expect(SIGNED_IN)
        self.assertEqual(ann.joins("presence-room")["me"], {"id": "7", "info": {"name": "ann"}})

    def test_users_sign_in_again_by_themselves_when_the_server_restarts(self):
        self.start()
        ann = self.sign_in("ann", "7", "9")
        ann.expect("offline")
        bob = self.sign_in("bob", "9")
        ann.expect("online")
        self.rollcall.restart()
        for client in ann, bob:
            client.expect(SIGNED_IN)
        ann.expect("online")
        bob.is_reachable(self.application)

    def test_laravel_echo_signs_in(self):
        self.start()
        ann = self.clients.open("ann", {"user_id": "7"}, echo="reverb")
        ann.signin()
        ann.expect(SIGNED_IN)
        ann.is_reachable(self.application)

    def test_a_wrong_signature_is_an_error_and_the_connection_stays(self):
        self.start()
        ann = self.clients.open("ann", {"user_id": "wrong"})
        ann.signin()
        ann.expect("error")
        ann.joins("news")
        states = [report["data"] for report in ann.reports() if report["event"] == "state"]
        self.assertEqual(states, ["connected"])
