"""scripts/cluster: a Redis server and the nodes that share it."""
import contextlib, os, re, signal
from harness import BINARY, Case, DEADLINE, ENVIRONMENT, ROOT, wait_until


def is_running(process):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


class Cluster(Case):
    def setUp(self):
        self.cluster = self.program(ROOT / "scripts" / "cluster", "2", "--", "--ttl", "30s", "--drain", "1s",
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

    def test_a_node_that_dies_is_named_and_ends_the_cluster(self):
        process = self.processes["node2"]
        os.kill(process, signal.SIGKILL)
        self.cluster.expect("its name", lambda line: f"node2 (process {process}) was ended by signal 9" in line)
        self.assert_exits(1)
