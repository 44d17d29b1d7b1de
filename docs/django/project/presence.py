"""What rollcall is told when somebody signs in or out. Nobody waits long for it, and nobody is kept out because it is away."""
import logging
import urllib.request
from urllib.parse import quote, urlencode

from django.conf import settings
from django.contrib.auth.signals import user_logged_in, user_logged_out
from django.dispatch import receiver

log = logging.getLogger(__name__)
PATIENCE_SECONDS = 1


@receiver(user_logged_in)
def signed_in(sender, user, **_):
    """Online at once; the page that comes next has a connection, and stays."""
    tell(settings.ROLLCALL_NODES[:1], "/heartbeat", {"user_id": user.get_username()})


@receiver(user_logged_out)
def signed_out(sender, request, user, **_):
    """Offline at once, on every node that a page of this user may be connected to."""
    if user is not None:
        # Django ends the session after this signal; other windows, which the kick has reload, must not find it any more.
        request.session.flush()
        tell(settings.ROLLCALL_NODES, f"/v1/users/{quote(user.get_username(), safe='')}/kick")


def tell(nodes, path, fields=()):
    headers = {"Authorization": f"Bearer {settings.ROLLCALL_ADMIN_TOKEN}"}
    for node in nodes:
        request = urllib.request.Request(node + path, urlencode(fields).encode(), headers, method="POST")
        try:
            urllib.request.urlopen(request, timeout=PATIENCE_SECONDS).close()
        except OSError as error:
            log.warning("rollcall was not told of %s: %s", path, error)
