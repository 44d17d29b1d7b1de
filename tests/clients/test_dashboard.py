"""The Grafana dashboard of deploy/grafana: its shape, and each query in a real Prometheus that reads a busy server."""
import itertools, json, math

from harness import ROOT, wait_until
from monitored import MonitoringCase

DASHBOARD = json.loads((ROOT / "deploy" / "grafana" / "rollcall.json").read_text())
PANELS = DASHBOARD["panels"]
GRAPHS = [panel for panel in PANELS if panel["type"] != "row"]
COLUMNS = 24
# The clients reconnect several times in this time.
RATE_INTERVAL = "10s"


def cells(panel):
    place = panel["gridPos"]
    columns, rows = range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"])
    return itertools.product(columns, rows)


class Dashboard(MonitoringCase):
    def test_the_shape_is_what_grafana_expects(self):
        ids = [panel["id"] for panel in PANELS]
        self.assertEqual(len(set(ids)), len(ids), "ids are unique")
        taken = {}
        for panel, cell in ((panel, cell) for panel in PANELS for cell in cells(panel)):
            self.assertLess(cell[0], COLUMNS, panel["title"])
            self.assertEqual(taken.setdefault(cell, panel["title"]), panel["title"], f"two panels at {cell}")
        variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
        self.assertEqual(list(variables), ["datasource", "job", "instance"])
        self.assertEqual(variables["datasource"]["type"], "datasource")
        for panel in GRAPHS:
            with self.subTest(panel["title"]):
                self.assertTrue(panel["description"].endswith("."))
                self.assertTrue(panel["fieldConfig"]["defaults"]["unit"])
                self.assertEqual(panel["datasource"]["uid"], "${datasource}")
                references = [target["refId"] for target in panel["targets"]]
                self.assertEqual(len(set(references)), len(references))
                for target in panel["targets"]:
                    self.assertEqual(target["datasource"]["uid"], "${datasource}")
                    self.assertIn('{job=~"$job", instance=~"$instance"', target["expr"])

    def test_no_panel_is_empty_while_a_server_is_busy(self):
        server = self.loaded(self.redis())
        prometheus = self.prometheus([server])
        queries = [(panel["title"], target["expr"]) for panel in GRAPHS for target in panel["targets"]]
        self.assertGreater(len(queries), len(GRAPHS))
        for title, query in queries:
            for name, value in [("$job", "rollcall"), ("$instance", ".*"), ("$__rate_interval", RATE_INTERVAL)]:
                query = query.replace(name, value)
            self.assertNotIn("$", query)

            def finite():
                samples = prometheus.query(query)
                return [sample for sample in samples if math.isfinite(float(sample["value"][1]))]
            wait_until(f"values for {title}: {query}", finite)
        variables = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]
        self.assertEqual([variable["definition"] for variable in variables], [
            "label_values(rollcall_build_info, job)", 'label_values(rollcall_build_info{job=~"$job"}, instance)'])
        [labels] = prometheus.api("series", **{"match[]": "rollcall_build_info"})
        self.assertEqual((labels["job"], labels["instance"]), ("rollcall", f"127.0.0.1:{server.internal}"))
