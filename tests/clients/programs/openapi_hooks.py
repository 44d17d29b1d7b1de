"""What schemathesis has to know about rollcall: valid names, signatures, and rules that no schema can express.

Variables: OPENAPI_AUTH is `none`, `signature`, or the key or token to send; OPENAPI_SECRET is the secret of the
application. With any credential, the alternative of the document that needs none is removed: the server has keys.
"""
import hashlib, hmac, os, re, time, urllib.parse

import requests, schemathesis
from hypothesis import strategies
from schemathesis.specs.openapi.checks import negative_data_rejection

AUTH = os.environ["OPENAPI_AUTH"]
SECRET = os.environ.get("OPENAPI_SECRET", "").encode()
APP_KEY = "app-key"


# schemathesis sometimes sends it as it is, and then it is another name.
ESCAPE = re.compile("%[0-9a-fA-F]{2}")


def names(alphabet, max_size, max_bytes):
    def is_name(text):
        return text.strip() == text and len(text.encode()) <= max_bytes and not ESCAPE.search(text)

    return strategies.text(alphabet=alphabet, min_size=1, max_size=max_size).filter(is_name)


FORMATS = {
    "rollcall-name": names("abcXYZ019-_.:/?#% éß漢😀", 30, 128),
    "rollcall-credential-id": names("abc019é", 60, 256),
    "rollcall-event-data": strategies.text(max_size=100),
    "rollcall-user-channel": strategies.from_regex(r"\A#server-to-user-[a-z0-9]{1,20}\Z"),
    "rollcall-pusher-user": names("abc019é😀 /", 50, 210),
}
for name, strategy in FORMATS.items():
    schemathesis.openapi.format(name, strategy)


class Signature(requests.auth.AuthBase):
    """Signs the query and the body exactly as they are sent, as Pusher's libraries do."""

    def __call__(self, request):
        address = urllib.parse.urlsplit(request.url)
        query = urllib.parse.parse_qsl(address.query, keep_blank_values=True)
        query += [("auth_key", APP_KEY), ("auth_timestamp", str(int(time.time())))]
        body = request.body.encode() if isinstance(request.body, str) else request.body
        if body:
            query.append(("body_md5", hashlib.md5(body).hexdigest()))
        signed = "&".join(f"{name}={value}" for name, value in sorted((name.lower(), value) for name, value in query))
        text = f"{request.method}\n{address.path}\n{signed}".encode()
        query.append(("auth_signature", hmac.new(SECRET, text, hashlib.sha256).hexdigest()))
        request.url = urllib.parse.urlunsplit(address._replace(query=urllib.parse.urlencode(query)))
        return request


if AUTH == "signature":
    schemathesis.auth.set_from_requests(Signature())


@schemathesis.hook
def before_load_schema(context, schema):
    operations = [operation for path in schema["paths"].values() for operation in path.values()]
    for operation in operations if AUTH != "none" else []:
        operation["security"] = [schemes for schemes in operation["security"] if schemes]


@schemathesis.hook
def map_case(context, case):
    """Makes valid what depends on another value or on the time."""
    query, path = case.query or {}, case.operation.path
    attributes = str(query.get("info", "")).replace(",", " ").split()
    if path == "/apps/{app}/channels" and "user_count" in attributes:
        query["filter_by_prefix"] = "presence-a"
    if path == "/apps/{app}/channels/{channel}":
        channel = str((case.path_parameters or {}).get("channel", ""))
        has_users, has_cache = channel.startswith("presence-"), channel.startswith("cache-")
        if not has_users and "user_count" in attributes or not has_cache and "cache" in attributes:
            query["info"] = "subscription_count"
    body = case.body if isinstance(case.body, dict) else {}
    if path == "/v1/revoke" and isinstance(body.get("issued_before"), (int, float)):
        body["issued_before"] = min(body["issued_before"], int(time.time()))
    return case


def has_wrong_format(case):
    """Whether only a format makes a case invalid: schemathesis takes any text for that, and the text may be a name."""
    data = case.meta.phase.data
    scenario = str(getattr(data, "scenario", ""))
    return "FORMAT" in scenario or any("format" in mutation.keywords for mutation in getattr(data, "mutations", ()))


@schemathesis.check
def invalid_data_is_refused(context, response, case):
    if case.meta is not None and case.meta.generation.mode.is_negative and not has_wrong_format(case):
        negative_data_rejection(context, response, case)
