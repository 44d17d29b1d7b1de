"""The manifests for Kubernetes: their schemas, how they fit together, and a server with their settings."""
import pathlib, re, subprocess, sys, tomllib

import kubernetes_validate, yaml
from harness import BINARY, Case, DEADLINE, ENVIRONMENT, ROOT, free_port, is_ready, wait_until

FOLDER = ROOT / "deploy/kubernetes"
VERSIONS = ["1.37", "1.30"]
OVERLAYS = [FOLDER / "base", FOLDER / "overlays/example"]
# Of tests/packages/requirements.txt.
KUBECTL = pathlib.Path(sys.executable).with_name("kubectl")
# Below the shortest time that Kubernetes waits before it kills a pod, for a busy machine.
SPARE_SECONDS = 5


def documents(text):
    return [document for document in yaml.safe_load_all(text) if document]


def kustomization(folder):
    return yaml.safe_load((folder / "kustomization.yaml").read_text())


def resources(folder):
    """The resources that a kustomization lists, as they are written."""
    found = []
    for name in kustomization(folder)["resources"]:
        path = (folder / name).resolve()
        found += resources(path) if path.is_dir() else documents(path.read_text())
    return found


def of_kind(kind, found):
    (resource,) = [resource for resource in found if resource["kind"] == kind]
    return resource


def built(folder):
    text = subprocess.run([KUBECTL, "kustomize", folder], capture_output=True, text=True, check=True, timeout=DEADLINE).stdout
    return documents(text)


def seconds(text):
    return int(re.fullmatch(r"(\d+)s", text).group(1))


class Kubernetes(Case):
    def assert_valid(self, resource):
        for version in VERSIONS:
            kubernetes_validate.validate(resource, version, strict=True)

    def test_the_resources_follow_the_schemas(self):
        for folder in OVERLAYS:
            for resource in resources(folder):
                self.assert_valid(resource)

    def test_a_misspelled_field_is_found(self):
        deployment = of_kind("Deployment", resources(FOLDER / "base"))
        deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 30
        with self.assertRaises(kubernetes_validate.ValidationError):
            self.assert_valid(deployment)

    def test_kustomize_builds_them_and_the_results_fit_together(self):
        for folder in OVERLAYS:
            found = built(folder)
            for resource in found:
                self.assert_valid(resource)
            self.assert_fit_together(found)
            settings = of_kind("ConfigMap", found)
            (volume,) = [volume for volume in self.pod(found)["volumes"] if "configMap" in volume]
            self.assertEqual(volume["configMap"]["name"], settings["metadata"]["name"])
            self.assertEqual(settings["data"]["rollcall.toml"], (folder / "rollcall.toml").read_text())
        self.assertEqual(of_kind("Deployment", found)["spec"]["replicas"], 3)
        self.assertEqual({resource["metadata"].get("namespace", "presence") for resource in found}, {"presence"})
        self.assertRegex(self.container(found)["image"], r"^registry\.example\.com/rollcall:\d")

    def test_the_resources_fit_together(self):
        for folder in OVERLAYS:
            self.assert_fit_together(resources(folder))

    @staticmethod
    def pod(found):
        return of_kind("Deployment", found)["spec"]["template"]["spec"]

    def container(self, found):
        (container,) = self.pod(found)["containers"]
        return container

    def assert_fit_together(self, found):
        deployment, pod, container = of_kind("Deployment", found), self.pod(found), self.container(found)
        labels = deployment["spec"]["template"]["metadata"]["labels"]
        selectors = [deployment["spec"]["selector"], of_kind("PodDisruptionBudget", found)["spec"]["selector"],
                     of_kind("NetworkPolicy", found)["spec"]["podSelector"],
                     {"matchLabels": of_kind("Service", found)["spec"]["selector"]}]
        for selector in selectors:
            self.assertEqual(selector, {"matchLabels": labels})
        ports = {port["name"] for port in container["ports"]}
        used = {port["targetPort"] for port in of_kind("Service", found)["spec"]["ports"]}
        used |= {container[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
        used |= {port["port"] for rule in of_kind("NetworkPolicy", found)["spec"]["ingress"] for port in rule["ports"]}
        self.assertEqual(used, ports)
        self.assertEqual(pod["serviceAccountName"], of_kind("ServiceAccount", found)["metadata"]["name"])
        self.assertEqual({mount["name"] for mount in container["volumeMounts"]}, {volume["name"] for volume in pod["volumes"]})
        for ingress in (resource for resource in found if resource["kind"] == "Ingress"):
            (path,) = ingress["spec"]["rules"][0]["http"]["paths"]
            self.assertEqual(path["backend"]["service"]["name"], of_kind("Service", found)["metadata"]["name"])
            self.assertEqual(ingress["spec"]["rules"][0]["host"], ingress["spec"]["tls"][0]["hosts"][0])

    def test_the_pods_have_no_privileges_and_time_to_stop(self):
        for folder in OVERLAYS:
            found, settings = resources(folder), tomllib.loads((folder / "rollcall.toml").read_text())
            pod, container = self.pod(found), self.container(found)
            self.assertEqual(container["securityContext"], {"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True,
                                                            "capabilities": {"drop": ["ALL"]}})
            self.assertEqual(pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
            self.assertTrue(pod["securityContext"]["runAsNonRoot"])
            (user,) = re.findall(r"^USER (\d+):", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[:1]
            self.assertEqual(pod["securityContext"]["runAsUser"], int(user))
            stopping = seconds(settings["drain-delay"]) + seconds(settings["drain"])
            self.assertGreaterEqual(pod["terminationGracePeriodSeconds"], stopping + SPARE_SECONDS)
            probe = container["readinessProbe"]
            self.assertLess(probe["periodSeconds"] * probe["failureThreshold"], seconds(settings["drain-delay"]),
                            "a stopping pod is taken out of the Service while it still serves")

    def test_a_server_with_these_settings_and_secrets_answers_the_probes(self):
        redis = self.redis()
        for folder in OVERLAYS:
            self.assert_serves(folder, redis)

    def assert_serves(self, folder, redis):
        found, container, root = resources(folder), self.container(resources(folder)), self.folder()
        (secrets,) = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "secrets"]
        contents = {"redis": f"redis://127.0.0.1:{redis}", "jwt-secret": "the secret of the application in this test",
                    "api-key": "an api key for this test"}
        text = (folder / "rollcall.toml").read_text()
        named = set(re.findall(rf'"{secrets}/([\w-]+)"', text))
        self.assertEqual(named, set(re.findall(r"--from-file=([\w-]+)", (FOLDER / "base/deployment.yaml").read_text())))
        for name in named:
            (root / name).write_text(contents[name] + "\n")
        numbers = {port["name"]: (port["containerPort"], free_port()) for port in container["ports"]}
        for port, free in numbers.values():
            self.assertIn(f'"0.0.0.0:{port}"', text)
            text = text.replace(f'"0.0.0.0:{port}"', f'"127.0.0.1:{free}"')
        (root / "rollcall.toml").write_text(text.replace(secrets, str(root)).replace('drain-delay = "10s"', 'drain-delay = "0s"'))
        (argument,) = container["args"]
        server = self.program(BINARY, argument.replace("/etc/rollcall", str(root)), env=ENVIRONMENT)
        wait_until(lambda: f"a server: {server.text()}", lambda: is_ready(f"http://127.0.0.1:{numbers['internal'][1]}"))
        for probe in "startupProbe", "livenessProbe", "readinessProbe":
            path, port = container[probe]["httpGet"]["path"], numbers[container[probe]["httpGet"]["port"]][1]
            wait_until(f"{path} of {folder}", lambda: is_ready(f"http://127.0.0.1:{port}", path))
        annotations = of_kind("Deployment", found)["spec"]["template"]["metadata"]["annotations"]
        self.assertEqual(annotations["prometheus.io/port"], str(numbers["internal"][0]))
        self.assertEqual(server.stop(), 0)
        self.assertNotIn("WARN", server.text())
