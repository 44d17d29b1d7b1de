"""Tokens that libraries of third parties issue: a server accepts those of its key, and no others."""
import contextlib, datetime, json, os, re, shutil, subprocess, sys

import joserfc.jwk, joserfc.jwt, jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from websockets.exceptions import InvalidStatus

from harness import Case, DEADLINE, ENVIRONMENT, HERE, PACKAGES, ROOT, connect

SECRET = "the secret of the application in these tests, which is longer than 64 bytes"
RSA = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"]
# The algorithms of each key.
KEYS = {"secret": ["HS256", "HS384", "HS512"], "rsa": RSA, "p256": ["ES256"], "p384": ["ES384"], "ed25519": ["EdDSA"]}


def private_keys():
    keys = {"rsa": rsa.generate_private_key(65537, 2048), "p256": ec.generate_private_key(ec.SECP256R1()),
            "p384": ec.generate_private_key(ec.SECP384R1()), "ed25519": ed25519.Ed25519PrivateKey.generate()}
    pem = serialization.Encoding.PEM
    private = lambda key: key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    public = lambda key: key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    return {name: (private(key).decode(), public(key).decode()) for name, key in keys.items()}


def claims():
    now = datetime.datetime.now(datetime.timezone.utc)
    return {"sub": "alice", "iat": now, "exp": now + datetime.timedelta(minutes=10)}


def seconds(claims):
    return {name: int(value.timestamp()) if hasattr(value, "timestamp") else value for name, value in claims.items()}


def pyjwt(algorithm, key):
    return jwt.encode(claims(), key, algorithm)


def joserfc_token(algorithm, key):
    kind = {"H": "oct", "R": "RSA", "P": "RSA", "E": "EC"}[algorithm[0]] if algorithm != "EdDSA" else "OKP"
    imported = joserfc.jwk.import_key(key, kind)
    return joserfc.jwt.encode({"alg": algorithm}, seconds(claims()), imported, algorithms=[algorithm])


def answer(server, token):
    """The user whom a server welcomes, or the HTTP status with which it refuses."""
    try:
        with connect(f"{server.websocket}/v1/connect", additional_headers={"Authorization": f"Bearer {token}"}) as socket:
            return json.loads(socket.recv(timeout=DEADLINE))["user"]
    except InvalidStatus as refused:
        return refused.response.status_code


class Tokens(Case):
    def servers(self, keys):
        """A server for each key."""
        folder = self.folder()
        (folder / "secret").write_text(SECRET)
        flags = {"secret": ["--jwt-secret-file", folder / "secret"]}
        for name, (_, public) in keys.items():
            (folder / name).write_text(public)
            flags[name] = ["--jwt-public-key", folder / name]
        return {name: self.server(*flag) for name, flag in flags.items()}

    def test_each_algorithm_is_accepted_with_its_key_and_only_with_it(self):
        keys = private_keys()
        servers = self.servers(keys)
        signing = {"secret": SECRET, **{name: private for name, (private, _) in keys.items()}}
        program = self.node("jose.mjs", json.dumps({"secret": SECRET, "keys": signing, "algorithms": KEYS}))
        line = program.expect("tokens", lambda line: line.startswith("{"))
        issued = {("jose", algorithm): token for algorithm, token in json.loads(line).items()}
        for name, algorithms in KEYS.items():
            for algorithm in algorithms:
                issued["pyjwt", algorithm] = pyjwt(algorithm, signing[name])
                issued["joserfc", algorithm] = joserfc_token(algorithm, signing[name])
        self.assertEqual(len(issued), 3 * 12)
        for (library, algorithm), token in issued.items():
            for name, server in servers.items():
                with self.subTest(library=library, algorithm=algorithm, server=name):
                    self.assertEqual(answer(server, token), "alice" if algorithm in KEYS[name] else 401)

    def test_browsers_libraries_send_tokens_as_subprotocols(self):
        server = self.server("--jwt-secret", SECRET)
        protocols = ["presence.v1", f"bearer.{pyjwt('HS256', SECRET)}"]
        with connect(f"{server.websocket}/v1/connect", subprotocols=protocols) as socket:
            self.assertEqual(socket.subprotocol, "presence.v1")
            self.assertEqual(json.loads(socket.recv(timeout=DEADLINE))["user"], "alice")

    def test_unsigned_tokens_and_public_keys_as_secrets_are_refused(self):
        keys = private_keys()
        public = keys["rsa"][1]
        servers = self.servers(keys)
        none = jwt.encode(claims(), None, "none")
        # The libraries refuse to sign with a public key.
        message = jwt.encode(claims(), SECRET, "HS256").rsplit(".", 1)[0]
        import base64, hashlib, hmac
        mac = hmac.new(public.encode(), message.encode(), hashlib.sha256).digest()
        confused = f"{message}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"
        for name, server in servers.items():
            for token in [none, confused, f"{none}AAAA"]:
                self.assertEqual(answer(server, token), 401, name)

    def test_the_examples_of_the_documentation_issue_tokens(self):
        """Runs each example whose language is installed."""
        server = self.server("--jwt-secret", SECRET)
        text = (ROOT / "docs/authentication.md").read_text()
        runs = {"js": ("node", "example.mjs", "console.log(await token('alice'))"),
                "python": (sys.executable, "example.py", "print(token('alice'))"),
                "php": ("php", "example.php", "echo token('alice');"),
                "ruby": ("ruby", "example.rb", "puts token('alice')")}
        environment = {**ENVIRONMENT, "JWT_SECRET": SECRET}
        ran = []
        for language, (program, name, call) in runs.items():
            example = re.search(rf"```{language}\n(.*?)```", text, re.S).group(1)
            if not shutil.which(program):
                continue
            # Node finds the packages above the file.
            folder = self.folder(PACKAGES if language == "js" else None)
            (folder / name).write_text(f"{example}\n{call}\n")
            done = subprocess.run([program, folder / name], capture_output=True, text=True, env=environment)
            self.assertEqual((done.returncode, done.stderr), (0, ""), language)
            self.assertEqual(answer(server, done.stdout.strip()), "alice", language)
            ran.append(language)
        self.assertTrue({"js", "python"} <= set(ran), ran)
