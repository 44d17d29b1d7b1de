"""The proxy configurations of docs/, each in its real proxy in front of two nodes.

WebSockets pass, are distributed, and survive the stop of a node. Without Redis the nodes do not know each other, so the
members of each node show which clients are connected to it.
"""
import contextlib, re, subprocess, urllib.error
from harness import Case, DEADLINE, DEFAULT_TIMES, ROOT, USAGE, accepts, free_port, get_json, wait_until

CLIENTS = 6


def adapted(name, port, nodes):
    """The documented configuration with the addresses of these nodes."""
    text = (ROOT / "docs" / name).read_text()
    names = re.findall(r"node\d:8000", text)
    text = re.sub(rf"^ *server .*{names[-1]}.*\n", "", text, flags=re.MULTILINE)
    for documented, node in zip(names, nodes, strict=False):
        text = text.replace(documented, f"127.0.0.1:{node.port}")
    assert not re.search(r"node\d:8000", text), text
    return text


class Proxies(Case):
    def nginx(self, nodes):
        port, folder = free_port(), self.folder()
        text = adapted("nginx.conf", port, nodes)
        self.assertIn("listen 80;", text)
        # Folders that an ordinary user can write to.
        own = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
        text = text.replace("listen 80;", f"listen 127.0.0.1:{port};").replace("http {", f"http {{\n{own}", 1)
        file = folder / "nginx.conf"
        file.write_text(f"pid {folder}/nginx.pid;\nerror_log stderr;\n{text}")
        command = ["/usr/sbin/nginx", "-p", folder, "-e", "stderr", "-c", file]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True)
        self.assertEqual(checked.returncode, 0, checked.stderr)
        return port, self.program(*command, "-g", "daemon off;")

    def haproxy(self, nodes):
        port, folder = free_port(), self.folder()
        text = adapted("haproxy.cfg", port, nodes)
        self.assertIn("bind :80\n", text)
        file = folder / "haproxy.cfg"
        # A node that gets no CPU for seconds must not count as down. One that is down refuses connections.
        text = text.replace("defaults\n", "defaults\n    timeout check 60s\n", 1)
        file.write_text(text.replace("bind :80\n", f"bind 127.0.0.1:{port}\n"))
        checked = subprocess.run(["/usr/sbin/haproxy", "-c", "-f", file], capture_output=True, text=True)
        self.assertEqual((checked.returncode, "WARNING" in checked.stderr), (0, False), checked.stderr)
        return port, self.program("/usr/sbin/haproxy", "-db", "-f", file)

    def check(self, start):
        nodes = [self.server(*DEFAULT_TIMES) for _ in range(2)]
        port, proxy = start(nodes)
        wait_until(lambda: f"the proxy accepting connections: {proxy.text()}", lambda: accepts(port))
        url = f"http://127.0.0.1:{port}"
        self.assertEqual(get_json(f"{url}/readyz"), {"status": "ok"})
        with self.assertRaises(urllib.error.HTTPError) as hidden:
            get_json(f"{url}/metrics")
        self.assertEqual(hidden.exception.code, 404)
        hidden.exception.close()

        # WebSockets pass and are distributed.
        def enter(number):
            return self.observer(None, f"user{number}", websocket=f"ws://127.0.0.1:{port}")
        clients = [enter(number) for number in range(CLIENTS)]
        members = {node: get_json(f"{node.http}/v1/rooms/lobby/members")["members"] for node in nodes}
        self.assertEqual([len(on_node) for on_node in members.values()], [CLIENTS // 2] * 2)
        # Changes on a node reach its clients.
        for node, on_node in members.items():
            with contextlib.closing(self.observer(node, f"on-{node.port}")):
                for client in clients:
                    if {"user": client.messages[0]["user"]} in on_node:
                        client.sees(f"on-{node.port}")

        # A node stops: its clients are closed with 1012 and can connect to the other node. No request fails meanwhile.
        stopping, staying = nodes
        stopping.stop()
        gone = [client for client in clients if {"user": client.messages[0]["user"]} in members[stopping]]
        for client in gone:
            wait_until("a close code", lambda: client.close_code)
            self.assertEqual(client.close_code, 1012)
        back = [enter(100 + number) for number in range(CLIENTS)]
        for _ in range(10):
            self.assertEqual(get_json(f"{url}/livez"), {"status": "ok"})
        online = [member["user"] for member in get_json(f"{staying.http}/v1/rooms/lobby/members")["members"]]
        self.assertLessEqual({client.messages[0]["user"] for client in back}, set(online))
        self.assertEqual([client.close_code for client in clients if client not in gone], [None] * (CLIENTS // 2))

        # The node starts again. It has the fewest clients, so the next ones connect to it.
        stopping.start()

        def used_again():
            enter(200)
            return get_json(f"{stopping.http}/v1/rooms/lobby/count")["count"] > 0
        wait_until("clients on the restarted node", used_again)

    def test_nginx(self):
        self.check(self.nginx)

    def test_haproxy(self):
        self.check(self.haproxy)

    def test_a_rolling_restart_is_invisible_to_observers(self):
        redis = self.redis()
        # Clients reconnect after one to five seconds. The lease is more than twice as long.
        nodes = [self.server("--ttl", "15s", "--redis", f"redis://127.0.0.1:{redis}") for _ in range(2)]
        port, proxy = self.nginx(nodes)
        wait_until(lambda: f"the proxy accepting connections: {proxy.text()}", lambda: accepts(port))
        users = [f"user{number}" for number in range(CLIENTS)]
        for user in users:
            self.node("reconnecting-websocket.mjs", f"ws://127.0.0.1:{port}/v1/connect?user={user}&room=lobby")

        def incarnations():
            command = ["redis-cli", "-p", str(redis), "SMEMBERS", "presence:{nodes}:incarnations"]
            return set(subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE).stdout.split())
        for restarting, staying in nodes, reversed(nodes):
            observer = self.observer(staying, joins=False)
            observer.sees(*users)
            before = incarnations()
            restarting.restart()
            # When the other node has deleted the old incarnation, users who have not reconnected would have left.
            wait_until("a new incarnation and the end of the old one", lambda: len(incarnations()) == 2 and incarnations() != before)
            connections = [get_json(f"{node.http}/v1/stats")["connections"] for node in nodes]
            self.assertEqual(sum(connections), CLIENTS + 1, "all clients have reconnected, and the observer is connected")
            self.assertEqual([user for user in users if observer.leave_reasons(user)], [])
            observer.close()

    def test_timeouts_are_longer_than_the_ping_interval(self):
        ping = int(re.search(r"--ping-interval.*?\[default: (\d+)s\]", USAGE, re.DOTALL).group(1))
        for name, setting in [("nginx.conf", "proxy_read_timeout"), ("haproxy.cfg", "timeout tunnel")]:
            text = (ROOT / "docs" / name).read_text()
            self.assertGreaterEqual(int(re.search(rf"{setting}\s+(\d+)s", text).group(1)), 2 * ping, name)
