"""Nodes that share a Redis are restarted one after the other, behind nginx with the configuration of the documents."""
import subprocess

import test_proxy
from harness import Case, DEADLINE, accepts, get_json, wait_until

CLIENTS = 6
# Clients reconnect after one to five seconds. The lease leaves them time on a machine on which they get little CPU.
LEASE = ["--ttl", "60s"]


class RollingRestart(Case):
    def test_a_rolling_restart_is_invisible_to_observers(self):
        redis = self.redis()
        nodes = [self.server(*LEASE, "--redis", f"redis://127.0.0.1:{redis}") for _ in range(2)]
        port, proxy = test_proxy.Proxies.nginx(self, nodes)
        wait_until(lambda: f"the proxy accepting connections: {proxy.text()}", lambda: accepts(port))
        users = [f"user{number}" for number in range(CLIENTS)]
        for user in users:
            self.node("reconnecting-websocket.mjs", f"ws://127.0.0.1:{port}/v1/connect?user={user}&room=lobby")

        def incarnations():
            command = ["redis-cli", "-p", str(redis), "SMEMBERS", "presence:{nodes}:incarnations"]
            return set(subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE).stdout.split())

        def connections():
            return sum(get_json(f"{node.http}/v1/stats")["connections"] for node in nodes)
        for restarting, staying in nodes, reversed(nodes):
            observer = self.observer(staying, joins=False)
            observer.sees(*users)
            before = incarnations()
            restarting.restart()
            back = f"all {CLIENTS} clients, and the observer"
            wait_until(lambda: f"{back}; {connections()} are connected", lambda: connections() == CLIENTS + 1)
            # When the other node has deleted the old incarnation, users who have not reconnected would have left.
            wait_until(lambda: f"a new incarnation and the end of one of {before}; there are {incarnations()}",
                       lambda: len(incarnations()) == 2 and incarnations() != before)
            self.assertEqual(connections(), CLIENTS + 1, back)
            self.assertEqual([user for user in users if observer.leave_reasons(user)], [])
            observer.close()
