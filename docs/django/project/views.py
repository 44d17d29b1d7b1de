"""The page: all accounts and which of them are online, for users who are signed in."""
from urllib.parse import parse_qs, urlsplit

from django.conf import settings
from django.contrib.auth import get_user_model
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render


@login_required
def home(request):
    people = get_user_model().objects.order_by("username")
    presence = {"url": settings.ROLLCALL_URL, "user": request.user.get_username()}
    return render(request, "home.html", {"people": people, "presence": presence})


def may_connect(request):
    """Answers a proxy that asks whether a browser may connect to rollcall: only as the user who is signed in."""
    users = parse_qs(urlsplit(request.headers.get("X-Original-URI", "")).query).get("user", [])
    return HttpResponse(status=204 if users == [request.user.get_username()] else 403)
