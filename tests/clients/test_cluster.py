"""scripts/cluster: one Redis and nodes that share it, which end together."""
import contextlib, os, re, signal
from harness import BINARY, Case, DEADLINE, ENVIRONMENT, ROOT, wait_until


def lives(process):
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, 0)
        return True
    return False


class Cluster(Case):
    def setUp(self):
        self.cluster = self.program(ROOT / "scripts" / "cluster", "2", "--", "--ttl", "30s", "--drain", "1s",
                                    env={**ENVIRONMENT, "ROLLCALL_BIN": str(BINARY)})
        self.cluster.said("how to stop it", lambda line: "stop with ctrl-C" in line)
        found = re.findall(r"^(\w+)  (\S.*?)  process (\d+)$", "\n".join(self.cluster.lines), re.MULTILINE)
        self.places = {name: place for name, place, _ in found}
        self.processes = {name: int(process) for name, _, process in found}
        self.assertEqual(set(self.places), {"node1", "node2", "redis"})

    def ends_with(self, code):
        self.cluster.child.wait(DEADLINE)
        self.assertEqual(self.cluster.child.returncode, code, self.cluster.text())
        self.assertEqual([name for name, process in self.processes.items() if lives(process)], [])

    def test_who_is_on_one_node_is_seen_on_the_other_and_ctrl_c_ends_all(self):
        first, second = (self.observer(None, name, websocket=self.places[name].replace("http", "ws")) for name in ["node1", "node2"])
        first.sees("node1", "node2")
        second.sees("node1", "node2")
        self.assertEqual([one.log[0]["node"] for one in (first, second)], ["node1", "node2"])
        self.cluster.child.send_signal(signal.SIGINT)
        self.ends_with(0)
        for observer in first, second:
            wait_until("the end", lambda: observer.ended)
        self.assertEqual([first.ended, second.ended], [1012, 1012])

    def test_it_says_which_has_died(self):
        os.kill(self.processes["node2"], signal.SIGKILL)
        process = self.processes["node2"]
        self.cluster.said("which", lambda line: f"node2 (process {process}) was ended by signal 9" in line)
        self.ends_with(1)
