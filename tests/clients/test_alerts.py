"""The alert rules of deploy/prometheus: their unit tests, the document that explains them, and a real Prometheus in
which an alert fires when Redis is stopped."""
import re, subprocess

from harness import ROOT, accepts, free_port, wait_until
from monitored import MonitoringCase

FOLDER = ROOT / "deploy" / "prometheus"
RULES = (FOLDER / "alerts.yaml").read_text()
NAMES = re.findall(r"- alert: (\w+)", RULES)


class Rules(MonitoringCase):
    def promtool(self, *arguments):
        result = subprocess.run(["promtool", *arguments], cwd=FOLDER, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stdout + result.stderr)

    def test_promtool_accepts_the_rules_and_their_tests_pass(self):
        self.promtool("check", "rules", "--lint-fatal", "alerts.yaml")
        self.promtool("test", "rules", "alerts.test.yaml")

    def test_each_rule_has_a_test_and_a_section_of_the_document(self):
        tests = (FOLDER / "alerts.test.yaml").read_text()
        document = (ROOT / "docs" / "alerts.md").read_text()
        self.assertEqual(re.findall(r"^  - name: (Rollcall\w+)$", tests, re.MULTILINE), NAMES)
        self.assertEqual(re.findall(r"^### (\w+)$", document, re.MULTILINE), NAMES)
        links = [f"docs/alerts.md#{name.lower()}" for name in NAMES]
        self.assertEqual(re.findall(r'runbook: "(.*)"', RULES), links)

    def test_rules_and_dashboard_name_only_metrics_that_exist(self):
        documented = set(re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE))
        for file in [FOLDER / "alerts.yaml", ROOT / "deploy" / "grafana" / "rollcall.json"]:
            named = set(re.findall(r"\b(?:rollcall|process)_\w+", file.read_text()))
            named = {re.sub(r"_(bucket|sum|count)$", "", name) for name in named}
            self.assertEqual(named - documented, set(), file.name)


class Firing(MonitoringCase):
    def stoppable_redis(self, port):
        redis = self.program("redis-server", "--port", port, "--bind", "127.0.0.1", "--save", "", cwd=self.folder())
        wait_until(lambda: f"Redis: {redis.text()}", lambda: accepts(port))
        return port, redis

    def test_an_alert_fires_while_redis_is_stopped_and_when_a_node_is_stopped(self):
        port, redis = self.stoppable_redis(free_port())
        server = self.monitored("--open", "--redis", f"redis://127.0.0.1:{port}")
        rules = self.folder() / "alerts.yaml"
        # The minute of the rules would be the longest part of this test. A busy machine may miss some scrapes.
        shortened, count = re.subn(r"for: \d+m", "for: 1s", RULES)
        self.assertGreater(count, 5)
        down = re.compile(r"(alert: RollcallDown\n(?:(?!for:).*\n)*?\s+for: )1s")
        shortened, count = down.subn(r"\g<1>15s", shortened)
        self.assertEqual(count, 1)
        rules.write_text(shortened)
        prometheus = self.prometheus([server], rules)
        wait_until("a scrape", lambda: prometheus.query('rollcall_degraded{job="rollcall"} == 0'))
        loaded = prometheus.api("rules")["groups"][0]["rules"]
        self.assertEqual([rule["name"] for rule in loaded], NAMES)
        # A healthy node: all rules were evaluated after the scrape.
        wait_until("evaluations", lambda: all(
            rule["lastEvaluation"] > loaded[0]["lastEvaluation"] and rule["health"] == "ok"
            for rule in prometheus.api("rules")["groups"][0]["rules"]))
        self.assertEqual(prometheus.firing("RollcallDegraded") + prometheus.firing("RollcallDown"), [])
        redis.stop()
        # An alert ends for a moment when a scrape fails.
        [alert] = wait_until("RollcallDegraded", lambda: prometheus.firing("RollcallDegraded"))
        self.assertEqual(alert["annotations"]["summary"], f"127.0.0.1:{server.internal} does not reach Redis")
        self.stoppable_redis(port)
        wait_until("the end of RollcallDegraded", lambda: not prometheus.firing("RollcallDegraded"))
        server.stop()
        wait_until("RollcallDown", lambda: prometheus.firing("RollcallDown"))
