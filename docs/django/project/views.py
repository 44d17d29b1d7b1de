"""The page, for those who are signed in: everybody with an account, and who of them is here."""
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
    """For a proxy that asks before it lets somebody through to rollcall: everybody may speak for themselves only."""
    asked = parse_qs(urlsplit(request.headers.get("X-Original-URI", "")).query).get("user", [])
    return HttpResponse(status=204 if asked == [request.user.get_username()] else 403)
