"""What a real Prometheus makes of `/metrics`: promtool accepts it, and docs/monitoring.md lists every metric."""
import os, re, subprocess

from harness import ROOT, wait_until
from monitored import MonitoringCase

TABLE = re.compile(r"<!-- the table of metrics -->\n(.*?)<!-- its end -->", re.DOTALL)
DOCUMENT = ROOT / "docs" / "monitoring.md"
HEAD = "\n| metric | type | labels | meaning |\n|---|---|---|---|\n"


def families(text):
    """The type, the labels and the meaning of each metric."""
    helps = dict(re.findall(r"^# HELP (\S+) (.*)$", text, re.MULTILINE))
    types = dict(re.findall(r"^# TYPE (\S+) (.*)$", text, re.MULTILINE))
    labels = {name: set() for name in types}
    for sample, pairs in re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE):
        family = sample if sample in types else re.sub(r"_(bucket|sum|count)$", "", sample)
        labels[family].update(re.findall(r'(\w+)="', pairs))
    return {name: (types[name], labels[name] - {"le"}, helps[name]) for name in types}


def table(metrics):
    """The table of the document. Standard metrics and those of rollcall stand in the order of their names."""
    def row(name):
        kind, labels, meaning = metrics[name]
        return f"| `{name}` | {kind} | {', '.join(f'`{label}`' for label in sorted(labels))} | {meaning} |\n"
    return HEAD + "".join(map(row, sorted(metrics))) + "\n"


class Metrics(MonitoringCase):
    def all_metrics(self):
        """The texts of servers that together have all metrics, while clients keep the first one busy."""
        loaded = self.loaded(self.redis())
        site = self.application()
        identity = ["--jwks-url", f"{site.url}/keys", "--auth-url", f"{site.url}/auth", "--auth-cookie", "session",
                    "--proxy-protocol"]
        other = self.monitored(*identity, "--trust-proxy", "127.0.0.1")
        for sample in ['rollcall_member_changes_total{change="left"}', "rollcall_redis_keys_written_total",
                       'rollcall_webhook_requests_total{result="delivered"}',
                       'rollcall_pusher_client_events_refused_total{app="1"}',
                       'rollcall_refused_identities_total{reason="wrong_key"}']:
            wait_until(f"{sample} above 0", lambda: (loaded.sample(sample) or 0) > 0)
        return loaded.metrics(), other.metrics()

    def test_promtool_accepts_the_metrics_and_the_document_lists_them(self):
        texts = self.all_metrics()
        for text in texts:
            checked = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True)
            self.assertEqual((checked.returncode, checked.stdout, checked.stderr), (0, "", ""))
        documented = DOCUMENT.read_text()
        expected = table(families(texts[1]) | families(texts[0]))
        if os.environ.get("UPDATE_DOCUMENTS"):
            replacement = "<!-- the table of metrics -->\n" + expected + "<!-- its end -->"
            DOCUMENT.write_text(TABLE.sub(lambda _: replacement, documented))
        found = TABLE.search(DOCUMENT.read_text())
        self.assertIsNotNone(found, "docs/monitoring.md has a table of metrics")
        self.assertEqual(found[1], expected, "run with UPDATE_DOCUMENTS=1 to write the table")
