"""scripts/cluster: a Redis server and the nodes that share it."""
import contextlib, os, re, shlex, signal, subprocess
from harness import BINARY, Case, DEADLINE, ENVIRONMENT, ROOT, free_port, get_json, reserve, wait_until


def is_running(process):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


class Cluster(Case):
    def start(self, *options):
        # Nodes and clients that get no CPU for seconds must not count as dead.
        flags = ["--ttl", "15s", "--drain", "10s", "--header-timeout", "2m"]
        self.cluster = self.program(ROOT / "scripts" / "cluster", "2", *options, "--", *flags,
                                    env={**ENVIRONMENT, "ROLLCALL_BIN": str(BINARY)})
        self.cluster.expect("how to stop it", lambda line: "stop with ctrl-C" in line)
        found = re.findall(r"^(\w+)  (\S.*?)  process (\d+)$", "\n".join(self.cluster.lines), re.MULTILINE)
        self.addresses = {name: address for name, address, _ in found}
        self.processes = {name: int(process) for name, _, process in found}
        self.assertEqual(set(self.addresses), {"node1", "node2", "redis"})

    def assert_exits(self, code):
        self.cluster.child.wait(DEADLINE)
        self.assertEqual(self.cluster.child.returncode, code, self.cluster.text())
        self.assertEqual([name for name, process in self.processes.items() if is_running(process)], [])

    def test_each_node_shows_the_users_of_the_other_and_ctrl_c_ends_all_processes(self):
        self.start()
        nodes = ["node1", "node2"]
        urls = [self.addresses[node].replace("http", "ws") for node in nodes]
        observers = [self.observer(None, node, websocket=url) for node, url in zip(nodes, urls)]
        for observer in observers:
            observer.sees(*nodes)
        self.assertEqual([observer.messages[0]["node"] for observer in observers], nodes)
        self.cluster.child.send_signal(signal.SIGINT)
        self.assert_exits(0)
        for observer in observers:
            wait_until("a close code", lambda: observer.close_code)
        self.assertEqual([observer.close_code for observer in observers], [1012, 1012])

    def test_the_cluster_survives_a_node_that_dies_and_shows_that_its_users_left(self):
        self.start()
        process = self.processes.pop("node2")
        staying = self.observer(None, "staying", websocket=self.addresses["node1"].replace("http", "ws"))
        lost = self.observer(None, "lost", websocket=self.addresses["node2"].replace("http", "ws"))
        staying.sees("staying", "lost")
        os.kill(process, signal.SIGKILL)
        line = self.cluster.expect("its name", lambda line: f"node2 (process {process}) was ended by signal 9" in line)
        staying.sees_none_of("lost")
        self.assertEqual(staying.leave_reasons("lost"), ["node_lost"])
        # The printed command starts it again.
        again = self.program(*shlex.split(line.split("start it again: ")[1]), cwd=ROOT)
        again.expect("the address", lambda line: "open http://" in line)
        back = self.observer(None, "back", websocket=self.addresses["node2"].replace("http", "ws"))
        staying.sees("back")
        again.stop()
        self.assertTrue(is_running(self.processes["node1"]), self.cluster.text())
        self.cluster.child.send_signal(signal.SIGINT)
        self.assert_exits(0)

    def test_the_cluster_survives_the_death_of_redis_and_ends_with_its_last_node(self):
        self.start()
        os.kill(self.processes["redis"], signal.SIGKILL)
        self.cluster.expect("its name", lambda line: line.startswith("redis (process "))
        for node in ["node1", "node2"]:
            wait_until("degraded", lambda: get_json(f"{self.addresses[node]}/readyz")["status"] == "degraded")
            os.kill(self.processes[node], signal.SIGKILL)
        self.assert_exits(1)

    def test_ports_can_be_chosen_and_ports_in_use_are_named(self):
        while not reserve((port := free_port()) + 1):
            pass
        redis_port = free_port()
        self.start("--port", str(port), "--redis-port", str(redis_port))
        ports = {name: address.rsplit(":", 1)[-1] for name, address in self.addresses.items() if name != "redis"}
        self.assertEqual(ports, {"node1": str(port), "node2": str(port + 1)})
        self.assertIn(f"-p {redis_port}", self.addresses["redis"])
        command = [ROOT / "scripts" / "cluster", "2", "--port", str(port)]
        second = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE,
                                env={**ENVIRONMENT, "ROLLCALL_BIN": str(BINARY)})
        self.assertEqual(second.returncode, 1)
        self.assertIn(f"port {port} is in use; choose other ports with --port", second.stderr)
