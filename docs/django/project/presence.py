"""Tells rollcall about sign-outs. They work, and do not wait long, if rollcall does not answer."""
import logging
import urllib.request
from urllib.parse import quote

from django.conf import settings
from django.contrib.auth.signals import user_logged_out
from django.dispatch import receiver

log = logging.getLogger(__name__)
TIMEOUT_SECONDS = 1


@receiver(user_logged_out)
def signed_out(sender, request, user, **_):
    """The user is offline at once, on all nodes that pages of this user may be connected to."""
    if user is not None:
        # The kick makes other windows of this browser reload. Django ends the session only after this signal, which is
        # too late: they would find it and come back online.
        request.session.flush()
        post(f"/v1/users/{quote(user.get_username(), safe='')}/kick")


def post(path):
    headers = {"Authorization": f"Bearer {settings.ROLLCALL_API_KEY}"}
    for node in settings.ROLLCALL_NODES:
        request = urllib.request.Request(node + path, headers=headers, method="POST")
        try:
            urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS).close()
        except OSError as error:
            log.warning("rollcall did not answer %s: %s", path, error)
