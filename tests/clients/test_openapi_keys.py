"""The OpenAPI document agrees with a server that has keys: with an API key, a token, and signed requests."""
import time, unittest

import jwt

from openapi_runs import API_KEY, CLOSED, FLAGS, JWT_SECRET, PUSHER, WEBSOCKETS, OpenApiCase


def token():
    now = int(time.time())
    return jwt.encode({"sub": "alice", "iat": now, "exp": now + 3600}, JWT_SECRET, "HS256")


class OpenApiWithKeys(OpenApiCase):
    def test_an_api_key(self):
        server = self.server(*FLAGS, *CLOSED)
        tags = ["--exclude-tag", WEBSOCKETS, "--exclude-tag", PUSHER, "--exclude-path", "/heartbeat"]
        self.assertGreater(self.run_schemathesis(server, API_KEY, *tags), 300)
        self.assert_alive(server)

    def test_a_token(self):
        server = self.server(*FLAGS, *CLOSED)
        paths = ["/v1/rooms", "/v1/rooms/{room}/members", "/v1/rooms/{room}/count", "/v1/users/status", "/online_users",
                 "/heartbeat"]
        options = [word for path in paths for word in ("--include-path", path)]
        self.assertGreater(self.run_schemathesis(server, token(), *options), 100)
        self.assert_alive(server)

    def test_the_pusher_api_with_signed_requests(self):
        server = self.server(*FLAGS, *CLOSED)
        self.assertGreater(self.run_schemathesis(server, "signature", "--include-tag", PUSHER), 200)
        self.assert_alive(server)


if __name__ == "__main__":
    unittest.main()
